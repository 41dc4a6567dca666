/** Whole upgrades of databases that are kept in other ways than the sandbox's example. */
import { PatchStrategy, setHeaderOptions, StorageV1Api } from '@kubernetes/client-node';
import { expect, onTestFinished, test } from 'vitest';
import { readSpecFile } from '../../src/client/spec-file.ts';
import { planUpgrade, upgradeResult, upgradeStatus } from '../../src/client/upgrades.ts';
import { eventually, podOf, psql, waitForWorkload } from '../../src/sandbox/world/access.ts';
import { answer, raiseStage, reachGate, start, type Stage } from '../e2e/stage.ts';
import { expectUpgraded, oldWorld, sceneOf, upgradeAll } from '../e2e/world.ts';

const mergePatch = setHeaderOptions('Content-Type', PatchStrategy.MergePatch);
const strategicPatch = setHeaderOptions('Content-Type', PatchStrategy.StrategicMergePatch);
const patience = { timeout: 1_200_000 };

test(
  'a configuration from a ConfigMap, md5 passwords, one pod at a time, services of six namespaces: back, and there',
  patience,
  async () => {
    const on = await raiseStage(15, 5, { topology: 'config-map' });
    await on.startWorker();
    // The original's volume comes back to its claim, for one pod and with its folder.
    const claim = { namespace: 'data', name: 'postgres-storage' };
    const { input } = await readSpecFile(on.sandbox.upgradeSpec);
    const old = sceneOf(on, await planUpgrade(on.session, input));
    const world = await oldWorld(old);
    const accessModes = ['ReadWriteOncePod'];
    const { pv } = old.cluster.database.volume;
    expect(world).toMatchObject({ claim: { spec: { accessModes, volumeName: pv } } });
    const rejected = await start(on);
    for (const gate of ['begin', 'replace'] as const) await answer(on, rejected, gate);
    await reachGate(on, rejected, 'reopen');
    const replaced = await on.access.core.readNamespacedPersistentVolumeClaim(claim);
    expect(replaced.spec?.accessModes).toEqual(accessModes);
    expect(replaced.spec?.volumeName).not.toBe(pv);
    expect((await on.access.core.readPersistentVolume({ name: pv })).status?.phase).toBe('Released');
    await answer(on, rejected, 'reopen', 'reject');
    expect(await upgradeResult(on.session, rejected)).toMatchObject({ outcome: 'rolled-back', servicesRestored: true });
    expect(await oldWorld(old)).toEqual(world);
    expect((await on.access.core.readPersistentVolume({ name: pv })).status?.phase).toBe('Bound');

    const workflowId = await start(on);
    const { before, scene } = await upgradeAll(on, workflowId);
    expect(new Set(scene.cluster.services.map(({ namespace }) => namespace)).size).toBe(6);
    expect(before.services).toMatchObject({
      'Deployment billing/invoices': '2 of 2',
      'Deployment tools/console': '0 of 0',
      'CronJob tools/blackbox': 'scheduled',
    });
    await expectUpgraded(on, workflowId, before, scene);

    const pod = await podOf(on.access, 'data', 'postgres');
    // All logins but the superuser's, which initdb made: it does not read that file.
    const asked =
      "SELECT count(*) FROM pg_authid WHERE rolpassword LIKE 'md5%'; SHOW config_file; SHOW max_connections;";
    expect(await psql(on.access, pod, 'shop', 'postgres', asked)).toBe('7\n/etc/postgresql/postgresql.conf\n60\n');
    const { spec } = await on.access.core.readNamespacedPersistentVolumeClaim(claim);
    expect(spec?.accessModes).toEqual(accessModes);
  },
);

test(
  'a StatefulSet that deletes its claim when it is scaled down, on a volume that has grown; a service slow to stop',
  patience,
  async () => {
    const on = await raiseStage(15, 5, { topology: 'stateful-set' });
    const { core } = on.access;
    const claim = { namespace: 'databases', name: 'data-postgres-0' };
    await grow(on, claim, '12Gi');
    // Takes a good part of its 10 s of grace to end.
    const lifecycle = { preStop: { sleep: { seconds: 6 } } };
    const slow = { spec: { template: { spec: { containers: [{ name: 'metricity', lifecycle }] } } } };
    const metricity = { namespace: 'bots', name: 'metricity' };
    const { metadata } = await on.access.apps.patchNamespacedDeployment({ ...metricity, body: slow }, strategicPatch);
    await eventually('the slow service', 120, async () => {
      const { status } = await on.access.apps.readNamespacedDeployment(metricity);
      return status?.observedGeneration === metadata?.generation && status?.readyReplicas === 1 ? true : undefined;
    });
    await on.startWorker();
    const workflowId = await start(on);
    const { before, scene } = await upgradeAll(on, workflowId);
    await expectUpgraded(on, workflowId, before, scene);
    const { downtime, gathered } = await upgradeStatus(on.session, workflowId);
    const stopping = Date.parse(gathered.fence?.at ?? '') - Date.parse(downtime.from ?? '');
    expect(stopping).toBeGreaterThan(6000);

    const { status } = await core.readNamespacedPersistentVolumeClaim(claim);
    expect(status?.capacity).toEqual({ storage: '12Gi' });
    const { spec } = await on.access.apps.readNamespacedStatefulSet({ namespace: 'databases', name: 'postgres' });
    expect(spec?.persistentVolumeClaimRetentionPolicy).toEqual({ whenScaled: 'Delete', whenDeleted: 'Retain' });
  },
);

async function grow({ access }: Stage, claim: { namespace: string; name: string }, storage: string): Promise<void> {
  const { core, kubeConfig } = access;
  const body = { spec: { resources: { requests: { storage } } } };
  const { spec } = await core.patchNamespacedPersistentVolumeClaim({ ...claim, body }, mergePatch);
  const volume = spec?.volumeName ?? '';
  await eventually('a larger volume', 120, async () => {
    const { spec: now } = await core.readPersistentVolume({ name: volume });
    return now?.capacity?.['storage'] === storage ? true : undefined;
  });
  // Where the kernel does not let a mounted file system grow, the next mount does it; on this node only after an unmount.
  const pod = { namespace: claim.namespace, name: 'postgres-0' };
  const node = (await core.readNamespacedPod(pod)).spec?.nodeName ?? '';
  const cordon = async (unschedulable: boolean) =>
    void (await core.patchNode({ name: node, body: { spec: { unschedulable } } }, mergePatch));
  onTestFinished(() => cordon(false));
  await cordon(true);
  await core.deleteNamespacedPod(pod);
  await eventually('the volume off its node', 120, async () => {
    const { items } = await kubeConfig.makeApiClient(StorageV1Api).listVolumeAttachment();
    return items.some(({ spec: one }) => one.source.persistentVolumeName === volume && one.nodeName === node)
      ? undefined
      : true;
  });
  await cordon(false);
  await waitForWorkload(access, claim.namespace, 'postgres', 'StatefulSet');
  await eventually('the claim to say so', 120, async () => {
    const { status } = await core.readNamespacedPersistentVolumeClaim(claim);
    return status?.capacity?.['storage'] === storage ? true : undefined;
  });
}
