import { existsSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  ApiException,
  AppsV1Api,
  CoreV1Api,
  PatchStrategy,
  setHeaderOptions,
  StorageV1Api,
  type V1PersistentVolume,
  type V1PersistentVolumeClaim,
} from '@kubernetes/client-node';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { deploymentOf, eventually, startWorld, type World } from './kube-parts.ts';

let world: World;
let core: CoreV1Api;
let apps: AppsV1Api;
let storage: StorageV1Api;
const namespace = 'default';
const merge = setHeaderOptions('Content-Type', PatchStrategy.MergePatch);

beforeAll(async () => {
  world = await startWorld();
  core = world.config.makeApiClient(CoreV1Api);
  apps = world.config.makeApiClient(AppsV1Api);
  storage = world.config.makeApiClient(StorageV1Api);
});

afterAll(async () => {
  await world.close();
  expect(world.problems).toEqual([]);
});

function claimOf(
  name: string,
  more: Partial<NonNullable<V1PersistentVolumeClaim['spec']>> = {},
): V1PersistentVolumeClaim {
  const resources = { requests: { storage: '12Gi' } };
  return { metadata: { name }, spec: { accessModes: ['ReadWriteOncePod'], resources, ...more } };
}

function database(name: string, claimName: string) {
  const body = deploymentOf(name, {
    strategy: { type: 'Recreate' },
    script: 'echo $0 >> $MOUNT_data/log; exec sleep 1000',
  });
  const { spec } = body.spec.template;
  spec.volumes = [{ name: 'data', persistentVolumeClaim: { claimName } }];
  spec.containers[0].volumeMounts = [{ name: 'data', mountPath: '/data', subPath: 'pg' }];
  return body;
}

async function scale(name: string, replicas: number): Promise<void> {
  await apps.patchNamespacedDeploymentScale({ name, namespace, body: { spec: { replicas } } }, merge);
}

async function isGone(read: Promise<unknown>): Promise<boolean> {
  return read.then(
    () => false,
    (error: unknown) => error instanceof ApiException && error.code === 404,
  );
}

async function boundVolume(name: string): Promise<V1PersistentVolume> {
  const claim = await eventually(async () => {
    const one = await core.readNamespacedPersistentVolumeClaim({ name, namespace });
    return one.status?.phase === 'Bound' ? one : undefined;
  }, `claim ${name} to be bound`);
  return core.readPersistentVolume({ name: claim.spec?.volumeName ?? '' });
}

function idOf(volume: V1PersistentVolume): number {
  return Number.parseInt(volume.spec?.csi?.volumeHandle ?? '', 10);
}

async function attachments(volume: V1PersistentVolume) {
  const { items } = await storage.listVolumeAttachment();
  return items.filter((one) => one.spec.source.persistentVolumeName === volume.metadata?.name);
}

async function phase(volume: V1PersistentVolume): Promise<string | undefined> {
  return (await core.readPersistentVolume({ name: volume.metadata?.name ?? '' })).status?.phase;
}

async function readyPod(app: string): Promise<boolean> {
  const { items } = await core.listNamespacedPod({ namespace, labelSelector: `app=${app}` });
  return items.some((pod) => pod.status?.containerStatuses?.[0]?.ready === true);
}

test('a claim gets a volume as the CSI driver makes it, attached while a pod uses it', async () => {
  await core.createNamespacedPersistentVolumeClaim({ namespace, body: claimOf('data') });
  const volume = await boundVolume('data');
  const claim = await core.readNamespacedPersistentVolumeClaim({ name: 'data', namespace });
  const uid = claim.metadata?.uid ?? '';
  const label = `pvc-${uid.replaceAll('-', '').slice(0, 16)}`;
  const id = idOf(volume);
  expect(claim.spec?.storageClassName).toBe('linode-block-storage-retain');
  expect(volume).toMatchObject({
    metadata: { name: label, annotations: { 'pv.kubernetes.io/provisioned-by': 'linodebs.csi.linode.com' } },
    spec: {
      accessModes: ['ReadWriteOncePod'],
      capacity: { storage: '12Gi' },
      claimRef: { namespace, name: 'data', uid },
      csi: {
        driver: 'linodebs.csi.linode.com',
        fsType: 'ext4',
        volumeHandle: `${id}-${label}`,
        volumeAttributes: { 'topology.linode.com/region': 'eu-central' },
      },
      persistentVolumeReclaimPolicy: 'Retain',
      storageClassName: 'linode-block-storage-retain',
      volumeMode: 'Filesystem',
    },
    status: { phase: 'Bound' },
  });
  expect(world.volumes.get(id)).toMatchObject({ label, sizeGb: 12, linodeId: null });

  await apps.createNamespacedDeployment({ namespace, body: database('db', 'data') });
  await eventually(() => readyPod('db'), 'a ready pod');
  const [attachment] = await attachments(volume);
  expect(attachment).toMatchObject({ spec: { attacher: 'linodebs.csi.linode.com' }, status: { attached: true } });
  expect(world.volumes.get(id)?.linodeId).toBeTypeOf('number');
  const log = join(world.directory, 'volumes', String(id), 'pg', 'log');
  await eventually(async () => existsSync(log), 'the pod to write');

  // A second pod may not share a ReadWriteOncePod claim.
  await apps.createNamespacedDeployment({ namespace, body: database('second', 'data') });
  await eventually(async () => {
    const { items } = await core.listNamespacedPod({ namespace, labelSelector: 'app=second' });
    return items[0]?.status?.conditions?.[0]?.message?.includes('ReadWriteOncePod');
  }, 'the second pod to wait');
  await apps.deleteNamespacedDeployment({ name: 'second', namespace });
});

test('a claim of a broken size is told what it asked for, and gets whole gibibytes below it', async () => {
  const sizes = [
    ['tiny', '1Gi', '10Gi', 10],
    ['half', '12.5Gi', '12800Mi', 12],
    ['decimal', '15G', '15000000000', 13],
  ] as const;
  for (const [name, asked, capacity, sizeGb] of sizes) {
    await core.createNamespacedPersistentVolumeClaim({
      namespace,
      body: claimOf(name, { resources: { requests: { storage: asked } } }),
    });
    const volume = await boundVolume(name);
    expect(volume.spec?.capacity, name).toEqual({ storage: capacity });
    expect(world.volumes.get(idOf(volume)), name).toMatchObject({ sizeGb });
  }
});

test('a claim grows, with its volume at the provider, and never shrinks', async () => {
  const name = 'growing';
  await core.createNamespacedPersistentVolumeClaim({ namespace, body: claimOf(name) });
  const volume = await boundVolume(name);
  const ask = (size: string) =>
    core.patchNamespacedPersistentVolumeClaim(
      { name, namespace, body: { spec: { resources: { requests: { storage: size } } } } },
      merge,
    );
  await ask('20Gi');
  await eventually(async () => {
    const { status } = await core.readNamespacedPersistentVolumeClaim({ name, namespace });
    return status?.capacity?.['storage'] === '20Gi';
  }, 'the claim to have grown');
  expect((await boundVolume(name)).spec?.capacity).toEqual({ storage: '20Gi' });
  expect(world.volumes.get(idOf(volume))).toMatchObject({ sizeGb: 20 });
  await expect(ask('12Gi')).rejects.toMatchObject({ code: 422 });
});

test('the claim stays while a pod uses it; then the volume is detached, released, and can be bound again', async () => {
  const volume = await boundVolume('data');
  const name = volume.metadata?.name ?? '';
  const id = idOf(volume);
  const claim = await core.readNamespacedPersistentVolumeClaim({ name: 'data', namespace });
  await core.deleteNamespacedPersistentVolumeClaim({
    name: 'data',
    namespace,
    body: { preconditions: { uid: claim.metadata?.uid ?? '' } },
  });
  await new Promise((resolve) => setTimeout(resolve, 150));
  const deleting = await core.readNamespacedPersistentVolumeClaim({ name: 'data', namespace });
  expect(deleting.metadata?.finalizers).toContain('kubernetes.io/pvc-protection');
  expect(await phase(volume)).toBe('Bound');
  expect(world.volumes.get(id)?.linodeId).toBeTypeOf('number');

  await scale('db', 0);
  await eventually(() => isGone(core.readNamespacedPersistentVolumeClaim({ name: 'data', namespace })), 'no claim');
  await eventually(async () => (await attachments(volume)).length === 0, 'no attachment');
  expect(world.volumes.get(id)?.linodeId).toBeNull();
  await eventually(async () => (await phase(volume)) === 'Released', 'a released volume');
  const released = await core.readPersistentVolume({ name });
  expect(released.spec?.claimRef?.uid).toBe(claim.metadata?.uid);
  // The attacher lets go of a volume's object only when that is deleted.
  expect(released.metadata?.finalizers).toEqual([
    'kubernetes.io/pv-protection',
    'external-attacher/linodebs-csi-linode-com',
  ]);

  // A new empty volume under the old name, as phase replace makes it; the old one isn't taken for it.
  await core.createNamespacedPersistentVolumeClaim({ namespace, body: claimOf('data') });
  const fresh = await boundVolume('data');
  expect(fresh.metadata?.name).not.toBe(name);
  await scale('db', 1);
  await eventually(() => readyPod('db'), 'a pod on the new volume');
  await scale('db', 0);
  await eventually(async () => (await attachments(fresh)).length === 0, 'the new volume detached');

  // Rollback: the old volume is bound to the old name again.
  await core.deleteNamespacedPersistentVolumeClaim({ name: 'data', namespace });
  await eventually(() => isGone(core.readNamespacedPersistentVolumeClaim({ name: 'data', namespace })), 'no claim');
  await core.patchPersistentVolume({ name, body: { spec: { claimRef: { uid: null, resourceVersion: null } } } }, merge);
  await eventually(async () => (await phase(volume)) === 'Available', 'an available volume');
  await core.createNamespacedPersistentVolumeClaim({ namespace, body: claimOf('data', { volumeName: name }) });
  const again = await boundVolume('data');
  expect(again.metadata?.name).toBe(name);
  await scale('db', 1);
  await eventually(() => readyPod('db'), 'a pod on the old volume');
  const log = join(world.directory, 'volumes', String(id), 'pg', 'log');
  await eventually(async () => (await readFile(log, 'utf8')).split('\n').length === 3, 'both starts in its log');
});

test('a volume made by hand for one claim is bound to that claim alone', async () => {
  const id = 4_000_001;
  await mkdir(join(world.directory, 'volumes', String(id)), { recursive: true });
  await writeFile(join(world.directory, 'volumes', String(id), 'content'), 'from the clone');
  world.volumes.set(id, { id, label: 'clone', sizeGb: 20, region: 'eu-central', linodeId: null });
  const body: V1PersistentVolume = {
    metadata: { name: 'static' },
    spec: {
      capacity: { storage: '20Gi' },
      accessModes: ['ReadWriteOncePod'],
      persistentVolumeReclaimPolicy: 'Retain',
      storageClassName: 'linode-block-storage-retain',
      claimRef: { namespace, name: 'restored' },
      csi: { driver: 'linodebs.csi.linode.com', volumeHandle: `${id}-clone`, fsType: 'ext4' },
    },
  };
  await core.createPersistentVolume({ body });
  await core.createNamespacedPersistentVolumeClaim({ namespace, body: claimOf('other') });
  await boundVolume('other');
  const claim = await core.createNamespacedPersistentVolumeClaim({ namespace, body: claimOf('restored') });
  const volume = await boundVolume('restored');
  expect(volume.metadata?.name).toBe('static');
  expect(volume.spec?.claimRef?.uid).toBe(claim.metadata?.uid);
  const wrong = core.patchPersistentVolume({ name: 'static', body: { spec: { csi: { volumeHandle: '1-x' } } } }, merge);
  await expect(wrong).rejects.toMatchObject({ code: 422 });
  const shrink = { spec: { resources: { requests: { storage: '1Gi' } } } };
  const smaller = core.patchNamespacedPersistentVolumeClaim({ name: 'restored', namespace, body: shrink }, merge);
  await expect(smaller).rejects.toMatchObject({ code: 422 });

  // A bound PV that somebody deletes stays until its claim is gone.
  await core.deletePersistentVolume({ name: 'static' });
  await new Promise((resolve) => setTimeout(resolve, 100));
  expect((await core.readPersistentVolume({ name: 'static' })).metadata?.deletionTimestamp).toBeInstanceOf(Date);
  await core.deleteNamespacedPersistentVolumeClaim({ name: 'restored', namespace });
  await eventually(() => isGone(core.readPersistentVolume({ name: 'static' })), 'no PV');
  expect(world.volumes.has(id)).toBe(true);
});

test('under Delete the provider volume goes with its claim, unless the policy was made Retain before', async () => {
  for (const policy of ['Delete', 'Retain']) {
    const name = policy.toLowerCase();
    const body = claimOf(name, { storageClassName: 'linode-block-storage', accessModes: ['ReadWriteOnce'] });
    await core.createNamespacedPersistentVolumeClaim({ namespace, body });
    const volume = await boundVolume(name);
    expect(volume.spec?.persistentVolumeReclaimPolicy).toBe('Delete');
    const change = { spec: { persistentVolumeReclaimPolicy: policy } };
    await core.patchPersistentVolume({ name: volume.metadata?.name ?? '', body: change }, merge);
    await core.deleteNamespacedPersistentVolumeClaim({ name, namespace });
    if (policy === 'Delete') {
      await eventually(() => isGone(core.readPersistentVolume({ name: volume.metadata?.name ?? '' })), 'no PV');
    } else await eventually(async () => (await phase(volume)) === 'Released', 'a released volume');
    expect(world.volumes.has(idOf(volume))).toBe(policy === 'Retain');
  }
});

test('a StatefulSet keeps names and claims of its pods over a scale to zero', async () => {
  const base = deploymentOf('set', {});
  base.spec.template.spec.containers[0].volumeMounts = [{ name: 'data', mountPath: '/data' }];
  const template = { metadata: { name: 'data' }, spec: claimOf('data').spec ?? {} };
  const body = { ...base, spec: { ...base.spec, replicas: 2, serviceName: 'set', volumeClaimTemplates: [template] } };
  await apps.createNamespacedStatefulSet({ namespace, body });
  const settled = (replicas: number) =>
    eventually(async () => {
      const { status, metadata } = await apps.readNamespacedStatefulSet({ name: 'set', namespace });
      if (status?.observedGeneration !== metadata?.generation) return false;
      return (status?.replicas ?? 0) === replicas && (status?.readyReplicas ?? 0) === replicas;
    }, `${replicas} pods`);
  await settled(2);
  const { items } = await core.listNamespacedPod({ namespace, labelSelector: 'app=set' });
  expect(items.map((pod) => pod.metadata?.name)).toEqual(['set-0', 'set-1']);
  const before = await boundVolume('data-set-1');
  await apps.patchNamespacedStatefulSetScale({ name: 'set', namespace, body: { spec: { replicas: 0 } } }, merge);
  await settled(0);
  await eventually(async () => (await attachments(before)).length === 0, 'no attachment');
  await apps.patchNamespacedStatefulSetScale({ name: 'set', namespace, body: { spec: { replicas: 2 } } }, merge);
  await settled(2);
  expect((await boundVolume('data-set-1')).metadata?.name).toBe(before.metadata?.name);
  const change = { spec: { serviceName: 'other' } };
  await expect(apps.patchNamespacedStatefulSet({ name: 'set', namespace, body: change }, merge)).rejects.toMatchObject({
    code: 422,
  });
});

test('Service names lead to ready pods only, in one file that stays the same file', async () => {
  const hosts = join(world.directory, 'hosts');
  const read = async () => readFile(hosts, 'utf8');
  const body = { metadata: { name: 'front' }, spec: { selector: { app: 'front' }, ports: [{ port: 80 }] } };
  await core.createNamespacedService({ namespace, body });
  await apps.createNamespacedDeployment({ namespace, body: deploymentOf('front', {}) });
  await eventually(async () => (await read()).includes('front.default.svc.cluster.local'), 'the name');
  expect(await read()).toMatch(/^127\.0\.0\.1 localhost\n/);
  expect(await read()).toMatch(
    /^[\d.]+ front\.default\.svc\.cluster\.local front\.default\.svc front\.default front$/m,
  );
  await scale('front', 0);
  await eventually(async () => !(await read()).includes('front'), 'no name');
});
