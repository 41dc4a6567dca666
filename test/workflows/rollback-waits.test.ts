/** A rollback begins when nothing is being changed any more: an activity that does not hear of it finishes first. */
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startHarness, type Harness } from './harness.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness();
});
afterAll(() => harness.close());

const auto = { policy: 'auto' };

describe.concurrent('rollback', () => {
  test.each(['setRoute', 'fenceSource', 'deployTarget'] as const)('waits for %s', async (name) => {
    const upgrade = await harness.start({ spec: { gates: { begin: {}, replace: auto, reopen: auto, cleanup: auto } } });
    const { activities, approvals } = upgrade.world;
    approvals.add('replace');
    const arrived = Promise.withResolvers<void>();
    const released = Promise.withResolvers<void>();
    const inner = activities[name] as (arg: unknown) => Promise<unknown>;
    Object.assign(activities, {
      [name]: async (arg: unknown) => {
        arrived.resolve();
        await released.promise;
        return inner(arg);
      },
    });
    await upgrade.answer('begin');
    await arrived.promise;
    await upgrade.handle.executeUpdate<string, [unknown]>('rollback', { args: [{ by: 'ada' }] });
    // Time enough for undos that do not wait.
    await delay(1500);
    released.resolve();
    expect(await upgrade.handle.result()).toMatchObject({ outcome: 'rolled-back' });
    expect(upgrade.world.broken).toEqual([]);
    expect(upgrade.world.state).toEqual(upgrade.world.oldState());
  });
});
