/** Versions of PostgreSQL, and which way an upgrade may go. */

/** The oldest source that the checks and the fingerprint know. */
export const oldestSource = 12;

/** 160014 → 16. */
export function majorOf(versionNum: number): number {
  return Math.floor(versionNum / 10_000);
}

/** 160014 → `16.14`, as people write it. */
export function versionText(versionNum: number): string {
  return `${majorOf(versionNum)}.${versionNum % 10_000}`;
}

/** Major from an image's tag, as in `postgres:18`, `registry:5000/team/postgres:18.4-alpine@sha256:…`; null when the tag does not say. */
export function majorOfImage(image: string): number | null {
  const [name = ''] = image.split('@');
  const tag = /:([^:/]+)$/.exec(name)?.[1];
  const major = tag === undefined ? undefined : /^(?:v|pg)?(\d{1,2})(?:\.\d+)*(?:[-_.](?!\d)|$)/.exec(tag)?.[1];
  return major === undefined ? null : Number(major);
}

/** Why an upgrade between these majors is refused, in one sentence; null when it may go on. What is no number is refused, too. */
export function whyNotUpgrade(source: number, target: number): string | null {
  if (source === target) {
    return `the source is ${source} already: pgleap changes majors; a new minor needs only the new image and a restart`;
  }
  if (!(target > source))
    return `the target ${target} is older than the source ${source}: PostgreSQL only goes upwards`;
  if (!(source >= oldestSource)) return `the source is ${source}; pgleap knows ${oldestSource} and later`;
  return null;
}

/**
 * All supported majors get their minors on one day. Minor of 18 (which may be negative) that came out with a minor of
 * another major: 18.4, 17.10, 16.14 and 15.18 are of one day.
 */
const ahead: Record<number, number> = { 12: 26, 13: 22, 14: 19, 15: 14, 16: 10, 17: 6, 18: 0 };

/** Larger for what came out later; null for majors whose calendar is not known here. */
function dayOf(version: number): number | null {
  const major = majorOf(version);
  const before = ahead[major];
  if (before === undefined) return null;
  const minor = version % 10_000;
  // 18.5 was never released: 18.6 is of the day of 17.11.
  return minor - before - (major === 18 && minor > 5 ? 1 : 0);
}

/**
 * Whether `client` came out before `server`, which may be of another major. Such a client can write out what only the newer
 * server knows. null for majors whose calendar is not known here.
 */
export function cameOutBefore(client: number, server: number): boolean | null {
  const [clients, servers] = [dayOf(client), dayOf(server)];
  return clients === null || servers === null ? null : clients < servers;
}

/**
 * Whether PostgreSQL of this version came out before 17.12. That one and what came out with it keep a mark in the options of
 * nearly each column, `pg_attver`, which an older pg_dump writes out as an option that no server takes. Seen with Debian's
 * 17.12 and 18.6.
 */
export function tripsOverColumnMarks(version: number): boolean {
  return cameOutBefore(version, 170_012) === true;
}
