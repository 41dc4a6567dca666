/**
 * The points of the kill matrix, made from boundaries.json: what a whole upgrade and a whole way back of the sandbox met when
 * nothing harmed them. `PGLEAP_WRITE_BOUNDARIES=1` writes it anew.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { typeOf, type Boundary, type Place } from './boundary.ts';

export type Victim =
  'worker' | 'Temporal' | 'API server' | 'source' | 'candidate' | 'candidate pod' | 'scratch' | 'target';

/** An upgrade that goes straight to its end, or one that is rejected at gate reopen: then the way back is meant. */
export type Way = 'forward' | 'back';

export interface Point {
  way: Way;
  victim: Victim;
  activity: string;
  /** The first activity of this name after that one was begun; null: the first of all. */
  since: string | null;
  /**
   * `inside`: it has made its first change or started its job, and goes on, or has measured something; `looking`: it only looks and waits.
   * `after`: done, but not yet told.
   */
  moment: Boundary['moment'];
  /** How an upgrade may end that met it. */
  ends: readonly Outcome[];
}

type Outcome = 'upgraded' | 'rolled-back' | 'refused';

export function says({ way, victim, activity, since, moment }: Point): string {
  const where = moment === 'looking' ? 'inside' : moment;
  return `${victim}: ${where} ${activity}${since === null ? '' : ` (after ${since})`}${way === 'back' ? ', on the way back' : ''}`;
}

/**
 * A place but once: people and the old world’s journal are told at almost every step; the others overlap in quiesce, or in
 * backup, trial and halt, and are told apart by what they are about.
 */
const once = new Set([
  'notify',
  'journalUndo',
  'journalUndone',
  'journalOld',
  'observeService',
  'fingerprint',
  'copyOut',
  'suspendCronJob',
]);

/** Of what the way back looks at all at once, it is chance what begins first: nothing is known by coming after it. */
const besideOthers = new Set([...once, 'compareOldWorld', 'inspectRoutes', 'removeClone', 'verifyRoutes']);

/** Only where the next transaction’s id is not that of the backup, which housekeeping decides, too. */
const byChance = new Set(['fingerprint:source-halt']);

/** From and to which activity a victim is there to be harmed. */
const lives: Record<Exclude<Victim, 'worker'>, [from: string, to: string]> = {
  Temporal: ['takeLease', 'closeJournal'],
  'API server': ['takeLease', 'closeJournal'],
  source: ['createCandidate', 'haltDatabase'],
  candidate: ['checkCandidate', 'haltDatabase'],
  'candidate pod': ['checkCandidate', 'deployTarget'],
  scratch: ['dump', 'deployTarget'],
  target: ['copyIn', 'observeDatabase'],
};

const file = new URL('boundaries.json', import.meta.url);

/** One line a place: `activity [long] moment…`. */
export function readPlaces(): Record<Way, Place[]> {
  const kept = JSON.parse(readFileSync(file, 'utf8')) as Record<Way, string[]>;
  const places = (way: Way) =>
    kept[way].map((line): Place => {
      const [activity = '', ...words] = line.split(' ');
      const moments = words.filter((word) => word !== 'long') as Place['moments'];
      return { activity, long: words.includes('long'), moments };
    });
  return { forward: places('forward'), back: places('back') };
}

export function writePlaces(places: Record<Way, Place[]>): void {
  const lines = (way: Way) =>
    places[way].map(({ activity, long, moments }) => [activity, ...(long ? ['long'] : []), ...moments].join(' '));
  writeFileSync(
    file,
    `${JSON.stringify({ forward: lines('forward'), back: lines('back') }, null, 2)}
`,
  );
}

/** Every distinct place of a worker's death, and the other victims' inside all that takes long. */
export function allPoints(): Point[] {
  const { forward, back } = readPlaces();
  const straight = distinct(forward);
  const indexOf = (activity: string) => straight.findIndex((place) => place.activity === activity);
  const [prepared, committed] = [indexOf('checkCandidate'), indexOf('journalCommit')];
  /** A crash of the database may change data for good. In prepare a check refuses then; later, to the commit point, a person. */
  const endsAfterCrash = (index: number): Outcome[] => {
    if (index > committed) return ['upgraded'];
    return ['upgraded', index > prepared ? 'rolled-back' : 'refused'];
  };
  return [
    ...straight.flatMap((place) => workerPoints('forward', place)),
    ...distinct(back).flatMap((place) => workerPoints('back', place)),
    ...Object.entries(lives).flatMap(([victim, [from, to]]) => {
      const [first, last] = [indexOf(from), indexOf(to)];
      return straight.flatMap(({ activity, since, long, moments }, index): Point[] => {
        if (index < first || index >= last || !long || !moments.includes('inside')) return [];
        const ends = isDatabase(victim) ? endsAfterCrash(index) : (['upgraded'] as const);
        return [{ way: 'forward', victim: victim as Victim, activity, since, moment: 'inside', ends }];
      });
    }),
  ];
}

function isDatabase(victim: string): boolean {
  return victim === 'source' || victim === 'target';
}

/** What a crash of the database does to its data may leave only the way back. */
export function mayEndEarly({ victim }: Point): boolean {
  return isDatabase(victim);
}

type Distinct = Place & Pick<Point, 'since'>;

function workerPoints(way: Way, { activity, since, moments, long }: Distinct): Point[] {
  const looks = long && !moments.includes('inside');
  return moments
    .filter((moment) => moment !== 'looking' || looks)
    .map((moment) => {
      const ends = [way === 'forward' ? 'upgraded' : 'rolled-back'] as const;
      return { way, victim: 'worker', activity, since, moment, ends };
    });
}

/**
 * What runs several times at once, for each service or route, counts once. What runs again later is known by what began before
 * it: counting would go wrong when a phase is begun again.
 */
function distinct(places: Place[]): Distinct[] {
  const times = new Map<string, number>();
  for (const { activity } of places) times.set(activity, (times.get(activity) ?? 0) + 1);
  let landmark: string | null = null;
  const last = new Map<string, string | null>();
  return places.flatMap((place) => {
    const { activity } = place;
    if (byChance.has(activity)) return [];
    if (times.get(activity) === 1 && !besideOthers.has(typeOf(activity))) landmark = activity;
    const known = last.get(activity);
    if (known !== undefined && (once.has(typeOf(activity)) || known === landmark)) return [];
    last.set(activity, landmark);
    return [{ ...place, since: known === undefined ? null : landmark }];
  });
}
