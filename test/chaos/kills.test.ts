/**
 * The kill matrix: each point in a whole upgrade of the sandbox, many points in one and some upgrades side by side. What an
 * upgrade ends as is looked at from outside: fingerprints and rows, or the old world as it was.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { bundleWorkflowCode, DefaultLogger } from '@temporalio/worker';
import { beforeAll, describe, expect, test } from 'vitest';
import { travel, type Lane, type Met } from './lane.ts';
import { allPoints, says, type Point } from './points.ts';
import { sampled, sampleSize } from './seed.ts';
import { tell } from './table.ts';

/** Where a half change does most harm: each gets an upgrade of its own, with Temporal's own timeouts. */
const dangerous = new Set(
  [
    'after liftSourceFence, on the way back',
    'inside deployTarget',
    'inside importDump 2',
    'after journalCommit',
    'inside openTarget',
    'inside rebindOriginal, on the way back',
    'inside replaceClaim',
    'inside restartSource, on the way back',
    'inside restoreTemplate, on the way back',
  ].map((moment) => `worker: ${moment}`),
);

const workerPoints = 40;
/** Each of these costs a restart of something, and a phase may begin anew. */
const otherPoints = 6;

const points = await allPoints();
const drawn = sampled('kills', points);

/** Worker's points of one moment go together: so no activity needs more attempts than it has. */
function lanes(): Lane[] {
  const alone = sampleSize === undefined ? drawn.filter((point) => dangerous.has(says(point))) : [];
  const rest = drawn.filter((point) => !alone.includes(point));
  const byWorker = (way: Point['way']) =>
    rest
      .filter(({ victim, way: its }) => victim === 'worker' && its === way)
      .sort((a, b) => a.moment.localeCompare(b.moment));
  const others = rest.filter(({ victim }) => victim !== 'worker');
  return [
    ...alone.map((point) => ({ points: [point], patient: true })),
    ...chunks(byWorker('forward'), workerPoints),
    ...chunks(byWorker('back'), workerPoints),
    ...dealt(others, Math.ceil(others.length / otherPoints)),
  ];
}

function chunks(all: Point[], size: number): Lane[] {
  const count = Math.ceil(all.length / size);
  return Array.from({ length: count }, (_, index) => ({
    points: all.slice(Math.floor((index * all.length) / count), Math.floor(((index + 1) * all.length) / count)),
    patient: false,
  }));
}

/** Like cards, so that each hand has several victims. */
function dealt(all: Point[], hands: number): Lane[] {
  return Array.from({ length: hands }, (_, hand) => ({
    points: all.filter((_point, index) => index % hands === hand),
    patient: false,
  }));
}

let workflows = '';
beforeAll(async () => {
  const folder = await mkdtemp(join(tmpdir(), 'pgleap-workflows-'));
  workflows = join(folder, 'workflows.js');
  const workflowsPath = join(import.meta.dirname, '..', '..', 'src', 'workflows', 'index.ts');
  const { code } = await bundleWorkflowCode({ workflowsPath, logger: new DefaultLogger('WARN') });
  await writeFile(workflows, code);
  return () => rm(folder, { recursive: true, force: true });
});

test('there are points for every victim', () => {
  expect(points.length).toBeGreaterThanOrEqual(60);
  expect(new Set(points.map(says)).size).toBe(points.length);
  expect(new Set(points.map(({ victim }) => victim)).size).toBe(8);
});

describe.concurrent('upgrades under', () => {
  for (const [index, lane] of lanes().entries()) {
    const name = lane.points.length === 1 ? says(lane.points[0]!) : `${lane.points.length} deaths`;
    test(`upgrade ${index + 1}: ${name}`, { timeout: 600_000 + lane.points.length * 75_000 }, async (context) => {
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
