/** The points of the kill matrix, made from what kept histories of a whole upgrade and of a whole way back had done. */
import { scheduledIn } from '../workflows/histories.ts';

export type Victim =
  'worker' | 'Temporal' | 'API server' | 'source' | 'candidate' | 'candidate pod' | 'scratch' | 'target';

export interface Point {
  /** An upgrade that goes straight to its end, or one that is rejected at gate reopen: then the way back is meant. */
  way: 'forward' | 'back';
  victim: Victim;
  activity: string;
  /** Of the activities of this name, in the order they began; in the way back counted from its beginning. */
  nth: number;
  /** `inside`: it has made its first change and goes on, or has measured something. `after`: done, but not yet told. */
  moment: 'before' | 'inside' | 'after';
}

export function says({ way, victim, activity, nth, moment }: Point): string {
  return `${victim}: ${moment} ${activity}${nth === 1 ? '' : ` ${nth}`}${way === 'back' ? ', on the way back' : ''}`;
}

/** These change nothing and measure nothing; inside is between their first looks. */
export const onlyLook = new Set(['awaitDetached', 'awaitClone', 'verifyRoutes', 'compareOldWorld']);

/** The journal and people are told at almost every step, a service or a route each by its own. */
const many = new Set(['notify', 'journalUndo', 'journalUndone', 'journalOld', 'observeService']);

/** Longer than a few calls, by the time that one attempt may take. */
const longSeconds = 600;

/** From and to which activity of the straight history a victim is there to be harmed. */
const lives: Record<Exclude<Victim, 'worker'>, [from: string, to: string]> = {
  Temporal: ['takeLease', 'closeJournal'],
  'API server': ['takeLease', 'closeJournal'],
  source: ['createCandidate', 'haltDatabase'],
  candidate: ['checkCandidate', 'haltDatabase'],
  'candidate pod': ['checkCandidate', 'deployTarget'],
  scratch: ['dump', 'deployTarget'],
  target: ['copyIn', 'observeDatabase'],
};

/** Every distinct place of a worker's death, and the other victims' inside all that takes long. */
export async function allPoints(): Promise<Point[]> {
  const straight = places(await scheduledIn('straight'));
  const whole = await scheduledIn('rejected-at-reopen');
  const turn = whole.findIndex(({ activity }) => activity === 'readJournal');
  const back = places(whole.slice(turn));
  return [
    ...straight.flatMap((place) => workerPoints('forward', place)),
    ...back.flatMap((place) => workerPoints('back', place)),
    ...Object.entries(lives).flatMap(([victim, [from, to]]) => {
      const first = straight.findIndex(({ activity }) => activity === from);
      const last = straight.findIndex(({ activity }) => activity === to);
      return straight
        .slice(first, last)
        .filter(({ long, activity }) => long && !onlyLook.has(activity))
        .map(({ activity, nth }): Point => {
          return { way: 'forward', victim: victim as Victim, activity, nth, moment: 'inside' };
        });
    }),
  ];
}

interface Place {
  activity: string;
  nth: number;
  long: boolean;
}

function workerPoints(way: Point['way'], { activity, nth, long }: Place): Point[] {
  const moments = long ? (['before', 'inside', 'after'] as const) : (['before', 'after'] as const);
  return moments.map((moment) => ({ way, victim: 'worker', activity, nth, moment }));
}

/** What runs several times at once, for each service or route, counts once. */
function places(scheduled: { activity: string; longSeconds: number }[]): Place[] {
  const counts = new Map<string, number>();
  const parallel = new Set(many);
  scheduled.forEach(({ activity }, index) => {
    if (scheduled[index + 1]?.activity === activity) parallel.add(activity);
  });
  return scheduled.flatMap(({ activity, longSeconds: seconds }) => {
    const nth = (counts.get(activity) ?? 0) + 1;
    counts.set(activity, nth);
    if (nth > 1 && parallel.has(activity)) return [];
    return [{ activity, nth, long: seconds > longSeconds }];
  });
}
