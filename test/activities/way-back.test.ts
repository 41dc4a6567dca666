/** What a rollback meets when an upgrade was stopped in an unlucky moment. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { KubeConfig } from '@kubernetes/client-node';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { askingJournal } from '../../src/activities/forward.ts';
import { createKube, type Kube } from '../../src/activities/kubernetes/client.ts';
import { createDatabaseActivities } from '../../src/activities/kubernetes/database.ts';
import { createKubernetesActivities, type KubernetesActivities } from '../../src/activities/kubernetes/index.ts';
import { runInPod } from '../../src/activities/kubernetes/exec.ts';
import { createVolumeActivities } from '../../src/activities/kubernetes/volumes.ts';
import { createPostgresActivities } from '../../src/activities/postgres/index.ts';
import type { SharedActivities } from '../../src/activities/types.ts';
import type { DatabaseFact, ServerRef, World } from '../../src/domain/facts.ts';
import { specSchema } from '../../src/domain/spec.ts';
import { run } from './environment.ts';
import { oldWorldOf } from '../support/old-world.ts';
import { sourceFacts } from '../support/source-facts.ts';
import { raiseTestWorld } from '../support/world.ts';

const namespace = 'databases';
/** What else a way back is given. */
const spare = {
  volume: { id: 1, label: 'pvc1', region: 'eu', sizeGb: 10, encryption: 'disabled', monthlyPrice: null },
  cloneLabel: 'clone',
};
const upgradeSpec = specSchema.parse({ database: { namespace }, target: { image: 'postgres:18' } });
const provider = { hasVolume: async () => true, findClone: async () => null };
const atRest = { services: [], reconcilers: [] };

let folder: string;
let sandbox: Awaited<ReturnType<typeof raiseTestWorld>>;
let kube: Kube;
let activities: KubernetesActivities;
let postgres: ReturnType<typeof createPostgresActivities>;
let database: DatabaseFact;
let world: World;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'pgleap-rebind-'));
  sandbox = await raiseTestWorld({ stateDir: folder, from: 16, sizeMb: 1 });
  const kubeConfig = new KubeConfig();
  kubeConfig.loadFromFile(sandbox.address.kubeconfig);
  kube = createKube(kubeConfig);
  activities = createKubernetesActivities({ kubeConfig, removeVolume: async () => undefined, provider });
  postgres = createPostgresActivities({ kubeConfig });
  const startedAt = new Date().toISOString();
  const { facts } = await run(() => activities.inspectCluster({ spec: upgradeSpec }));
  if (facts === null) throw new Error('no facts');
  database = facts.database;
  world = { clusterUid: facts.clusterUid, upgradeId: 'u0badcafe', startedAt, namespace };
  const { volume } = database;
  await run(() => activities.setReclaimPolicy({ world, volume, policy: 'Retain' }));
  await run(() => activities.haltDatabase({ world, database, atRest }));
}, 180_000);

afterAll(async () => {
  await sandbox?.close();
  await rm(folder, { recursive: true, force: true, maxRetries: 5 });
}, 60_000);

/** A pod with the claim, such as one that somebody started to look at the data. */
async function startHolder(name: string, labels: Record<string, string>): Promise<string> {
  const pod = await kube.create('Pod', {
    metadata: { namespace, name, labels },
    spec: {
      terminationGracePeriodSeconds: 1,
      containers: [
        {
          name: 'shell',
          image: database.image,
          command: ['sleep', '600'],
          volumeMounts: [{ name: 'data', mountPath: '/data' }],
        },
      ],
      volumes: [{ name: 'data', persistentVolumeClaim: { claimName: database.claim.name } }],
    },
  });
  await expect
    .poll(async () => (await kube.get('Pod', { namespace, name })).status?.phase, { timeout: 30_000 })
    .toBe('Running');
  return pod.metadata?.uid ?? '';
}

/** Activities of a worker that is frozen before its first change of that kind, until it is thawed. */
function frozenBefore(change: 'patch' | 'remove') {
  const reached = Promise.withResolvers<void>();
  const thawed = Promise.withResolvers<void>();
  const held: Pick<Kube, 'patch' | 'remove'> = {
    async patch(...args) {
      reached.resolve();
      await thawed.promise;
      return await kube.patch(...args);
    },
    async remove(...args) {
      reached.resolve();
      await thawed.promise;
      await kube.remove(...args);
    },
  };
  const frozen = createVolumeActivities({ ...kube, [change]: held[change] }, provider);
  return { ...frozen, reached: reached.promise, thaw: thawed.resolve };
}

/** Activities that ask the journal, of a worker that is frozen before it reads the database's workload for that time. */
function frozenAtLook(count: number) {
  const reached = Promise.withResolvers<void>();
  const thawed = Promise.withResolvers<void>();
  let looks = 0;
  const slow: Kube = {
    ...kube,
    async get(kind, at) {
      if (kind === 'Deployment' && (looks += 1) === count) {
        reached.resolve();
        await thawed.promise;
      }
      return await kube.get(kind, at);
    },
  };
  const frozen = askingJournal(kube, createDatabaseActivities(slow) as SharedActivities);
  return { ...frozen, reached: reached.promise, thaw: thawed.resolve };
}

const claimName = () => ({ namespace, name: database.claim.name });

test('a worker that was about to delete the claim leaves it to the source that runs on it since', async () => {
  const before = await kube.get('PersistentVolumeClaim', claimName());
  const replace = async (through: () => Promise<unknown>) => {
    const late = frozenBefore('remove');
    const replaced = run(() => late.replaceClaim({ world, database, minBytes: 1, atRest }));
    await late.reached;
    await through();
    late.thaw();
    await expect(replaced).rejects.toMatchObject({ type: 'Conflict' });
    const { metadata } = await kube.get('PersistentVolumeClaim', claimName());
    expect(metadata?.deletionTimestamp).toBeUndefined();
    expect([metadata?.uid, metadata?.annotations]).toEqual([before.metadata?.uid, before.metadata?.annotations]);
  };
  await replace(() => run(() => activities.rebindOriginal({ world, database, ...spare })));
  // It may have looked between the two.
  await replace(() => run(() => activities.restartSource({ world, database })));
  await run(() => activities.haltDatabase({ world, database, atRest }));
}, 90_000);

test('a worker that was about to give the reclaim policy back does not do so in the next upgrade', async () => {
  const volume = { ...database.volume, reclaimPolicy: 'Delete' as const };
  const late = frozenBefore('patch');
  const restored = run(() => late.restoreReclaimPolicy({ world, volume }));
  await late.reached;
  await run(() => activities.restoreReclaimPolicy({ world, volume }));
  await run(() => activities.setReclaimPolicy({ world, volume, policy: 'Retain' }));
  late.thaw();
  await expect(restored).rejects.toMatchObject({ type: 'Conflict' });
  const { spec } = await kube.get('PersistentVolume', { name: volume.pv });
  expect(spec?.persistentVolumeReclaimPolicy).toBe('Retain');
}, 60_000);

test('a claim that is being deleted is waited for, not taken for bound', async () => {
  const holder = { namespace, name: 'rescue' };
  const uid = await startHolder(holder.name, {});
  await kube.remove('PersistentVolumeClaim', claimName(), database.claim.uid);
  // Its volume would go with it.
  const volume = { ...database.volume, reclaimPolicy: 'Delete' as const };
  await expect(run(() => activities.restoreReclaimPolicy({ world, volume }))).rejects.toMatchObject({
    type: 'Refused',
    message: expect.stringMatching(/being deleted: with the policy Delete it would be destroyed/),
  });
  const { spec } = await kube.get('PersistentVolume', { name: volume.pv });
  expect(spec?.persistentVolumeReclaimPolicy).toBe('Retain');
  const seen = await run(() => activities.compareOldWorld({ world, old: oldWorldOf(database) }));
  expect(seen[0]).toMatchObject({ found: `${volume.handle}, Bound, being deleted`, equal: false });
  const [going] = await Promise.all([
    kube.get('PersistentVolumeClaim', claimName()),
    run(() => activities.rebindOriginal({ world, database, ...spare })),
    delay(1500).then(() => kube.remove('Pod', holder, uid)),
  ]);
  expect(going.metadata?.deletionTimestamp).toBeDefined();
  expect(going.status?.phase).toBe('Bound');
  const claim = await kube.get('PersistentVolumeClaim', claimName());
  expect(claim.metadata?.uid).not.toBe(database.claim.uid);
  expect(claim.metadata?.deletionTimestamp).toBeUndefined();
  expect(claim.spec?.volumeName).toBe(database.volume.pv);
}, 90_000);

test('a pod that was emptying the new volume does not keep it, and is gone afterwards', async () => {
  const { uid } = (await kube.get('PersistentVolumeClaim', claimName())).metadata ?? {};
  const now = { ...database, claim: { ...database.claim, uid: uid ?? '' } };
  await run(() => activities.replaceClaim({ world, database: now, minBytes: 1, atRest }));
  const eraser = `pgleap-${world.upgradeId}-eraser`;
  await startHolder(eraser, { 'pgleap.dev/upgrade': world.upgradeId });
  await run(() => activities.rebindOriginal({ world, database: now, ...spare }));
  const claim = await kube.get('PersistentVolumeClaim', claimName());
  expect(claim.spec?.volumeName).toBe(database.volume.pv);
  await expect.poll(() => kube.find('Pod', { namespace, name: eraser }), { timeout: 20_000 }).toBeUndefined();
}, 90_000);

test('binds the original before the new volume is removed, and is the old world only after that', async () => {
  const { uid } = (await kube.get('PersistentVolumeClaim', claimName())).metadata ?? {};
  const now = { ...database, claim: { ...database.claim, uid: uid ?? '' } };
  const { pv } = await run(() => activities.replaceClaim({ world, database: now, minBytes: 1, atRest }));
  // As a driver that takes its time.
  const slow = 'test.pgleap.dev/slow';
  const finalizers = async () => (await kube.get('PersistentVolume', { name: pv })).metadata?.finalizers ?? [];
  await kube.patch('PersistentVolume', { name: pv }, { metadata: { finalizers: [...(await finalizers()), slow] } });

  await run(() => activities.rebindOriginal({ world, database: now, ...spare }));
  const claim = await kube.get('PersistentVolumeClaim', claimName());
  expect([claim.spec?.volumeName, claim.status?.phase]).toEqual([database.volume.pv, 'Bound']);
  const left = await kube.get('PersistentVolume', { name: pv });
  expect(left.spec?.persistentVolumeReclaimPolicy).toBe('Delete');

  const compare = run(() => activities.compareOldWorld({ world, old: oldWorldOf(now) }));
  await delay(1500);
  expect(await kube.find('PersistentVolume', { name: pv })).toBeDefined();
  const others = (await finalizers()).filter((one) => one !== slow);
  await kube.patch('PersistentVolume', { name: pv }, { metadata: { finalizers: others } });
  expect(await compare).toContainEqual({
    area: 'volume',
    what: `new volume ${pv}`,
    expected: 'removed',
    found: 'removed',
    equal: true,
  });
  expect(await kube.find('PersistentVolume', { name: pv })).toBeUndefined();
}, 90_000);

test('the fence is lifted from a source that is not ready because of it', async () => {
  // As a probe that logs in with a role of the application's.
  const probe = { exec: { command: ['sh', '-c', '! head -n 1 "$PGDATA/pg_hba.conf" | grep -q "pgleap fence"'] } };
  await kube.patch(
    'Deployment',
    database.workload,
    {
      spec: {
        template: {
          spec: {
            containers: [
              { name: database.pod.container, readinessProbe: { ...probe, periodSeconds: 1, tcpSocket: null } },
            ],
          },
        },
      },
    },
    { strategic: true },
  );
  await run(() => activities.restartSource({ world, database }));
  const ready = async () => (await kube.get('Deployment', database.workload)).status?.readyReplicas ?? 0;
  await expect.poll(ready, { timeout: 30_000 }).toBe(1);
  const pod = (await kube.list('Pod', { namespace })).find(({ metadata }) => metadata?.name?.startsWith('postgres-'));
  const source: ServerRef = {
    role: 'source',
    pod: { ...database.pod, name: pod?.metadata?.name ?? '', uid: pod?.metadata?.uid ?? '' },
    superuser: database.superuser,
    host: null,
    port: database.port,
  };
  const hbaFile = (await runInPod(kube.kc, source.pod, ['sh', '-c', 'printf %s "$PGDATA/pg_hba.conf"'])).trim();
  await run(() => postgres.fenceSource({ world, source, hbaFile, candidateIp: '192.0.2.1', readOnlyLogins: [] }));
  await expect.poll(ready, { timeout: 30_000 }).toBe(0);
  await run(() => postgres.liftSourceFence({ world, database, hbaFile }));
  expect(await runInPod(kube.kc, source.pod, ['head', '-n', '1', hbaFile])).not.toContain('pgleap fence');
  await expect.poll(ready, { timeout: 30_000 }).toBe(1);
}, 120_000);

test('a worker that was about to start the target, or to stop the source, leaves the source that runs since alone', async () => {
  const { uid = '' } = (await kube.get('PersistentVolumeClaim', claimName())).metadata ?? {};
  const now = { ...database, claim: { ...database.claim, uid } };
  const live = async () => (await kube.get('Deployment', now.workload)).spec;
  await run(() => activities.beginJournal({ world, workflowId: 'x', planHash: '', summary: '' }));
  await run(() => activities.haltDatabase({ world, database: now, atRest }));
  await run(() => activities.replaceClaim({ world, database: now, minBytes: 1, atRest }));
  const starting = frozenAtLook(2);
  const deployed = run(() => starting.deployTarget({ world, spec: upgradeSpec, database: now, source: sourceFacts }));
  await starting.reached;
  await run(() => activities.rebindOriginal({ world, database: now, ...spare }));
  await run(() => activities.restartSource({ world, database: now }));
  const before = await live();
  expect(before?.replicas).toBe(1);
  // Before the journal tells of the way back.
  starting.thaw();
  await expect(deployed).rejects.toMatchObject({
    type: 'WrongWorld',
    message: expect.stringMatching(/still on the orig/),
  });
  expect(await live()).toEqual(before);

  const stopping = frozenAtLook(1);
  const halted = run(() => stopping.haltDatabase({ world, database: now, atRest }));
  await stopping.reached;
  await run(() => activities.closeJournal({ world, outcome: 'rolled-back' }));
  stopping.thaw();
  await expect(halted).rejects.toMatchObject({
    type: 'Refused',
    message: expect.stringMatching(/this upgrade is over/),
  });
  expect(await live()).toEqual(before);
}, 120_000);
