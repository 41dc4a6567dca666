/** The world before the upgrade: what going back must end in, and the comparison that shows whether it did. */
import type { Artifact, BlockVolumeFact, DatabaseFact, PodRef, RouteFact, ServiceFact } from './facts.ts';
import type { Spec } from './spec.ts';

/** Kept in the journal, so that it can be put back, or left behind for good, without Temporal. Holds no secret. */
export interface OldWorld {
  database: DatabaseFact;
  /** At the provider; null when the upgrade goes without a clone, and the provider is not asked. */
  volume: BlockVolumeFact | null;
  cloneLabel: string;
  systemIdentifier: string;
  services: ServiceFact[];
  routes: RouteFact[];
  maintenance: Spec['maintenance'] | null;
  /** Where artifacts lie, on the machine of the worker that keeps them. */
  artifacts: string;
  /** What was copied there, as it was then; missing in journals of older versions. */
  kept?: Artifact[];
  /** Longest downtime that the spec accepts, in milliseconds; null when it names none. */
  maxDowntimeMs: number | null;
  /** When the first service left its count; null before that. */
  downSince: string | null;
  /** SHA-256 of pg_hba.conf before the fence took its place; null while the source was never fenced. */
  hba: string | null;
  /** The candidate that the fence lets in. */
  candidate: PodRef | null;
  /** Of the fenced source; `seconds` is how long it took. */
  fingerprint: { sha512: string; rows: number; seconds: number } | null;
  /** The source's snapshot just before it was proven unchanged: its next transaction id, and those that had not ended. */
  quietAt: string | null;
  /** What the target had counted when it was proven, just before the commit point. */
  opened: WriteCounts | null;
}

/** A server's own counters: rows of each database since its statistics began, and the transaction id that it gives next. */
export interface WriteCounts {
  nextTransaction: string;
  databases: { name: string; inserted: number; updated: number; deleted: number }[];
}

/** What was written since the commit point: upper bounds, for a server's housekeeping counts, too. null: nobody knows. */
export interface Writes {
  at: string;
  transactions: number | null;
  rows: { inserted: number; updated: number; deleted: number } | null;
  databases: WriteCounts['databases'];
  /** Who was connected: `login application from namespace/pod`; null: nobody knows. */
  clients: string[] | null;
  /** Why something is not known. */
  why: string | null;
}

/** Why writes cannot be told, in the form of those that can. */
export function unknownWrites(why: string, at: string): Writes {
  return { at, transactions: null, rows: null, databases: [], clients: null, why };
}

/** What was counted since `before`. Counters that went backwards were begun anew after a crash: then rows are not known. */
export function writesSince(before: WriteCounts | null, now: WriteCounts, clients: string[], at: string): Writes {
  if (before === null) {
    const why = 'nothing was counted when the target was opened';
    return { at, transactions: null, rows: null, databases: [], clients, why };
  }
  const transactions = Number(BigInt(now.nextTransaction) - BigInt(before.nextTransaction));
  const databases = now.databases.map((found) => {
    const known = before.databases.find(({ name }) => name === found.name);
    return {
      name: found.name,
      inserted: found.inserted - (known?.inserted ?? 0),
      updated: found.updated - (known?.updated ?? 0),
      deleted: found.deleted - (known?.deleted ?? 0),
    };
  });
  const anew = databases.some(({ inserted, updated, deleted }) => Math.min(inserted, updated, deleted) < 0);
  if (anew) {
    const why = 'the target’s statistics were begun anew since, as after a crash';
    return { at, transactions, rows: null, databases: [], clients, why };
  }
  const sum = (of: 'inserted' | 'updated' | 'deleted') => databases.reduce((total, one) => total + one[of], 0);
  const rows = { inserted: sum('inserted'), updated: sum('updated'), deleted: sum('deleted') };
  const touched = databases.filter(({ inserted, updated, deleted }) => inserted + updated + deleted > 0);
  return { at, transactions, rows, databases: touched, clients, why: null };
}

/** Writes in one sentence, for people. */
export function writesText({ at, transactions, rows, databases, clients, why }: Writes): string {
  const counted =
    transactions === null
      ? 'How much was written is not known'
      : `At most ${transactions} transactions wrote` +
        (rows === null
          ? ', rows unknown'
          : `: ${rows.inserted} rows inserted, ${rows.updated} updated, ${rows.deleted} deleted` +
            (databases.length === 0 ? '' : ` in ${databases.map(({ name }) => name).join(', ')}`));
  const who =
    clients === null
      ? 'who was connected is not known'
      : clients.length === 0
        ? 'nobody was connected'
        : `connected: ${clients.join(', ')}`;
  return `${counted}${why === null ? '' : ` (${why})`}, as of ${at}; ${who}.`;
}

/** One thing of the old world, as it was and as it is. `equal` is null when nobody could look. */
export interface Compared {
  area: 'volume' | 'database' | 'service' | 'route' | 'data';
  what: string;
  expected: string;
  found: string;
  equal: boolean | null;
}

export function compared(area: Compared['area'], what: string, expected: string, found: string): Compared {
  return { area, what, expected, found, equal: expected === found };
}

/** Hashes are compared whole, and shown by their beginning. */
export function comparedHash(area: Compared['area'], what: string, expected: string, found: string): Compared {
  return { area, what, expected: expected.slice(0, 16), found: found.slice(0, 16), equal: expected === found };
}

/** A thing that could not be looked at. */
export function unseen(area: Compared['area'], what: string, expected: string, why: string): Compared {
  return { area, what, expected, found: why, equal: null };
}

/** Whether all of an area was seen to be as it was. */
export function isAsBefore(list: readonly Compared[], area: Compared['area']): boolean {
  return list.every((one) => one.area !== area || one.equal === true);
}

/** Whether nothing differs, and what a database needs was seen: its volume, its server, its services. */
export function standsAgain(list: readonly Compared[]): boolean {
  return list.every(({ area, equal }) => equal === true || (equal === null && (area === 'route' || area === 'data')));
}

/** What is not as it was, or could not be seen; one line each. */
export function differencesText(list: readonly Compared[]): string[] {
  return list
    .filter(({ equal }) => equal !== true)
    .map(({ what, expected, found, equal }) =>
      equal === null ? `${what}: not seen (${found})` : `${what}: was ${expected}, is ${found}`,
    );
}

/** Routes by what they lead to: one that was replaced and put back has another id. */
export function compareRoutes(before: readonly RouteFact[], now: readonly RouteFact[]): Compared[] {
  const says = (route: RouteFact | undefined) =>
    route?.prior ? (route.prior.script === null ? 'a route without a Worker' : route.prior.script) : 'no route';
  return before.map((route) =>
    compared(
      'route',
      `route ${route.pattern}`,
      says(route),
      says(now.find(({ pattern }) => pattern === route.pattern)),
    ),
  );
}

/** Which volume the database is on after going back. `original-static`: the original volume under a new PV. */
export type VolumeUsed = 'original' | 'original-static' | 'clone';

export interface Rebound {
  volume: VolumeUsed;
  /** The volume that services wrote to, when the commit point was passed: it is kept. */
  kept: { pv: string; handle: string } | null;
}

export interface SourceSeen {
  pod: PodRef;
  podIp: string;
  versionNum: number;
  systemIdentifier: string;
  /** Its snapshot, like `quietAt`. */
  nextTransaction: string;
  /** SHA-256 of pg_hba.conf as it is. */
  hba: string;
  /** Whether it takes connections over TCP. */
  takesLogins: boolean;
}

/** What was switched off again, for people. */
export function switchedOffText(what: readonly string[]): string {
  return `Off before the upgrade, switched on since, and off again: ${what.join(', ')}.`;
}

/** What going back came to. */
export interface Back {
  /** The old world as it was and as it is now. */
  compared: Compared[];
  /** null when the volume was never replaced. */
  volume: VolumeUsed | null;
  kept: Rebound['kept'];
  /** Label of the clone, when it is kept because the data of the original volume was not seen to be as before. */
  cloneKept: string | null;
  /** What was written after the commit point and is lost to the services; null when it was not passed. */
  lostWrites: Writes | null;
  /** What was off before the upgrade, on when the way back after the commit point began, and is off again. */
  switchedOff: string[];
  /** Runs that CronJobs missed meanwhile, a sentence each. */
  missedRuns: string[];
}

/** Why a clone is still there, and what to do about it, for people. */
export function cloneKeptText(label: string): string {
  return (
    `The data was not seen to be what was fingerprinted, so the clone ${label} is kept at the provider, if it was begun: it is the other ` +
    'copy of the volume, and costs until somebody removes it by hand, as docs/rollback.md says.'
  );
}
