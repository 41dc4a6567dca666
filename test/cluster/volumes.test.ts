/**
 * Volumes as on LKE, and what pgleap does with them, on a real kubelet with real attachments. What is asserted here of
 * Kubernetes and the driver is what `test/sandbox/kube-volumes.test.ts` asserts of the sandbox.
 */
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { KubeConfig } from '@kubernetes/client-node';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { z } from 'zod';
import { createKube, type Kube, type Resource } from '../../src/activities/kubernetes/client.ts';
import { runInPod } from '../../src/activities/kubernetes/exec.ts';
import { createKubernetesActivities } from '../../src/activities/kubernetes/index.ts';
import { linodeActivities } from '../../src/activities/linode.ts';
import type { World } from '../../src/domain/facts.ts';
import { specSchema } from '../../src/domain/spec.ts';
import { run } from '../activities/environment.ts';
import { openCluster } from './open.ts';

const found = openCluster();
// Volumes cost money elsewhere, and their delays can't be ordered.
const cluster = found.own ? found : undefined;
const here = test.skipIf(cluster === undefined);
const namespace = `volumes-${randomBytes(3).toString('hex')}`;
const mine = 'volumes-test';
const gib = 2 ** 30;
const driver = 'linodebs.csi.linode.com';
const provisionerFinalizer = 'external-provisioner.volume.kubernetes.io/finalizer';
const attacherFinalizer = 'external-attacher/linodebs-csi-linode-com';
let kube: Kube;

const volumeShape = z.object({
  id: z.number(),
  label: z.string(),
  size: z.number(),
  status: z.string(),
  linode_id: z.number().nullable(),
});

beforeAll(async () => {
  if (cluster === undefined) return;
  const config = new KubeConfig();
  config.loadFromFile(cluster.kubeconfig);
  kube = createKube(config);
  await kube.create('Namespace', { metadata: { name: namespace } });
});

afterAll(async () => {
  if (cluster === undefined) return;
  await order({ detachMs: 0, cloneMs: 0 });
  const { metadata } = await kube.get('Namespace', { name: namespace });
  await kube.remove('Namespace', { name: namespace }, metadata?.uid ?? '');
  await until(async () => (await kube.find('Namespace', { name: namespace })) === undefined, 'no namespace');
  // What Retain keeps, and what was made by hand.
  for (const volume of await kube.list('PersistentVolume')) {
    if (volume.spec?.claimRef?.namespace !== namespace) continue;
    await detached(volume.metadata?.name ?? '');
    await kube.remove('PersistentVolume', { name: volume.metadata?.name ?? '' }, volume.metadata?.uid ?? '');
    await linode('DELETE', `/volumes/${idOf(volume)}`);
  }
  const { data } = z.object({ data: z.array(volumeShape) }).parse(await linode('GET', '/volumes?page_size=500'));
  for (const { id, label } of data) if (label.startsWith(namespace)) await linode('DELETE', `/volumes/${id}`);
});

/** The Linode API, as the stand-in answers it. Paths of its own (`/sandbox`) begin at the root. */
async function linode(method: string, at: string, body?: object): Promise<unknown> {
  const { url, tokenFile } = cluster?.linode ?? { url: '', tokenFile: '' };
  const answer = await fetch(`${url}${at.startsWith('/sandbox') ? '' : '/v4'}${at}`, {
    method,
    headers: { authorization: `Bearer ${readFileSync(tokenFile, 'utf8').trim()}`, 'content-type': 'application/json' },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  const said: unknown = await answer.json();
  if (!answer.ok) throw new Error(`${answer.status} ${JSON.stringify(said)}`);
  return said;
}

const order = (delays: { detachMs?: number; cloneMs?: number }) => linode('PUT', '/sandbox/delays', delays);

async function provider(volume: Resource<'PersistentVolume'> | number) {
  const id = typeof volume === 'number' ? volume : idOf(volume);
  return volumeShape.parse(await linode('GET', `/volumes/${id}`));
}

async function isAtProvider(id: number): Promise<boolean> {
  return provider(id).then(
    () => true,
    (error: unknown) => {
      if (String(error).includes('404')) return false;
      throw error;
    },
  );
}

/** Asks several times a second for two minutes. */
async function until<T>(ask: () => Promise<T | undefined | false>, what: string): Promise<T> {
  let problem: unknown;
  const answer = await vi
    .waitUntil(
      () =>
        ask().catch((error: unknown) => {
          problem = error;
          return undefined;
        }),
      { timeout: 120_000, interval: 200 },
    )
    .catch((error: unknown) => {
      throw new Error(`never came: ${what}`, { cause: problem ?? error });
    });
  return answer;
}

function idOf(volume: Resource<'PersistentVolume'>): number {
  return Number.parseInt(volume.spec?.csi?.volumeHandle ?? '', 10);
}

async function claim(name: string, more: object = {}, storageClassName = 'linode-block-storage'): Promise<void> {
  await kube.create('PersistentVolumeClaim', {
    metadata: { namespace, name },
    spec: { accessModes: ['ReadWriteOnce'], storageClassName, resources: { requests: { storage: '10Gi' } }, ...more },
  });
}

async function bound(name: string): Promise<Resource<'PersistentVolume'>> {
  const at = await until(async () => {
    const { spec, status } = await kube.get('PersistentVolumeClaim', { namespace, name });
    return status?.phase === 'Bound' && spec?.volumeName;
  }, `claim ${name} to be bound`);
  return kube.get('PersistentVolume', { name: at });
}

const getVolume = (volume: Resource<'PersistentVolume'>) =>
  kube.get('PersistentVolume', { name: volume.metadata?.name ?? '' });

/** A pod that mounts a claim at /data, by a folder of it if one is named. It ends at once when it is told to. */
async function pod(name: string, claimName: string, subPath?: string): Promise<void> {
  await kube.create('Pod', {
    metadata: { namespace, name },
    spec: {
      terminationGracePeriodSeconds: 5,
      containers: [
        {
          name: 'main',
          image: 'postgres:17',
          command: ['sh', '-c', 'trap "exit 0" TERM; sleep infinity & wait'],
          volumeMounts: [{ name: 'data', mountPath: '/data', ...(subPath === undefined ? {} : { subPath }) }],
        },
      ],
      volumes: [{ name: 'data', persistentVolumeClaim: { claimName } }],
    },
  });
}

async function running(name: string): Promise<void> {
  await until(
    async () => (await kube.get('Pod', { namespace, name })).status?.containerStatuses?.[0]?.ready === true,
    `pod ${name} to run: see its events`,
  );
}

async function inPod(name: string, script: string): Promise<string> {
  const { metadata } = await kube.get('Pod', { namespace, name });
  return runInPod(kube.kc, { namespace, name, uid: metadata?.uid ?? '', container: 'main' }, ['sh', '-c', script]);
}

async function end(kind: 'Pod' | 'PersistentVolumeClaim', name: string): Promise<void> {
  const { metadata } = await kube.get(kind, { namespace, name });
  await kube.remove(kind, { namespace, name }, metadata?.uid ?? '');
}

async function gone(kind: 'Pod' | 'PersistentVolumeClaim', name: string): Promise<void> {
  await until(async () => (await kube.find(kind, { namespace, name })) === undefined, `${kind} ${name} to be gone`);
}

async function attachments(pv: string) {
  return (await kube.list('VolumeAttachment')).filter(({ spec }) => spec?.source.persistentVolumeName === pv);
}

async function detached(pv: string): Promise<void> {
  await until(async () => (await attachments(pv)).length === 0, `${pv} to be detached`);
}

here('a claim gets a volume as Linode’s driver makes it, attached while a pod uses it', async () => {
  const accessModes = ['ReadWriteOncePod'];
  const resources = { requests: { storage: '12.5Gi' } };
  await claim('one', { accessModes, resources, storageClassName: undefined });
  const volume = await bound('one');
  const { metadata, spec } = await kube.get('PersistentVolumeClaim', { namespace, name: 'one' });
  const uid = metadata?.uid ?? '';
  const label = `pvc-${uid.replaceAll('-', '').slice(0, 16)}`;
  expect(spec?.storageClassName).toBe('linode-block-storage-retain');
  expect(volume).toMatchObject({
    metadata: { name: label, annotations: { 'pv.kubernetes.io/provisioned-by': driver } },
    spec: {
      accessModes,
      capacity: { storage: '12800Mi' },
      claimRef: { namespace, name: 'one', uid },
      csi: {
        driver,
        fsType: 'ext4',
        volumeHandle: `${idOf(volume)}-${label}`,
        volumeAttributes: { 'topology.linode.com/region': cluster?.linode.region },
      },
      nodeAffinity: {
        required: {
          nodeSelectorTerms: [
            {
              matchExpressions: [
                { key: 'topology.linode.com/region', operator: 'In', values: [cluster?.linode.region] },
              ],
            },
          ],
        },
      },
      persistentVolumeReclaimPolicy: 'Retain',
      storageClassName: 'linode-block-storage-retain',
    },
  });
  expect(await provider(volume)).toMatchObject({ label, size: 12, linode_id: null });

  await pod('first', 'one', 'folder');
  await running('first');
  const [attachment] = await attachments(label);
  expect(attachment).toMatchObject({
    metadata: { finalizers: [attacherFinalizer] },
    spec: { attacher: driver, nodeName: cluster?.nodeName },
    status: { attached: true },
  });
  expect((await getVolume(volume)).metadata?.finalizers).toContain(attacherFinalizer);
  expect(await provider(volume)).toMatchObject({ linode_id: cluster?.linode.linodeId });
  await expect(linode('DELETE', `/volumes/${idOf(volume)}`)).rejects.toThrow(/400 .*detached/);
  await inPod('first', 'echo kept >/data/file');

  // A second pod may not share a ReadWriteOncePod claim.
  await pod('second', 'one');
  const refused = await until(
    async () =>
      (await kube.get('Pod', { namespace, name: 'second' })).status?.conditions?.find(
        ({ type, status }) => type === 'PodScheduled' && status === 'False',
      ),
    'the second pod to wait',
  );
  expect(refused.message).toMatch(/ReadWriteOncePod/);
  await end('Pod', 'second');
  await end('Pod', 'first');
  await gone('Pod', 'first');
  await detached(label);
  expect(await provider(volume)).toMatchObject({ linode_id: null });
  // The attacher lets go of a volume's object only when that is deleted.
  const finalizers = ['kubernetes.io/pv-protection', attacherFinalizer];
  expect((await getVolume(volume)).metadata?.finalizers).toEqual(finalizers);
});

here('the claim stays while a pod uses it, and under Retain the volume stays after it', async () => {
  await claim('kept', {}, 'linode-block-storage-retain');
  const volume = await bound('kept');
  await pod('user', 'kept');
  await running('user');
  await end('PersistentVolumeClaim', 'kept');
  await new Promise((resolve) => setTimeout(resolve, 2000));
  const held = await kube.get('PersistentVolumeClaim', { namespace, name: 'kept' });
  expect(held.metadata?.finalizers).toEqual(['kubernetes.io/pvc-protection']);
  expect((await getVolume(volume)).status?.phase).toBe('Bound');
  await end('Pod', 'user');
  await gone('PersistentVolumeClaim', 'kept');
  await until(async () => (await getVolume(volume)).status?.phase === 'Released', 'a released volume');
  await detached(volume.metadata?.name ?? '');
  const { metadata } = await getVolume(volume);
  await kube.remove('PersistentVolume', { name: metadata?.name ?? '' }, metadata?.uid ?? '');
  const object = () => kube.find('PersistentVolume', { name: metadata?.name ?? '' });
  await until(async () => (await object()) === undefined, 'no PV');
  expect(await isAtProvider(idOf(volume))).toBe(true);
  await linode('DELETE', `/volumes/${idOf(volume)}`);
});

here('under Delete the volume goes with its claim, once it is detached, however long that takes', async () => {
  await claim('short');
  const volume = await bound('short');
  const name = volume.metadata?.name ?? '';
  await until(
    async () => (await getVolume(volume)).metadata?.finalizers?.includes(provisionerFinalizer),
    'the finalizer of KEP-2644',
  );
  await pod('brief', 'short');
  await running('brief');
  await order({ detachMs: 15_000 });
  const began = Date.now();
  await end('Pod', 'brief');
  await gone('Pod', 'brief');
  await end('PersistentVolumeClaim', 'short');
  await gone('PersistentVolumeClaim', 'short');
  await until(async () => (await getVolume(volume)).status?.phase === 'Released', 'a released volume');
  const [going] = await attachments(name);
  expect(going?.metadata?.finalizers).toEqual([attacherFinalizer]);
  expect(await provider(volume)).toMatchObject({ linode_id: cluster?.linode.linodeId });
  await detached(name);
  expect(Date.now() - began).toBeGreaterThanOrEqual(15_000);
  await order({ detachMs: 0 });
  await until(async () => (await kube.find('PersistentVolume', { name })) === undefined, 'no PV');
  expect(await isAtProvider(idOf(volume))).toBe(false);
});

here('a volume has the size that was asked for, and grows after its creation', async () => {
  await claim('growing');
  const volume = await bound('growing');
  await pod('before', 'growing');
  await running('before');
  const size = async (name: string) => Number(await inPod(name, 'df -B1 --output=size /data | tail -1'));
  expect(await size('before')).toBeLessThanOrEqual(10 * gib);
  expect(await size('before')).toBeGreaterThan(9 * gib);
  await expect(inPod('before', 'fallocate -l 11G /data/big')).rejects.toThrow(/No space left/);
  await inPod('before', 'rm /data/big');
  await inPod('before', 'echo old >/data/file');
  const at = { namespace, name: 'growing' };
  await kube.patch('PersistentVolumeClaim', at, { spec: { resources: { requests: { storage: '20Gi' } } } });
  await until(async () => (await provider(volume)).size === 20, 'the provider to resize it');
  await until(async () => (await getVolume(volume)).spec?.capacity?.['storage'] === '20Gi', 'the PV to say so');
  // Where the kernel doesn't let us grow what is mounted, the next mount does it.
  await end('Pod', 'before');
  await gone('Pod', 'before');
  await pod('after', 'growing');
  await running('after');
  expect(await size('after')).toBeGreaterThan(19 * gib);
  expect(await inPod('after', 'cat /data/file')).toBe('old\n');
  await until(
    async () => (await kube.get('PersistentVolumeClaim', at)).status?.capacity?.['storage'] === '20Gi',
    'the claim to say so',
  );
  await end('Pod', 'after');
});

here('a PV made by hand binds a volume that exists, and one of a clone has the same bytes', async () => {
  await claim('origin', {}, 'linode-block-storage-retain');
  const origin = await bound('origin');
  await pod('writer', 'origin', 'pgdata');
  await running('writer');
  await inPod('writer', 'head -c 30000000 /dev/urandom >/data/bytes; sync');
  const sum = await inPod('writer', 'sha512sum </data/bytes');
  await end('Pod', 'writer');
  await gone('Pod', 'writer');
  await detached(origin.metadata?.name ?? '');
  const label = `${namespace}-clone`;
  await order({ cloneMs: 3000 });
  const begun = volumeShape.parse(await linode('POST', `/volumes/${idOf(origin)}/clone`, { label }));
  expect(begun.status).toBe('creating');
  await until(async () => (await provider(begun.id)).status === 'active', 'the clone to be active');
  await order({ cloneMs: 0 });
  await kube.create('PersistentVolume', {
    metadata: { name: label },
    spec: {
      capacity: { storage: '10Gi' },
      accessModes: ['ReadWriteOnce'],
      persistentVolumeReclaimPolicy: 'Retain',
      storageClassName: 'linode-block-storage-retain',
      claimRef: { namespace, name: 'restored' },
      csi: { driver, volumeHandle: `${begun.id}-${label}`, fsType: 'ext4' },
    },
  });
  await claim('restored', {}, 'linode-block-storage-retain');
  const restored = await bound('restored');
  expect(restored.metadata?.name).toBe(label);
  await pod('reader', 'restored', 'pgdata');
  await running('reader');
  expect(await inPod('reader', 'sha512sum </data/bytes')).toBe(sum);
  await inPod('reader', 'echo changed >/data/bytes');
  // The original has its own bytes, also while both are mounted.
  await pod('writer', 'origin', 'pgdata');
  await running('writer');
  expect(await inPod('writer', 'sha512sum </data/bytes')).toBe(sum);
  for (const name of ['reader', 'writer']) await end('Pod', name);
  // The device is a file of the stand-in's, as large as the volume and as full as its content.
  expect(existsSync(path.join(cluster?.linode.volumesFolder ?? '', String(begun.id), 'data', 'disk.img'))).toBe(true);
});

/** PostgreSQL with one row of its own, on a volume that would go with its claim. */
async function database(): Promise<void> {
  await claim('postgres-storage', { accessModes: ['ReadWriteOncePod'] });
  const labels = { app: mine };
  await kube.create('Deployment', {
    metadata: { namespace, name: 'postgres' },
    spec: {
      replicas: 1,
      strategy: { type: 'Recreate' },
      selector: { matchLabels: labels },
      template: {
        metadata: { labels },
        spec: {
          containers: [
            {
              name: 'main',
              image: 'postgres:17',
              env: [
                { name: 'POSTGRES_PASSWORD', value: randomBytes(12).toString('hex') },
                { name: 'PGDATA', value: '/var/lib/postgresql/data' },
              ],
              readinessProbe: { exec: { command: ['pg_isready', '-h', '127.0.0.1'] }, periodSeconds: 1 },
              volumeMounts: [{ name: 'data', mountPath: '/var/lib/postgresql/data', subPath: 'pgdata' }],
            },
          ],
          volumes: [{ name: 'data', persistentVolumeClaim: { claimName: 'postgres-storage' } }],
        },
      },
    },
  });
  const at = await serverPod();
  await inPod(at, `psql -U postgres -c "CREATE TABLE kept AS SELECT 'of the original' AS content"`);
}

/** The one ready pod of the database. */
function serverPod(): Promise<string> {
  return until(async () => {
    const pods = await kube.list('Pod', { namespace, labels: `app=${mine}` });
    return pods.find(({ status }) => status?.containerStatuses?.[0]?.ready)?.metadata?.name;
  }, 'a ready server');
}

async function scale(replicas: number): Promise<void> {
  await kube.patch('Deployment', { namespace, name: 'postgres' }, { spec: { replicas } });
  if (replicas > 0) await serverPod();
  else {
    const none = async () => (await kube.list('Pod', { namespace, labels: `app=${mine}` })).length === 0;
    await until(none, 'no server');
  }
}

here('pgleap takes a claim from its volume and binds it back, through a slow detach', async () => {
  const { kc } = kube;
  const provided = linodeActivities({
    baseUrl: cluster?.linode.url ?? '',
    token: () => readFileSync(cluster?.linode.tokenFile ?? '', 'utf8').trim(),
    assertWorld: () => Promise.resolve(),
    pollMs: 500,
  });
  const kubernetes = createKubernetesActivities({
    kubeConfig: kc,
    removeVolume: () => Promise.resolve(),
    provider: provided,
  });
  await database();
  const spec = specSchema.parse({
    database: { namespace },
    target: { image: 'postgres:18' },
    services: [],
  });
  const { facts, checks } = await run(() => kubernetes.inspectCluster({ spec }));
  if (facts === null) throw new Error(JSON.stringify(checks));
  const { database: original } = facts;
  const world: World = {
    clusterUid: facts.clusterUid,
    upgradeId: `u${randomBytes(4).toString('hex')}`,
    startedAt: new Date().toISOString(),
    namespace,
  };
  const { facts: block, checks: seen } = await run(() => provided.inspectVolume({ volume: original.volume }));
  if (block === null) throw new Error(JSON.stringify(seen));
  expect(seen.filter(({ status }) => status === 'FAILED' || status === 'WARNING')).toEqual([]);
  await run(() => kubernetes.setReclaimPolicy({ world, volume: original.volume, policy: 'Retain' }));

  await order({ detachMs: 10_000 });
  const began = Date.now();
  await run(() => kubernetes.haltDatabase({ world, database: original, atRest: facts }));
  await run(() => provided.awaitDetached({ world, volume: block }));
  expect(Date.now() - began).toBeGreaterThanOrEqual(10_000);
  await order({ detachMs: 0 });
  const label = `${namespace}-kept`;
  const clone = await run(() => provided.startClone({ world, volume: block, label }));
  await run(() => provided.awaitClone({ world, clone }));
  const made = await run(() =>
    kubernetes.replaceClaim({ world, database: original, minBytes: 15 * gib, atRest: facts }),
  );
  expect(
    await run(() => kubernetes.replaceClaim({ world, database: original, minBytes: 15 * gib, atRest: facts })),
  ).toEqual(made);
  expect(made.handle).not.toBe(original.volume.handle);
  expect((await kube.get('PersistentVolume', { name: original.volume.pv })).status?.phase).toBe('Released');
  expect(await provider(Number.parseInt(made.handle, 10))).toMatchObject({ size: 15 });

  // Its data begins empty, and is gone after the way back; the original's comes again.
  await scale(1);
  await scale(0);
  await run(() => kubernetes.rebindOriginal({ world, database: original, volume: block, cloneLabel: label }));
  await run(() => kubernetes.rebindOriginal({ world, database: original, volume: block, cloneLabel: label }));
  const back = await kube.get('PersistentVolumeClaim', { namespace, name: original.claim.name });
  expect(back.spec?.volumeName).toBe(original.volume.pv);
  await expect
    .poll(() => kube.find('PersistentVolume', { name: made.pv }), { timeout: 120_000, interval: 500 })
    .toBeUndefined();
  expect(await isAtProvider(Number.parseInt(made.handle, 10))).toBe(false);
  await run(() => kubernetes.restoreReclaimPolicy({ world, volume: original.volume }));
  expect((await kube.get('PersistentVolume', { name: original.volume.pv })).metadata?.finalizers).toContain(
    'kubernetes.io/pv-protection',
  );
  await scale(1);
  const shown = await inPod(await serverPod(), `psql -U postgres -Atc "SELECT content FROM kept"`);
  expect(shown).toBe('of the original\n');
  await run(() => provided.removeClone({ world, source: block, label }));
  expect(await isAtProvider(clone.id)).toBe(false);
});
