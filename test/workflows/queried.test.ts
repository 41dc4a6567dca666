/** A query that waits for a worker while the upgrade's time goes on does not break the upgrade. */
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { askedTooEarly } from '../../src/domain/asked-too-early.ts';
import { allAuto } from './expectations.ts';
import { startHarness, type Harness } from './harness.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness('queried');
});
afterAll(() => harness.close());

test('a timer that fires while nobody serves and somebody asks is as every other', { timeout: 120_000 }, async () => {
  const onFailure = { default: { after: '5s', answer: 'retry', times: 3 } };
  const upgrades = await Promise.all([1, 2, 3].map(() => harness.start({ spec: { gates: allAuto, onFailure } })));
  for (const { world } of upgrades) world.failOn('dump', 'CommandFailed', 1);
  await Promise.all(upgrades.map((upgrade) => upgrade.parked()));
  let asked: Promise<unknown>[] = [];
  await harness.restartWorker(async () => {
    // Whether a query or the workflow's own task comes first is not ours to say; with several it is nearly always a query.
    asked = upgrades.flatMap((upgrade) => Array.from({ length: 4 }, () => upgrade.status()));
    await delay(6000);
  });
  const said = (await Promise.allSettled(asked)).map((one) => (one.status === 'rejected' ? String(one.reason) : ''));
  expect(said.filter((text) => text.includes(askedTooEarly))).toEqual([]);
  // What this worker did is what the next one finds.
  await harness.restartWorker();
  const results = await Promise.all(upgrades.map(({ handle }) => handle.result()));
  expect(results.map(({ outcome }) => outcome)).toEqual(['upgraded', 'upgraded', 'upgraded']);
});
