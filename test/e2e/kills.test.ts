import { expect, test } from 'vitest';
import { takeSnapshot } from '../../src/sandbox/demo/snapshot.ts';
import { between } from '../support/world.ts';
import { answer, duringActivity, kill, raiseStage, reachGate, start } from './stage.ts';
import { expectUpgraded, sceneOf } from './world.ts';

test(`${between} to 18 with the worker killed during dump, copy and restore`, { timeout: 900_000 }, async () => {
  const on = await raiseStage(between, 60);
  let worker = await on.startWorker();
  const workflowId = await start(on);
  const scene = sceneOf(on, (await reachGate(on, workflowId, 'begin')).plan);
  const before = await takeSnapshot(scene);
  expect(before.version).toMatch(new RegExp(`^${between}\\.`));
  await answer(on, workflowId, 'begin');
  for (const activity of ['dump', 'copyOut']) {
    await duringActivity(on, workflowId, activity);
    await kill(worker);
    worker = await on.startWorker();
  }
  await answer(on, workflowId, 'replace');
  // The trial's import is over by now: this is the one into the target.
  await duringActivity(on, workflowId, 'importDump');
  await kill(worker);
  await on.startWorker();
  await answer(on, workflowId, 'reopen');
  await answer(on, workflowId, 'cleanup');
  await expectUpgraded(on, workflowId, before, scene);
});
