import { afterAll, beforeAll, expect, test } from 'vitest';
import { startHarness, type Harness } from './harness.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness();
});
afterAll(() => harness.close());

test('every phase in its order, four answers, and the old volume gone at the end', async () => {
  const upgrade = await harness.start();
  await upgrade.approveUpTo('cleanup');
  const result = await upgrade.handle.result();

  expect(upgrade.world.broken).toEqual([]);
  expect(result).toMatchObject({
    ok: true,
    outcome: 'upgraded',
    from: '16.14',
    to: '18.4',
    strategy: 'runbook',
    rows: 345,
    fingerprintsEqual: true,
    servicesRestored: true,
    routesRestored: true,
  });
});
