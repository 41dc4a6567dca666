/** Pods that are evicted under the work: the upgrade begins it again by itself, and nobody is asked. */
import { expect, test } from 'vitest';
import { readSpecFile } from '../../src/client/spec-file.ts';
import { planUpgrade, startUpgrade } from '../../src/client/upgrades.ts';
import { phaseRow } from '../../src/domain/state.ts';
import { specSchema } from '../../src/domain/spec.ts';
import { takeSnapshot } from '../../src/sandbox/demo/snapshot.ts';
import { between, onCluster } from '../support/world.ts';
import { follow, jobBegun, raiseStage, type Stage } from './stage.ts';
import { expectUpgraded, sceneOf } from './world.ts';

test(
  `${between} to 18 with nobody asked, though the pods of trial and of restore were evicted under their imports`,
  { timeout: 900_000 },
  async () => {
    const on = await raiseStage(between, 60);
    await on.startWorker();
    const { input } = await readSpecFile(on.sandbox.upgradeSpec);
    input['gates'] = { begin: 'auto', replace: 'auto', reopen: 'auto', cleanup: 'auto' };
    const scene = sceneOf(on, await planUpgrade(on.session, input));
    const before = await takeSnapshot(scene);
    const { workflowId } = await startUpgrade(on.session, input, specSchema.parse(input), null);
    for (const [server, job, labelSelector] of [
      ['candidate', 'import-trial-0', 'pgleap.dev/upgrade'],
      ['target', 'import-restore-1', 'app=postgres'],
    ] as const) {
      await jobBegun(on, workflowId, server, job);
      await evict(on, labelSelector);
    }
    const status = await follow(on, workflowId, 'its end', ({ stage }) => stage === 'ended');
    expect(status.parked).toEqual([]);
    for (const phase of ['trial', 'restore'] as const) expect(phaseRow(status, phase).tries, phase).toBe(2);
    await expectUpgraded(on, workflowId, before, scene);
  },
);

/** Evicts the one pod of the database's namespace that these labels name. */
async function evict({ access: { core } }: Stage, labelSelector: string): Promise<void> {
  const namespace = 'databases';
  const { items } = await core.listNamespacedPod({ namespace, labelSelector });
  expect(items.map(({ status }) => status?.phase)).toEqual(['Running']);
  const name = items[0]?.metadata?.name ?? '';
  const at = { namespace, name };
  // The sandbox knows no evictions. One that no budget forbids is a deletion.
  if (onCluster) {
    const deleteOptions = { gracePeriodSeconds: 0 };
    await core.createNamespacedPodEviction({ ...at, body: { metadata: at, deleteOptions } });
  } else await core.deleteNamespacedPod({ ...at, gracePeriodSeconds: 0 });
}
