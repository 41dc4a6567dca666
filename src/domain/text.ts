/** Numbers and names as people read them, the same in terminal, Web UI and report. */

/** NAMESPACE/WORKLOAD, as commands take it. */
export function placeOf(workflowId: string): string {
  return workflowId.replace(/^pgleap\//, '');
}

/** `512 B`, `34.5 MB`, `1.2 GB` (powers of 1000); `unknown` for null. */
export function bytesText(bytes: number | null): string {
  if (bytes === null) return 'unknown';
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit] ?? ''}`;
}

/** `1,234,567`. */
export function countText(count: number): string {
  return String(count).replaceAll(/\B(?=(\d{3})+$)/g, ',');
}

/** How many of a list's entries are kept and shown; its length is always kept beside them. */
const listed = 20;

/** The first entries of a list that may be of any length, and as the last one how many more there are of `total`. */
export function firstOf(list: string[], total = list.length): string[] {
  const first = list.slice(0, listed);
  return total > first.length ? [...first, `and ${countText(total - first.length)} more`] : first;
}

/** `2026-11-22 13:45:10 UTC`. */
export function timeText(iso: string): string {
  return `${iso.slice(0, 10)} ${iso.slice(11, 19)} UTC`;
}

/** `13:45:10 UTC`. */
export function clock(iso: string): string {
  return `${iso.slice(11, 19)} UTC`;
}

/** Seconds as people say them: `8.2 s`, `3 min 20 s`, `2 h 5 min`. */
export function duration(seconds: number): string {
  if (seconds < 60) return `${Math.round(seconds * 10) / 10} s`;
  const whole = Math.round(seconds);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}
