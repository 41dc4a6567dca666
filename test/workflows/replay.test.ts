/** The workflow of now takes the same decisions as the one that made these histories. */
import { readdir, readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { Worker } from '@temporalio/worker';
import { expect, test } from 'vitest';
import { gates, phases } from '../../src/domain/phases.ts';
import { bundle } from './harness.ts';
import { keptHistories } from './histories.ts';

const histories = await keptHistories();

/** Every way through an upgrade whose history is kept. */
const ways = [
  'straight',
  'two-approvals',
  'messages-refused',
  'without-clone',
  'refused-by-target-image',
  ...gates.map(({ name }) => `rejected-at-${name}`),
  // Asked again, because the yes was too old for what it was given to.
  'lapsed-at-begin',
  'lapsed-at-replace',
  'lapsed-in-replace',
  'lapsed-in-reopen',
  'lapsed-in-cleanup',
  // Preflight changes nothing, and cleanup cannot be undone: before it there is its gate.
  ...phases.flatMap(({ name }) => (name === 'preflight' || name === 'cleanup' ? [] : [`rolled-back-in-${name}`])),
  'rolled-back-at-cleanup',
  'rolled-back-with-more-on',
  'rolled-back-with-its-loss-kept',
  'rolled-back-by-policy',
  'rolled-back-by-downtime',
  'cancelled',
  'undo-retried',
  'undo-aborted',
  'parked-in-every-phase',
  'parked-and-rolled-back',
  'changed-before-halt',
  'retried-by-policy',
  'downtime-exceeded',
  'aborted',
  'lost-imports',
  'lost-scratch',
  'reset-to-preflight',
  'reset-to-prepare',
  'reset-to-begin',
  'reset-to-backup',
  'reset-to-restore',
  'reset-to-reopen',
  'reset-to-reopen-and-rejected',
];

test('every kept history replays', async () => {
  const outcomes: Record<string, string> = {};
  const workflowBundle = await bundle(undefined, [fileURLToPath(new URL('run-ids.ts', import.meta.url))]);
  for await (const { workflowId, error } of Worker.runReplayHistories({ workflowBundle }, histories)) {
    outcomes[workflowId] = error?.message ?? 'same';
  }
  // Two of one id would hide each other.
  expect(Object.keys(outcomes)).toHaveLength(histories.length);
  expect(outcomes).toEqual(Object.fromEntries(histories.map(({ workflowId }) => [workflowId, 'same'])));
});

test('every way has its history, and so has every patch, as it was passed', async () => {
  expect(histories.map(({ name }) => name).toSorted()).toEqual(ways.toSorted());

  const folder = new URL('../../src/workflows/', import.meta.url);
  const files = (await readdir(folder, { recursive: true })).filter((file) => file.endsWith('.ts'));
  const code = await Promise.all(files.map((file) => readFile(new URL(file, folder), 'utf8')));
  const patches = code.flatMap((text) => [...text.matchAll(/\bpatched\(\s*'([^']+)'/g)].map(([, id]) => id));
  expect(patches.length).toBeGreaterThan(0);
  const passed = new Set(histories.flatMap((history) => history.patches));
  expect(patches.filter((id) => id === undefined || !passed.has(id))).toEqual([]);
});
