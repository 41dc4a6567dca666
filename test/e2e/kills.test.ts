import { readdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, onTestFinished, test } from 'vitest';
import { upgradeStatus } from '../../src/client/upgrades.ts';
import { phaseRow } from '../../src/domain/state.ts';
import { takeSnapshot } from '../../src/sandbox/demo/snapshot.ts';
import { startTcpProxy } from '../activities/tcp-proxy.ts';
import { between } from '../support/world.ts';
import { answer, jobBegun, kill, raiseStage, reachGate, start } from './stage.ts';
import { expectUpgraded, sceneOf } from './world.ts';

/** What a copy goes on after; three of them are under way at once. */
const chunkBytes = 4 << 20;

test(`${between} to 18 with the worker killed during dump, copy and restore`, { timeout: 900_000 }, async () => {
  const on = await raiseStage(between, 120);
  const proxy = await startTcpProxy(on.access.kubeConfig);
  onTestFinished(() => proxy.close());
  const kubeconfig = join(on.artifacts, '..', 'kubeconfig');
  await writeFile(kubeconfig, proxy.kubeConfig.exportConfig());
  const startWorker = () => on.startWorker({ KUBECONFIG: kubeconfig });

  let worker = await startWorker();
  const workflowId = await start(on);
  const { plan, upgradeId } = await reachGate(on, workflowId, 'begin');
  const scene = sceneOf(on, plan);
  const before = await takeSnapshot(scene);
  expect(before.version).toMatch(new RegExp(`^${between}\\.`));
  await answer(on, workflowId, 'begin');

  const dumping = await jobBegun(on, workflowId, 'candidate', 'dump-dump-1');
  await kill(worker);

  // So that the copy is met in the middle.
  proxy.fault = { how: 'drip', bytesPerSecond: 1 << 20 };
  worker = await startWorker();
  const folder = join(on.artifacts, upgradeId);
  while ((await dumpIn(folder)).bytes < 3 * chunkBytes) await sleep(20);
  await kill(worker);
  expect((await dumpIn(folder)).name).toMatch(/\.part$/);
  proxy.fault = undefined;
  proxy.moved.down = 0;
  worker = await startWorker();
  while ((await dumpIn(folder)).name.endsWith('.part')) await sleep(20);
  // One of the three may not have been written to its end; all else that was asked meanwhile is less than another.
  expect(proxy.moved.down).toBeLessThan((await dumpIn(folder)).bytes - chunkBytes);

  await answer(on, workflowId, 'replace');
  expect(await jobBegun(on, workflowId, 'candidate', 'dump-dump-1')).toBe(dumping);
  const importing = await jobBegun(on, workflowId, 'target', 'import-restore-1');
  await kill(worker);
  await startWorker();
  await reachGate(on, workflowId, 'reopen');
  expect(await jobBegun(on, workflowId, 'target', 'import-restore-1')).toBe(importing);
  await answer(on, workflowId, 'reopen');
  await answer(on, workflowId, 'cleanup');
  await expectUpgraded(on, workflowId, before, scene);
  const status = await upgradeStatus(on.session, workflowId);
  for (const phase of ['backup', 'trial', 'restore'] as const) expect(phaseRow(status, phase).tries, phase).toBe(1);
});

/** What the artifact store has of the dump, as it lies on the disk: chunks that are missing take no room. */
async function dumpIn(folder: string): Promise<{ name: string; bytes: number }> {
  const names = await readdir(folder).catch(() => []);
  const name = names.find((one) => one.startsWith('dump.sql')) ?? '.part';
  const bytes = await stat(join(folder, name)).then(
    ({ blocks }) => blocks * 512,
    () => 0,
  );
  return { name, bytes };
}
