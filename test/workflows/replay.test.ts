/** The workflow of now takes the same decisions as the one that made these histories. */
import { Worker } from '@temporalio/worker';
import { expect, test } from 'vitest';
import { bundle } from './harness.ts';
import { keptHistories } from './histories.ts';

test('every kept history replays', async () => {
  const histories = await keptHistories();
  expect(histories.length).toBeGreaterThan(30);
  const outcomes: Record<string, string> = {};
  for await (const { workflowId, error } of Worker.runReplayHistories({ workflowBundle: await bundle() }, histories)) {
    outcomes[workflowId] = error?.message ?? 'same';
  }
  expect(outcomes).toEqual(Object.fromEntries(histories.map(({ workflowId }) => [workflowId, 'same'])));
});
