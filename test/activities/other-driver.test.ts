/** A database on a volume of another CSI driver than Linode's: refused, or upgraded without a clone when the spec says so. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { KubeConfig } from '@kubernetes/client-node';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { createKube, type Kube } from '../../src/activities/kubernetes/client.ts';
import { createKubernetesActivities, type KubernetesActivities } from '../../src/activities/kubernetes/index.ts';
import type { AtRest, DatabaseFact, World } from '../../src/domain/facts.ts';
import { specSchema } from '../../src/domain/spec.ts';
import { startSandbox } from '../../src/sandbox/sandbox.ts';
import { failureOf, run } from './environment.ts';

const namespace = 'databases';
const driver = 'disk.csi.example.com';
/** What else uses the database is of no matter here. */
const atRest: AtRest = { services: [], reconcilers: [] };
const deployment = { namespace, name: 'postgres' };
const asked = { database: { namespace }, target: { image: 'postgres:18' } };
const without = specSchema.parse({ ...asked, clone: 'none' });

let folder: string;
let sandbox: Awaited<ReturnType<typeof startSandbox>>;
let kube: Kube;
let activities: KubernetesActivities;

/** Asked for nothing: every call fails. */
const provider = {
  hasVolume: async () => Promise.reject(new Error('the provider was asked')),
  findClone: async () => Promise.reject(new Error('the provider was asked')),
};

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'pgleap-other-driver-'));
  sandbox = await startSandbox({ stateDir: folder, from: 16, sizeMb: 1, topology: 'sandbox' });
  const kubeConfig = new KubeConfig();
  kubeConfig.loadFromFile(sandbox.address.kubeconfig);
  kube = createKube(kubeConfig);
  activities = createKubernetesActivities({
    kubeConfig,
    removeVolume: async () => Promise.reject(new Error('the provider was asked')),
    provider,
  });
  await toOtherDriver();
}, 180_000);

afterAll(async () => {
  await sandbox?.close();
  await rm(folder, { recursive: true, force: true, maxRetries: 5 });
}, 60_000);

const claimAt = { namespace, name: 'postgres-storage' };
const volumeOf = async () => (await kube.get('PersistentVolumeClaim', claimAt)).spec?.volumeName ?? '';

/** The same bytes under a class, a PV and a handle of the other driver, as if they had always been so. */
async function toOtherDriver(): Promise<void> {
  await scale(0);
  const claim = await kube.get('PersistentVolumeClaim', claimAt);
  const pv = await kube.get('PersistentVolume', { name: claim.spec?.volumeName ?? '' });
  const className = claim.spec?.storageClassName ?? '';
  const old = await kube.get('StorageClass', { name: className });
  await kube.remove('StorageClass', { name: className }, old.metadata?.uid ?? '');
  await kube.create('StorageClass', { ...old, metadata: { name: className }, provisioner: driver });
  const at = { name: pv.metadata?.name ?? '' };
  await kube.patch('PersistentVolume', at, { spec: { persistentVolumeReclaimPolicy: 'Retain' } });
  await kube.remove('PersistentVolumeClaim', claimAt, claim.metadata?.uid ?? '');
  await until(async () => (await kube.find('PersistentVolumeClaim', claimAt)) === undefined);
  await kube.remove('PersistentVolume', at, pv.metadata?.uid ?? '');
  await until(async () => (await kube.find('PersistentVolume', at)) === undefined);
  const id = /^\d+/.exec(pv.spec?.csi?.volumeHandle ?? '')?.[0];
  await kube.create('PersistentVolume', {
    metadata: { name: 'pvc-other', annotations: { 'pv.kubernetes.io/provisioned-by': driver } },
    spec: {
      ...pv.spec,
      claimRef: { apiVersion: 'v1', kind: 'PersistentVolumeClaim', ...claimAt },
      csi: { ...pv.spec?.csi, driver, volumeHandle: `vol-${id}` },
      persistentVolumeReclaimPolicy: 'Retain',
    },
  });
  await kube.create('PersistentVolumeClaim', {
    metadata: { ...claimAt, labels: claim.metadata?.labels ?? {} },
    spec: { ...claim.spec, volumeName: 'pvc-other' },
  });
  await scale(1);
}

async function scale(replicas: number): Promise<void> {
  await kube.patch('Deployment', deployment, { spec: { replicas } });
  await until(async () => ((await kube.get('Deployment', deployment)).status?.readyReplicas ?? 0) === replicas);
  if (replicas > 0) return;
  const pv = await volumeOf();
  await until(async () =>
    (await kube.list('VolumeAttachment')).every(({ spec }) => spec?.source.persistentVolumeName !== pv),
  );
}

/** Outside of tests, where `expect.poll` does not go. */
async function until(so: () => Promise<boolean>): Promise<void> {
  await vi.waitUntil(so, { timeout: 60_000, interval: 100 });
}

async function inspected(upgradeId: string): Promise<{ database: DatabaseFact; world: World }> {
  const startedAt = new Date().toISOString();
  const { facts, checks } = await run(() => activities.inspectCluster({ spec: without }));
  if (facts === null) throw new Error(JSON.stringify(checks));
  return { database: facts.database, world: { clusterUid: facts.clusterUid, upgradeId, startedAt, namespace } };
}

/** Up to the new, empty volume. */
async function replaced(upgradeId: string) {
  const { database, world } = await inspected(upgradeId);
  await run(() => activities.setReclaimPolicy({ world, volume: database.volume, policy: 'Retain' }));
  await run(() => activities.haltDatabase({ world, database, atRest }));
  const made = await run(() => activities.replaceClaim({ world, database, minBytes: 1, atRest }));
  return { database, world, made };
}

test('is refused with the option named, and found when the spec takes it', async () => {
  const refused = await run(() => activities.inspectCluster({ spec: specSchema.parse(asked) }));
  expect(refused.facts).toBeNull();
  expect(refused.checks).toContainEqual(
    expect.objectContaining({
      id: 'kube.csi-driver',
      status: 'FAILED',
      message: expect.stringContaining(`of the driver ${driver}; pgleap clones volumes of linodebs.csi.linode.com`),
      remedy: expect.stringContaining('set clone: none in the spec'),
    }),
  );
  const { facts, checks } = await run(() => activities.inspectCluster({ spec: without }));
  expect(checks.filter(({ id, status }) => status === 'FAILED' && id !== 'kube.replicas')).toEqual([]);
  expect(facts?.database.volume).toMatchObject({ pv: 'pvc-other', driver, handle: expect.stringMatching(/^vol-\d+$/) });
}, 60_000);

test('goes back to its volume by its PV, and by a new one when that is gone', async () => {
  const first = await replaced('u0ther001');
  const back = { volume: null, cloneLabel: 'none' };
  expect(first.made.handle).toMatch(/^vol-\d+$/);
  const bind = () => run(() => activities.rebindOriginal({ ...first, ...back }));
  expect(await bind()).toEqual({ volume: 'original', kept: null });
  await run(() => activities.restartSource(first));

  const second = await replaced('u0ther002');
  const { pv, pvUid, handle } = second.database.volume;
  await kube.remove('PersistentVolume', { name: pv }, pvUid);
  await expect.poll(() => kube.find('PersistentVolume', { name: pv }), { timeout: 20_000 }).toBeUndefined();
  const rebound = await run(() => activities.rebindOriginal({ ...second, ...back }));
  expect(rebound).toEqual({ volume: 'original-static', kept: null });
  const bound = await kube.get('PersistentVolume', { name: await volumeOf() });
  expect(bound.spec).toMatchObject({ csi: { driver, volumeHandle: handle }, persistentVolumeReclaimPolicy: 'Retain' });
  await run(() => activities.restartSource(second));
}, 180_000);

test('is removed by its driver at cleanup, unless a person made its PV', async () => {
  // The one that the way back of the test before made carries no provisioner's name.
  const { database, world } = await replaced('u0ther003');
  const at = { name: database.volume.pv };
  const remove = () => run(() => activities.removeOriginal({ world, database, volume: null }));
  const failure = await failureOf(remove(), 'Refused', []);
  expect(failure.message).toContain('was not made by a provisioner');
  expect((await kube.get('PersistentVolume', at)).spec?.persistentVolumeReclaimPolicy).toBe('Retain');

  await kube.patch('PersistentVolume', at, {
    metadata: { annotations: { 'pv.kubernetes.io/provisioned-by': driver } },
  });
  await remove();
  expect(await kube.find('PersistentVolume', at)).toBeUndefined();
  const { linode } = sandbox.address;
  const id = database.volume.handle.replace('vol-', '');
  const gone = await fetch(`${linode.url}/v4/volumes/${id}`, { headers: { authorization: `Bearer ${linode.token}` } });
  expect(gone.status).toBe(404);
  await remove();
}, 180_000);

test('is left alone at cleanup while something uses it', async () => {
  await scale(1);
  const { database, world } = await inspected('u0ther004');
  const remove = run(() => activities.removeOriginal({ world, database, volume: null }));
  const failure = await failureOf(remove, 'Refused', []);
  expect(failure.message).toContain('is Bound, not Released');
}, 120_000);
