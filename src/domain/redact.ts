/*
 * Each pattern has a bound on what it looks at before it is sure, and takes everything up to the end where something is not
 * closed: text from outside may be long, cut anywhere, and made to let a regular expression run for hours.
 */
const patterns: readonly [RegExp, string][] = [
  [/-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|$)/g, '***'],
  [/SCRAM-SHA-256\$[^\s'"]+/g, '***'],
  [/\bmd5[0-9a-f]{32}\b/g, '***'],
  [/\beyJ[\w-]{7,}[\w.-]*/g, '***'],
  [/\b(authorization["']?\s{0,5}[:=]\s{0,5}["']?)[^"'\r\n]+/gi, '$1***'],
  [/\b(bearer|basic)\s{1,5}[\w.~+/=-]{8,}/gi, '$1 ***'],
  [
    /((?:password|passwd|passphrase|secret|token|api[_-]?key|private[_-]?key)\w{0,60}["']?\s{0,9}(?:[=:]\s{0,9}|\s(?=E?')))(E?'(?:[^'\\]|''|\\[\s\S])*(?:'|\\?$)|"(?:[^"\\]|\\[\s\S])*(?:"|\\?$)|[^\s'",;]+)/gi,
    '$1***',
  ],
];

/**
 * Takes what looks like a secret out of text that comes from outside: logs, stderr, error messages. A net under the rule
 * that secrets are not read in the first place, not a replacement for it. Takes time in proportion to the text.
 */
export function redact(text: string): string {
  const withoutLogins = text.replaceAll(
    /\b([a-z][a-z0-9+.-]{0,30}:\/\/)(\S+)/gi,
    (_, scheme: string, rest: string) => scheme + withoutLogin(rest),
  );
  return patterns.reduce((left, [pattern, instead]) => left.replaceAll(pattern, instead), withoutLogins);
}

/** Up to the last @, because a password may hold one. */
function withoutLogin(rest: string): string {
  const colon = /^[^\s:/@]{0,256}:/.exec(rest)?.[0].length;
  const at = rest.lastIndexOf('@');
  return colon === undefined || at <= colon ? rest : `${rest.slice(0, colon)}***${rest.slice(at)}`;
}

/** Whether the value of a server's setting is better never read: extensions and applications keep keys in settings, too. */
export function mayHoldSecret(name: string, value: string): boolean {
  // Only names the way of hashing.
  if (name.toLowerCase() === 'password_encryption') return false;
  if (/conninfo|passphrase|passw|pwd|secret|token|credential|jwt|keys?$/i.test(name)) return true;
  const line = `${name} = '${value}'`;
  return redact(line) !== line;
}
