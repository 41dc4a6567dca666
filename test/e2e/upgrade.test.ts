/**
 * The whole upgrade on real parts: Temporal's server, workers as processes of their own, real PostgreSQL servers and clients in
 * the sandbox. What is compared was asked from the world, before and after.
 */
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { describeUpgrade, upgradeResult, upgradeStatus } from '../../src/client/upgrades.ts';
import { startTemporal, type TemporalServer } from '../../src/client/temporal-server.ts';
import { runInPod } from '../../src/activities/kubernetes/exec.ts';
import { openGate, type UpgradeStatus } from '../../src/domain/state.ts';
import { countAcknowledged } from '../../src/sandbox/demo/proof.ts';
import { takeSnapshot, type Scene, type Snapshot } from '../../src/sandbox/demo/snapshot.ts';
import { startVisitor, type Visitor } from '../../src/sandbox/demo/visitor.ts';
import { podOf } from '../../src/sandbox/world/access.ts';
import Cloudflare from 'cloudflare';
import {
  answer,
  artifactText,
  duringActivity,
  kill,
  raiseStage,
  reachGate,
  start,
  WORKFLOW_ID,
  type Stage,
} from './stage.ts';

let temporal: TemporalServer;
let stage: Stage | undefined;
let visitor: Visitor | undefined;

beforeAll(async () => {
  temporal = await startTemporal({ ui: false });
}, 60_000);

afterEach(async ({ task }) => {
  if (task.result?.state === 'fail' && stage) console.error(await whereItStood(stage));
  await visitor?.stop();
  await stage?.close();
  visitor = undefined;
  stage = undefined;
}, 60_000);

afterAll(() => temporal.close());

async function whereItStood({ session }: Stage): Promise<string> {
  try {
    const { phases, park, gathered } = await upgradeStatus(session, WORKFLOW_ID);
    const { activities } = await describeUpgrade(session, WORKFLOW_ID);
    const steps = phases.map(({ name, state, seconds }) => `${name} ${state} ${seconds ?? ''}`);
    return [...steps, JSON.stringify({ park, activities, sessions: gathered.fence })].join('\n');
  } catch (error) {
    return String(error);
  }
}

async function raise(from: 15 | 16, sizeMb: number): Promise<Stage> {
  stage = await raiseStage(temporal.address, from, sizeMb);
  visitor = startVisitor(stage.sandbox.siteUrl, stage.sandbox.siteHost);
  return stage;
}

function sceneOf({ access, sandbox }: Stage, status: UpgradeStatus): Scene {
  const facts = status.plan?.facts;
  if (!facts) throw new Error('no plan');
  const cloudflare = new Cloudflare({ apiToken: sandbox.cloudflare.token, baseURL: sandbox.cloudflare.url });
  return { access, cluster: facts.cluster, routes: facts.routes, cloudflare };
}

/** All that the upgrade may touch in cluster and server and must put back, byte by byte. */
async function oldWorld(scene: Scene): Promise<Record<string, unknown>> {
  const { access } = scene;
  const pod = await podOf(access, 'databases', 'postgres');
  const inServer = (...argv: string[]) => runInPod(access.kubeConfig, pod, argv);
  const deployments = await access.apps.listDeploymentForAllNamespaces();
  const jobs = await access.batch.listCronJobForAllNamespaces();
  const claim = await access.core.readNamespacedPersistentVolumeClaim({
    namespace: 'databases',
    name: 'postgres-storage',
  });
  const volume = await access.core.readPersistentVolume({ name: claim.spec?.volumeName ?? '' });
  const claims = await access.core.listPersistentVolumeClaimForAllNamespaces();
  const pods = await access.core.listNamespacedPod({ namespace: 'databases', labelSelector: 'pgleap.dev/upgrade' });
  return {
    ...(await takeSnapshot(scene)),
    hba: await inServer('sha512sum', '/var/lib/postgresql/data/pg_hba.conf'),
    files: await inServer('find', '/var/lib/postgresql/data', '-maxdepth', '1', '-printf', '%f %m %U\n').then((text) =>
      text.split('\n').sort(),
    ),
    schema: (await inServer('pg_dumpall', '--schema-only', '-U', 'shop')).replaceAll(/^\\(un)?restrict .*$/gm, ''),
    deployments: deployments.items.map(({ metadata, spec }) => [metadata?.name, spec]),
    jobs: jobs.items.map(({ metadata, spec }) => [metadata?.name, spec]),
    claims: claims.items.map(({ metadata }) => metadata?.name ?? '').sort(),
    claim: { spec: claim.spec, labels: claim.metadata?.labels },
    volume: { handle: volume.spec?.csi, policy: volume.spec?.persistentVolumeReclaimPolicy, uid: volume.metadata?.uid },
    candidates: pods.items.length,
  };
}

/** Approves all gates that are left; `before` is taken while the plan waits for gate begin. */
async function upgradeAll(on: Stage, workflowId: string): Promise<{ before: Snapshot; scene: Scene }> {
  const scene = sceneOf(on, await reachGate(on, workflowId, 'begin'));
  const before = await takeSnapshot(scene);
  for (const gate of ['begin', 'replace', 'reopen', 'cleanup'] as const) await answer(on, workflowId, gate);
  return { before, scene };
}

async function expectUpgraded(on: Stage, workflowId: string, before: Snapshot, scene: Scene): Promise<void> {
  const result = await upgradeResult(on.session, workflowId);
  expect(result).toMatchObject({ ok: true, outcome: 'upgraded', fingerprintsEqual: true });
  const status = await upgradeStatus(on.session, workflowId);
  const source = await artifactText(on, status, 'fingerprint-source.txt');
  expect(source.length).toBeGreaterThan(1000);
  expect(await artifactText(on, status, 'fingerprint-target.txt')).toBe(source);

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
    'CronJob databases/blackbox': 'scheduled',
  });
  expect(after.routes).toEqual(before.routes);
  await visitor?.stop();
  const writes = await countAcknowledged(scene, visitor?.visits.acknowledged ?? []);
  expect(writes.acknowledged).toBeGreaterThan(20);
  expect(writes.missing).toBe(0);
  expect(visitor?.visits.maintenance).toBeGreaterThan(0);
}

test('15 to 18, straight', { timeout: 240_000 }, async () => {
  const on = await raise(15, 5);
  await on.startWorker();
  const workflowId = await start(on);
  const { before, scene } = await upgradeAll(on, workflowId);
  expect(before.version).toMatch(/^15\./);
  await expectUpgraded(on, workflowId, before, scene);
});

test('16 to 18, the worker killed during dump, copy and restore', { timeout: 400_000 }, async () => {
  const on = await raise(16, 60);
  let worker = await on.startWorker();
  const workflowId = await start(on);
  const scene = sceneOf(on, await reachGate(on, workflowId, 'begin'));
  const before = await takeSnapshot(scene);
  await answer(on, workflowId, 'begin');
  for (const activity of ['dump', 'copyOut']) {
    await duringActivity(on, workflowId, activity);
    await kill(worker);
    worker = await on.startWorker();
  }
  await answer(on, workflowId, 'replace');
  // Phase trial imports, too; what is meant here is the import into the target.
  await duringActivity(on, workflowId, 'importDump');
  await kill(worker);
  worker = await on.startWorker();
  await answer(on, workflowId, 'reopen');
  await answer(on, workflowId, 'cleanup');
  await expectUpgraded(on, workflowId, before, scene);
});

test('16, rejected at gate reopen: the old world, and then all the way', { timeout: 400_000 }, async () => {
  const on = await raise(16, 5);
  await on.startWorker();
  const workflowId = await start(on);
  const scene = sceneOf(on, await reachGate(on, workflowId, 'begin'));
  await visitor?.stop();
  const before = await oldWorld(scene);
  await answer(on, workflowId, 'begin');
  await answer(on, workflowId, 'replace');
  const atReopen = await answer(on, workflowId, 'reopen', 'reject');
  expect(openGate(atReopen)?.evidence?.facts.length).toBeGreaterThan(0);
  const result = await upgradeResult(on.session, workflowId);
  expect(result).toMatchObject({ ok: false, outcome: 'rolled-back', servicesRestored: true, routesRestored: true });
  expect(await oldWorld(scene)).toEqual(before);
  const writes = await countAcknowledged(scene, visitor?.visits.acknowledged ?? []);
  expect(writes.missing).toBe(0);

  // An old world that only looks like it would not take the same upgrade again.
  visitor = startVisitor(on.sandbox.siteUrl, on.sandbox.siteHost);
  const again = await start(on);
  const second = await upgradeAll(on, again);
  await expectUpgraded(on, again, second.before, second.scene);
});
