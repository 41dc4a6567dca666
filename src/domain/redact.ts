/**
 * Takes what looks like a secret out of text that comes from outside: logs, stderr, error messages. A net under the rule
 * that secrets are not read in the first place, not a replacement for it.
 */
export function redact(text: string): string {
  return text
    .replaceAll(/(\b[a-z][a-z0-9+.-]*:\/\/[^\s:/@]*):[^\s@]+@/gi, '$1:***@')
    .replaceAll(/SCRAM-SHA-256\$[^\s'"]+/g, '***')
    .replaceAll(/\bmd5[0-9a-f]{32}\b/g, '***')
    .replaceAll(/\beyJ[\w-]+\.[\w-]+\.[\w-]*/g, '***')
    .replaceAll(/\b(bearer|basic)\s+[\w.~+/=-]{8,}/gi, '$1 ***')
    .replaceAll(
      /\b(\w*(?:password|passwd|secret|token|api_?key|private_?key)\w*["']?\s*(?:[=:]\s*|\s+(?=')))('(?:[^']|'')*'|"[^"]*"|[^\s'",;]+)/gi,
      '$1***',
    );
}

/** Whether the value of a server's setting is better never read: extensions and applications keep keys in settings, too. */
export function mayHoldSecret(name: string, value: string): boolean {
  // Only names the way of hashing.
  if (name.toLowerCase() === 'password_encryption') return false;
  if (/conninfo|passphrase|passw|pwd|secret|token|credential|jwt|keys?$/i.test(name)) return true;
  const line = `${name} = '${value}'`;
  return redact(line) !== line;
}
