/** A workflow that was reset: what was made before that never stands for what is there now. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { UpgradeStatus } from '../../src/domain/state.ts';
import { allAuto } from './expectations.ts';
import type { ActivityName } from './fake-world.ts';
import { startHarness, type Harness, type Upgrade } from './harness.ts';
import { keepHistory } from './histories.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness('reset');
});
afterAll(() => harness.close());

/** To where the first call of `activity` is scheduled anew. */
async function resetTo(activity: ActivityName, { handle, world }: Upgrade) {
  const { workflowId } = handle;
  const { events } = await handle.fetchHistory();
  const scheduled = events
    ?.map((event) => event.activityTaskScheduledEventAttributes)
    .find((attributes) => attributes?.activityType?.name === activity);
  const { workflowService, options, workflow } = harness.env.client;
  world.meetLeftovers();
  await workflowService.resetWorkflowExecution({
    namespace: options.namespace,
    workflowExecution: { workflowId },
    reason: 'by a test',
    requestId: `${workflowId} ${activity}`,
    workflowTaskFinishEventId: scheduled?.workflowTaskCompletedEventId ?? null,
    resetReapplyType: 2,
  });
  const again = workflow.getHandle(workflowId);
  return { handle: again, result: () => again.result(), status: () => again.query<UpgradeStatus>('status') };
}

describe.concurrent('reset', () => {
  test('to before the dump, a workflow dumps what was written since', async ({ expect: expects }) => {
    const upgrade = await harness.start({ spec: { gates: allAuto } });
    const { world } = upgrade;
    const copy = world.hold('copyOut');
    await copy.arrived;
    const look = world.hold('nextTransaction');
    copy.release();
    await look.arrived;
    world.writeToSource('rows-v2');
    look.release();
    const { park } = await upgrade.parked();
    expect(park).toMatchObject({ phase: 'halt', type: 'SourceNotQuiet' });

    const again = await resetTo('dump', upgrade);
    await expects.poll(async () => (await again.status()).stage, { timeout: 90_000 }).toMatch(/ended|parked/);
    const { park: none, gathered } = await again.status();
    expect(none).toBeNull();
    expect(world.broken).toEqual([]);
    expect(await again.result()).toMatchObject({ ok: true, outcome: 'upgraded' });
    expect(world.target.rows).toBe('rows-v2');
    // Nothing that was copied before changes under its name.
    const names = gathered.artifacts.map(({ name }) => name);
    expect(names.filter((name) => name.startsWith('dump'))).toEqual([
      expect.stringMatching(/^dump-[0-9a-f]{8}\.sql\.zst$/),
    ]);
    await keepHistory(again.handle, 'reset-to-backup');
  });

  test('to before the restore, a workflow fills the target anew', async ({ expect: expects }) => {
    const upgrade = await harness.start({ spec: { gates: { ...allAuto, reopen: {} } } });
    const { world } = upgrade;
    await world.until(() => world.told.some(({ kind, text }) => kind === 'gate' && text.includes('gate reopen:')));
    world.approvals.add('reopen');
    const again = await resetTo('copyIn', upgrade);
    await expects.poll(async () => (await again.status()).gates[2]?.state, { timeout: 60_000 }).toBe('open');
    expect(world.order.filter((name) => name === 'emptyTarget')).toHaveLength(1);
    expect(world.target.rows).toBe('rows-v1');
    expect((await again.status()).parked).toEqual([]);
    await harness.env.client.workflow.getHandle(upgrade.handle.workflowId).signal('rollback', { by: 'ada' });
    expect(await again.result()).toMatchObject({ outcome: 'rolled-back' });
    expect(world.broken).toEqual([]);
    await keepHistory(again.handle, 'reset-to-restore');
  });
});
