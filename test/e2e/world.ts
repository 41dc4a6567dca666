/** What the end-to-end tests compare: asked from the world itself, before and after. */
import Cloudflare from 'cloudflare';
import { expect } from 'vitest';
import { runInPod } from '../../src/activities/kubernetes/exec.ts';
import { upgradeResult, upgradeStatus } from '../../src/client/upgrades.ts';
import type { Plan } from '../../src/domain/plan.ts';
import { countAcknowledged } from '../../src/sandbox/demo/proof.ts';
import { takeSnapshot, type Scene, type Snapshot } from '../../src/sandbox/demo/snapshot.ts';
import { podOf } from '../../src/sandbox/world/access.ts';
import { answer, artifactText, reachGate, type Stage } from './stage.ts';

export function sceneOf({ access, sandbox }: Stage, plan: Plan | null): Scene {
  const facts = plan?.facts;
  if (!facts) throw new Error('no plan');
  const cloudflare = new Cloudflare({ apiToken: sandbox.cloudflare.token, baseURL: sandbox.cloudflare.url });
  return { access, cluster: facts.cluster, routes: facts.routes, cloudflare };
}

/** All that the upgrade may touch in cluster and server and must put back, byte by byte. */
export async function oldWorld(scene: Scene): Promise<Record<string, unknown>> {
  const { access } = scene;
  const { workload, superuser, claim: under } = scene.cluster.database;
  const { namespace } = workload;
  // Services write all the time: their rows are counted one by one.
  const { rows: _rows, ...snapshot } = await takeSnapshot(scene);
  const pod = await podOf(access, namespace, workload.name, workload.kind);
  const inServer = (...argv: string[]) => runInPod(access.kubeConfig, pod, argv);
  const deployments = await access.apps.listDeploymentForAllNamespaces();
  const jobs = await access.batch.listCronJobForAllNamespaces();
  const claim = await access.core.readNamespacedPersistentVolumeClaim({ namespace, name: under.name });
  const volume = await access.core.readPersistentVolume({ name: claim.spec?.volumeName ?? '' });
  const claims = await access.core.listPersistentVolumeClaimForAllNamespaces();
  const pods = await access.core.listNamespacedPod({ namespace, labelSelector: 'pgleap.dev/upgrade' });
  return {
    ...snapshot,
    hba: await inServer('sha512sum', '/var/lib/postgresql/data/pg_hba.conf'),
    files: await inServer('find', '/var/lib/postgresql/data', '-maxdepth', '1', '-printf', '%f %m %U\n').then((text) =>
      text.split('\n').sort(),
    ),
    schema: (await inServer('pg_dumpall', '--schema-only', '-U', superuser)).replaceAll(/^\\(un)?restrict .*$/gm, ''),
    deployments: deployments.items.map(({ metadata, spec }) => [metadata?.name, spec]),
    jobs: jobs.items.map(({ metadata, spec }) => [metadata?.name, spec]),
    claims: claims.items.map(({ metadata }) => metadata?.name ?? '').sort(),
    claim: { spec: claim.spec, labels: claim.metadata?.labels },
    volume: { handle: volume.spec?.csi, policy: volume.spec?.persistentVolumeReclaimPolicy, uid: volume.metadata?.uid },
    candidates: pods.items.length,
  };
}

/** Approves all gates that are left; `before` is taken while the plan waits for gate begin. */
export async function upgradeAll(on: Stage, workflowId: string): Promise<{ before: Snapshot; scene: Scene }> {
  const scene = sceneOf(on, (await reachGate(on, workflowId, 'begin')).plan);
  const before = await takeSnapshot(scene);
  for (const gate of ['begin', 'replace', 'reopen', 'cleanup'] as const) await answer(on, workflowId, gate);
  return { before, scene };
}

export async function expectUpgraded(on: Stage, workflowId: string, before: Snapshot, scene: Scene): Promise<void> {
  const result = await upgradeResult(on.session, workflowId);
  expect(result).toMatchObject({ ok: true, outcome: 'upgraded', fingerprintsEqual: true });
  const status = await upgradeStatus(on.session, workflowId);
  const { artifacts, sourceFingerprintArtifact } = status.gathered;
  const source = await artifactText(on, status, sourceFingerprintArtifact?.name ?? '');
  expect(source.length).toBeGreaterThan(1000);
  const target = artifacts.findLast(({ name }) => name.startsWith('fingerprint-target'));
  expect(await artifactText(on, status, target?.name ?? '')).toBe(source);

  const after = await takeSnapshot(scene);
  expect(after.version).toMatch(/^18\./);
  expect(after.image).toBe('postgres:18');
  expect(after.volume).not.toBe(before.volume);
  expect(after.tables).toEqual(before.tables);
  expect(after.roles).toEqual(before.roles);
  expect(after.services).toEqual(before.services);
  expect(after.services).toMatchObject({
    'Deployment web/site': '2 of 2',
    'Deployment web/pinnwand': '0 of 0',
    'Deployment bots/metricity': '1 of 1',
  });
  expect(Object.values(after.services)).toContain('scheduled');
  expect(after.routes).toEqual(before.routes);
  await on.visitor.stop();
  const writes = await countAcknowledged(scene, on.visitor.visits.acknowledged);
  expect(writes.acknowledged).toBeGreaterThan(20);
  expect(writes.missing).toBe(0);
  expect(on.visitor.visits.maintenance).toBeGreaterThan(0);
}
