const units = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** Temporal takes no timer of some thousand years, and nobody means one of ten. */
const longestMs = 3650 * units.d;

/** Milliseconds of a duration such as `90s`, `30m`, `1.5h`, `7d`; undefined when it is none, or longer than ten years. */
export function parseDuration(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h|d)$/.exec(text);
  const ms = match ? Number(match[1]) * units[match[2] as keyof typeof units] : undefined;
  return ms !== undefined && ms <= longestMs ? ms : undefined;
}

/** Milliseconds of a duration that the spec's schema has already accepted. */
export function milliseconds(text: string): number {
  const ms = parseDuration(text);
  if (ms === undefined) throw new RangeError(`not a duration: ${text}`);
  return ms;
}
