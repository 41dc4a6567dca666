/** Milliseconds that a Retry-After header (seconds or a date) asks for, at most 15 minutes. */
export function retryAfterMs(header: string | null | undefined, otherwise: number): number {
  if (header === null || header === undefined || header === '') return otherwise;
  const seconds = Number(header);
  const ms = Number.isFinite(seconds) ? seconds * 1000 : Date.parse(header) - Date.now();
  return Number.isFinite(ms) ? Math.min(Math.max(ms, 1000), 900_000) : otherwise;
}
