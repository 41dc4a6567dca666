/** `temporal workflow reset` as an operator types it, to earlier and earlier events: what is done is found as done. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { findTemporal } from '../../src/client/temporal-server.ts';
import { sendMessage, upgradeResult, upgradeStatus } from '../../src/client/upgrades.ts';
import { takeSnapshot } from '../../src/sandbox/demo/snapshot.ts';
import { countAcknowledged } from '../../src/sandbox/demo/proof.ts';
import { answer, follow, jobBegun, raiseStage, reachGate, start, type Stage } from './stage.ts';
import { sceneOf } from './world.ts';

const run = promisify(execFile);

/** The event to reset to, so that the first `activity` is scheduled anew and all before it is history. */
async function eventBefore(on: Stage, workflowId: string, activity: string): Promise<string> {
  const { events } = await on.session.client.workflow.getHandle(workflowId).fetchHistory();
  const scheduled = events
    ?.map((event) => event.activityTaskScheduledEventAttributes)
    .find((attributes) => attributes?.activityType?.name === activity);
  if (!scheduled) throw new Error(`${activity} is not in the history`);
  return String(scheduled.workflowTaskCompletedEventId);
}

/** Resolves when the new run answers; `more` as the command takes it. */
async function reset(on: Stage, workflowId: string, event: string, ...more: string[]): Promise<void> {
  const binary = (await findTemporal()) ?? 'temporal';
  const { address } = on.session;
  const argv = [
    '--address',
    address,
    '--workflow-id',
    workflowId,
    '--event-id',
    event,
    '--reason',
    'by a test',
    ...more,
  ];
  await run(binary, ['workflow', 'reset', ...argv]);
}

test('reset to before the dump, before the clone, and past the commit point', { timeout: 900_000 }, async () => {
  const on = await raiseStage(16, 5);
  await on.startWorker();
  const workflowId = await start(on);
  const atBegin = await reachGate(on, workflowId, 'begin');
  const scene = sceneOf(on, atBegin.plan);
  const before = await takeSnapshot(scene);
  await answer(on, workflowId, 'begin');

  await jobBegun(on, workflowId, 'candidate', 'import-trial-0');
  await reset(on, workflowId, await eventBefore(on, workflowId, 'dump'));
  const atReplace = await reachGate(on, workflowId, 'replace');
  expect(atReplace.upgradeId).toBe(atBegin.upgradeId);
  const { clone } = atReplace.gathered;

  await reset(on, workflowId, await eventBefore(on, workflowId, 'startClone'));
  await answer(on, workflowId, 'replace');
  await reachGate(on, workflowId, 'reopen');
  expect((await upgradeStatus(on.session, workflowId)).gathered.clone).toEqual(clone);

  await answer(on, workflowId, 'reopen');
  const { committedAt } = await reachGate(on, workflowId, 'cleanup');
  expect(committedAt).not.toBeNull();
  await reset(on, workflowId, await eventBefore(on, workflowId, 'sweepTarget'), '--reapply-exclude', 'All');
  // This run takes the target for fenced and its pod for the one of then, which is gone. Begun again, reopen reads that it is
  // open: it neither fences it again nor counts anew.
  const { park } = await follow(on, workflowId, 'the lost pod', (status) => status.park !== null);
  expect(park).toMatchObject({ phase: 'reopen', type: 'PodLost' });
  await sendMessage(on.session, workflowId, 'resolve', { park: park?.id, action: 'retry', by: 'e2e' });
  const again = await reachGate(on, workflowId, 'cleanup');
  expect(again.committedAt).toBe(committedAt);
  await answer(on, workflowId, 'cleanup');
  expect(await upgradeResult(on.session, workflowId)).toMatchObject({ ok: true, outcome: 'upgraded' });

  const after = await takeSnapshot(scene);
  expect(after.version).toMatch(/^18\./);
  expect([after.tables, after.roles, after.services, after.routes]).toEqual([
    before.tables,
    before.roles,
    before.services,
    before.routes,
  ]);

  // Between what it noted in the journal and the change: what it would stop is live, and nobody's to stop any more.
  await reset(on, workflowId, await eventBefore(on, workflowId, 'setRoute'), '--reapply-exclude', 'All');
  const late = await follow(on, workflowId, 'the refusal', (status) => status.park !== null);
  expect(late.park).toMatchObject({ type: 'Refused', message: expect.stringContaining('this upgrade is over') });
  const { services, routes } = await takeSnapshot(scene);
  expect([services, routes]).toEqual([before.services, before.routes]);

  await on.visitor.stop();
  expect((await countAcknowledged(scene, on.visitor.visits.acknowledged)).missing).toBe(0);
});
