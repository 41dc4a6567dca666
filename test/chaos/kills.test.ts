/**
 * The kill matrix: each point in a whole upgrade of the sandbox, many points in one and some upgrades side by side. What an
 * upgrade ends as is looked at from outside: fingerprints and rows, or the old world as it was.
 */
import { beforeAll, describe, expect, test } from 'vitest';
import { activityNames } from './activities.ts';
import { typeOf } from './boundary.ts';
import { patienceMs, travel, type Lane, type Met } from './lane.ts';
import { allPoints, mayEndEarly, readPlaces, says, writePlaces, type Point, type Way } from './points.ts';
import { sampled, sampleSize } from './seed.ts';
import { bundleWorkflows } from './stopping.ts';
import { tell } from './table.ts';

const ways = ['forward', 'back'] as const satisfies Way[];
const writing = process.env['PGLEAP_WRITE_BOUNDARIES'] === '1';
/** `all`, or parts of the names of the points that are meant, with `;` between. */
const asked = process.env['PGLEAP_CHAOS_KILLS']?.split(';');

/** Where a half change does most harm: each gets an upgrade of its own, with Temporal's own timeouts. */
const dangerous = new Set(
  [
    'after liftSourceFence, on the way back',
    'inside deployTarget',
    'inside importDump:restore',
    'after journalCommit',
    'inside openTarget',
    'inside rebindOriginal, on the way back',
    'inside replaceClaim',
    'inside restartSource, on the way back',
    'inside restoreTemplate, on the way back',
  ].map((moment) => `worker: ${moment}`),
);

/** What the ways of the matrix do not lead through; each is killed, lost or answered twice elsewhere. */
const elsewhere = new Set([
  // What starts services again: the sandbox's example has none.
  'pauseReconciler',
  'resumeReconciler',
  // After the commit point, back with losses: killed in test/e2e/recover.test.ts, and in the fault matrix.
  'closeTarget',
  'journalBack',
  'lostWrites',
  // Only when restore is begun again, which the target's death brings about.
  'emptyTarget',
  // No workflow calls these: other activities do.
  'findClone',
  'hasVolume',
  'removeVolume',
]);

/** Of each kind of death, without the dangerous ones, when not everything is asked for: another draw each time. */
const draw: Record<Point['victim'], number> = {
  worker: 50,
  Temporal: 7,
  'API server': 7,
  source: 4,
  candidate: 7,
  'candidate pod': 7,
  scratch: 7,
  target: 4,
};

/** Points of one upgrade. The other victims' cost a restart of something each, and a phase may begin anew. */
const workerPoints = 40;
const otherPoints = 6;

const points = writing ? [] : allPoints();

function drawn(): Point[] {
  if (asked !== undefined) {
    return points.filter((point) => asked.some((part) => part === 'all' || says(point).includes(part)));
  }
  if (sampleSize !== undefined) return sampled('kills', points);
  const chosen = new Set(points.filter((point) => dangerous.has(says(point))));
  for (const [victim, size] of Object.entries(draw)) {
    const others = points.filter((point) => point.victim === victim && !chosen.has(point));
    for (const point of sampled(victim, others, size)) chosen.add(point);
  }
  return points.filter((point) => chosen.has(point));
}

/** Worker's points of one moment go together: so no activity needs more attempts than it has. */
function lanes(): Lane[] {
  const all = drawn();
  const alone = sampleSize === undefined ? all.filter((point) => dangerous.has(says(point))) : [];
  const rest = all.filter((point) => !alone.includes(point));
  const ofWorker = rest
    .filter(({ victim }) => victim === 'worker')
    .sort((a, b) => a.moment.localeCompare(b.moment) || points.indexOf(a) - points.indexOf(b));
  const others = rest.filter((point) => point.victim !== 'worker' && !mayEndEarly(point));
  return [
    ...alone.map((point) => ({ way: point.way, points: [point], patient: true })),
    ...rest.filter(mayEndEarly).map((point) => ({ way: point.way, points: [point], patient: false })),
    ...ways.flatMap((way) => {
      const its = ofWorker.filter((point) => point.way === way);
      return chunks(its, workerPoints).map((some) => ({ way, points: some, patient: false }));
    }),
    ...dealt(others).map((some) => ({ way: 'forward' as const, points: some, patient: false })),
  ];
}

function chunks<T>(all: T[], size: number): T[][] {
  const count = Math.ceil(all.length / size);
  return Array.from({ length: count }, (_, index) =>
    all.slice(Math.floor((index * all.length) / count), Math.floor(((index + 1) * all.length) / count)),
  );
}

/** Like cards, so that each hand has several victims, and none has a place twice: what is not killed there is met once. */
function dealt(all: Point[]): Point[][] {
  const hands: Point[][] = Array.from({ length: Math.ceil(all.length / otherPoints) }, () => []);
  for (const point of all) {
    const fits = (hand: Point[]) =>
      hand.length < otherPoints &&
      !hand.some(({ activity, since }) => activity === point.activity && since === point.since);
    const hand = hands.filter(fits).sort((a, b) => a.length - b.length)[0];
    if (hand === undefined) hands.push([point]);
    else hand.push(point);
  }
  return hands;
}

let workflows = '';
beforeAll(async () => {
  const bundle = await bundleWorkflows();
  workflows = bundle.path;
  return bundle.remove;
});

test.runIf(writing)('what an upgrade meets', { timeout: patienceMs(0) * 4 }, async ({ onTestFinished }) => {
  const meet = (way: Way) => travel({ way, points: [], patient: false }, workflows, onTestFinished, []);
  const [forward, back] = await Promise.all([meet('forward'), meet('back')]);
  writePlaces({ forward, back });
});

test.skipIf(writing)('there are points for every activity and every victim', async () => {
  expect(points.length).toBeGreaterThanOrEqual(60);
  expect(new Set(points.map(says)).size).toBe(points.length);
  expect([...dangerous].filter((name) => !points.some((point) => says(point) === name))).toEqual([]);
  for (const victim of Object.keys(draw)) {
    expect(points.filter((point) => point.victim === victim).length, victim).toBeGreaterThanOrEqual(3);
  }
  // The proofs take long as well, each of them.
  const names = points.map(says);
  for (const about of ['source-before', 'source-after', 'trial', 'target']) {
    for (const victim of ['worker', 'Temporal', 'API server', about === 'target' ? 'target' : 'source']) {
      expect(names).toContain(`${victim}: inside fingerprint:${about}`);
    }
  }
  for (const about of ['dump', 'fingerprint-source', 'fingerprint-trial', 'fingerprint-target']) {
    expect(names).toContain(`worker: inside copyOut:${about}`);
  }
  // Only prepare refuses, and from the commit point there is no way back.
  const thatMay = (end: Point['ends'][number]) =>
    points.filter(({ way, ends }) => way === 'forward' && ends.includes(end)).map(says);
  expect(thatMay('refused')).toEqual(['source: inside createCandidate', 'source: inside checkCandidate']);
  expect(thatMay('rolled-back')).toContain('target: inside sweepTarget');
  expect(thatMay('rolled-back')).not.toContain('target: inside openTarget');
  const met = new Set(Object.values(readPlaces()).flatMap((places) => places.map(({ activity }) => typeOf(activity))));
  const table = await activityNames();
  expect([...elsewhere].filter((name) => met.has(name) || !table.includes(name))).toEqual([]);
  expect(table.filter((name) => !met.has(name) && !elsewhere.has(name))).toEqual([]);
});

describe.skipIf(writing).concurrent('upgrades under', () => {
  for (const [index, lane] of lanes().entries()) {
    const name = lane.points.length === 1 ? says(lane.points[0]!) : `${lane.points.length} deaths`;
    const timeout = patienceMs(lane.points.length) + 300_000;
    test(`upgrade ${index + 1}: ${name}`, { timeout }, async (context) => {
      const met: Met[] = [];
      const list = () =>
        tell(
          context,
          'kill matrix',
          ...lane.points.map((point) => {
            const known = met.find((one) => one.point === says(point));
            return {
              point: says(point),
              upgrade: index + 1,
              outcome: known?.outcome || (known ? 'met' : 'not met'),
              answers: known?.answers ?? '',
              'downtime s': known?.downtime ?? '',
              'rows lost': known?.rowsLost ?? '',
            };
          }),
        );
      list();
      try {
        await travel(lane, workflows, context.onTestFinished, met);
      } finally {
        list();
      }
    });
  }
});
