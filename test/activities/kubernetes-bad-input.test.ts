/** What preflight and prepare refuse, asked through the API of a world whose database is as it always is. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AppsV1Api, CoreV1Api, KubeConfig, PatchStrategy, setHeaderOptions } from '@kubernetes/client-node';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { runInPod } from '../../src/activities/kubernetes/exec.ts';
import { createKubernetesActivities, type KubernetesActivities } from '../../src/activities/kubernetes/index.ts';
import { probeChecks, refusedLogin } from '../../src/activities/kubernetes/probes.ts';
import { createPostgresActivities } from '../../src/activities/postgres/index.ts';
import type { ClusterFacts, ServerRef, SourceFacts, World } from '../../src/domain/facts.ts';
import { specSchema, type Spec } from '../../src/domain/spec.ts';
import { eventually } from '../../src/sandbox/world/access.ts';
import { failureOf, run } from './environment.ts';
import { sourceFacts } from '../support/source-facts.ts';
import { onCluster, raiseTestWorld } from '../support/world.ts';

const namespace = 'databases';
let folder: string;
let sandbox: Awaited<ReturnType<typeof raiseTestWorld>>;
let kubeConfig: KubeConfig;
let core: CoreV1Api;
let activities: KubernetesActivities;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'pgleap-bad-'));
  sandbox = await raiseTestWorld({ stateDir: folder, from: 16, sizeMb: 1 });
  kubeConfig = new KubeConfig();
  kubeConfig.loadFromFile(sandbox.address.kubeconfig);
  core = kubeConfig.makeApiClient(CoreV1Api);
  activities = createKubernetesActivities({
    kubeConfig,
    removeVolume: async () => {},
    provider: { hasVolume: async () => true, findClone: async () => null },
  });
}, 300_000);

afterAll(async () => {
  await sandbox?.close();
  await rm(folder, { recursive: true, force: true, maxRetries: 5 });
});

function specOf(target: { image: string; major?: number } = { image: 'postgres:18' }): Spec {
  return specSchema.parse({ database: { namespace }, target, services: ['web/site'] });
}

async function inspected(): Promise<ClusterFacts & { failed: { id: string; message: string }[] }> {
  const { facts, checks } = await run(() => activities.inspectCluster({ spec: specOf() }));
  if (facts === null) throw new Error(`no facts: ${JSON.stringify(checks)}`);
  return { ...facts, failed: checks.filter(({ status }) => status === 'FAILED') };
}

describe('a quota', () => {
  async function quota(hard: Record<string, string>, used: Record<string, string>): Promise<void> {
    const metadata = { name: 'team', namespace };
    const made = await core.createNamespacedResourceQuota({ namespace, body: { metadata, spec: { hard } } });
    if (onCluster) {
      await eventually('what is used', 60, async () => {
        const { status } = await core.readNamespacedResourceQuota({ name: 'team', namespace });
        return status?.used;
      });
      return;
    }
    // Nobody counts in the sandbox.
    made.status = { hard, used };
    await core.replaceNamespacedResourceQuotaStatus({ name: 'team', namespace, body: made });
  }

  test.each([
    ['pods', { pods: '1' }, { pods: '1' }, /allows pods 1, \d is used, and 1 more is needed/],
    [
      'storage',
      { 'requests.storage': '15Gi' },
      { 'requests.storage': '10Gi' },
      /requests.storage 15Gi, 10Gi is used, and \d+Gi more/,
    ],
    [
      'memory',
      { 'limits.memory': '1Gi' },
      {},
      'wants limits.memory of every pod, and the database’s container sets none',
    ],
  ])('of %s without room is named', async (_, hard, used, says) => {
    await quota(hard, used);
    try {
      const { failed } = await inspected();
      expect(failed).toMatchObject([{ id: 'kube.quota', message: expect.stringMatching(says) }]);
    } finally {
      await core.deleteNamespacedResourceQuota({ name: 'team', namespace });
    }
  });

  test('with room is no obstacle', async () => {
    await quota({ pods: '10', 'requests.storage': '1Ti', configmaps: '0' }, { pods: '3', 'requests.storage': '10Gi' });
    try {
      expect((await inspected()).failed).toEqual([]);
    } finally {
      await core.deleteNamespacedResourceQuota({ name: 'team', namespace });
    }
  });

  test('a LimitRange below the volume’s size is named', async () => {
    const limits = [{ type: 'PersistentVolumeClaim', max: { storage: '1Gi' } }];
    await core.createNamespacedLimitRange({ namespace, body: { metadata: { name: 'small' }, spec: { limits } } });
    try {
      expect((await inspected()).failed).toMatchObject([
        { id: 'kube.quota', message: expect.stringContaining('a LimitRange allows claims of 1Gi at most') },
      ]);
    } finally {
      await core.deleteNamespacedLimitRange({ name: 'small', namespace });
    }
  });
});

test('a second pod on the claim is named', async () => {
  const { claim } = (await inspected()).database;
  const volumes = [{ name: 'data', persistentVolumeClaim: { claimName: claim.name } }];
  const containers = [{ name: 'shell', image: 'postgres:16', command: ['sleep', '1000'] }];
  await core.createNamespacedPod({ namespace, body: { metadata: { name: 'curious' }, spec: { containers, volumes } } });
  try {
    expect((await inspected()).failed).toMatchObject([
      { id: 'kube.claim-users', message: expect.stringContaining('Pod databases/curious uses claim') },
    ]);
  } finally {
    await core.deleteNamespacedPod({ namespace, name: 'curious', gracePeriodSeconds: 0 });
  }
});

test('a volume of another driver is named, with the option to go without a clone', async () => {
  const { workload, claim, volumeName } = (await inspected()).database;
  const name = 'elsewhere';
  const driver = 'disk.csi.example.com';
  const capacity = { storage: '10Gi' };
  const accessModes = ['ReadWriteOnce'];
  await core.createPersistentVolume({
    body: {
      metadata: { name },
      spec: {
        capacity,
        accessModes,
        storageClassName: claim.storageClass,
        persistentVolumeReclaimPolicy: 'Retain',
        claimRef: { namespace, name },
        csi: { driver, volumeHandle: 'vol-1' },
      },
    },
  });
  const spec = {
    accessModes,
    storageClassName: claim.storageClass,
    volumeName: name,
    resources: { requests: capacity },
  };
  await core.createNamespacedPersistentVolumeClaim({ namespace, body: { metadata: { name }, spec } });
  const apps = kubeConfig.makeApiClient(AppsV1Api);
  const at = { namespace, name: workload.name };
  const { spec: before } = await apps.readNamespacedDeployment(at);
  // No node has that driver: the pod of now stays.
  const mount = async (paused: boolean, claimName: string) => {
    const volumes = [{ name: volumeName, persistentVolumeClaim: { claimName } }];
    const body = { spec: { paused, template: { spec: { volumes } } } };
    await apps.patchNamespacedDeployment(
      { ...at, body },
      setHeaderOptions('Content-Type', PatchStrategy.StrategicMergePatch),
    );
  };
  try {
    await eventually('the claim', 60, async () => {
      const { status } = await core.readNamespacedPersistentVolumeClaim({ namespace, name });
      return status?.phase === 'Bound' ? true : undefined;
    });
    await mount(true, name);
    expect((await run(() => activities.inspectCluster({ spec: specOf() }))).checks).toContainEqual({
      id: 'kube.csi-driver',
      status: 'FAILED',
      message: `PersistentVolume ${name} is of the driver ${driver}; pgleap clones volumes of linodebs.csi.linode.com only.`,
      remedy: expect.stringContaining('set clone: none in the spec'),
    });
    const without = await run(() => activities.inspectCluster({ spec: { ...specOf(), clone: 'none' } }));
    expect(without.checks).toContainEqual(expect.objectContaining({ id: 'kube.csi-driver', status: 'PASSED' }));
    expect(without.facts?.database.volume).toMatchObject({ pv: name, driver, handle: 'vol-1' });
  } finally {
    await mount(false, claim.name);
    await core.deleteNamespacedPersistentVolumeClaim({ namespace, name });
    await core.deletePersistentVolume({ name });
  }
  expect((await apps.readNamespacedDeployment(at)).spec?.template).toEqual(before?.template);
});

describe('a target image', () => {
  let world: World;
  let facts: ClusterFacts;

  beforeAll(async () => {
    facts = await inspected();
    const startedAt = new Date().toISOString();
    world = { clusterUid: facts.clusterUid, upgradeId: 'u0badbad0', startedAt, namespace };
    const { claim } = facts.database;
    await run(() => activities.createScratch({ world, claim, bytes: claim.capacityBytes }));
  });

  const source: SourceFacts = { ...sourceFacts, preload: [] };

  test.each([
    [
      'that no node can pull',
      { image: 'postgres:no-such-tag', major: 18 },
      /cannot pull postgres:no-such-tag \(.*ErrImagePull: .+\): check target.image/,
    ],
    [
      'of another major than the spec says',
      { image: 'postgres:18', major: 17 },
      /holds PostgreSQL 18\.\d+, but the spec says major 17/,
    ],
    ['of a lower major', { image: 'postgres:15' }, /holds PostgreSQL 15, which is not above the source's 16/],
  ])('%s ends prepare within a minute, with what to do', async (_, target, says) => {
    const began = performance.now();
    const arg = {
      world,
      spec: specOf(target),
      database: facts.database,
      source,
      generation: target.image === 'postgres:15' ? 2 : 1,
    };
    const failure = await failureOf(
      run(() => activities.createCandidate(arg)),
      'PreflightRefused',
      [],
    );
    expect(failure.message).toMatch(says);
    expect(performance.now() - began).toBeLessThan(60_000);
    await run(() => activities.removeCandidate({ world }));
  });

  // The sandbox's volumes are folders of one disk.
  test.runIf(onCluster)(
    'on a scratch volume without room: a dump names it, and is made when there is room',
    async () => {
      const { database } = facts;
      const { superuser, port, podIp } = database;
      const candidate = { world, spec: specOf(), database, source, generation: 3 };
      const { pod, compression } = await run(() => activities.createCandidate(candidate));
      const inCandidate = (script: string) => runInPod(kubeConfig, pod, ['sh', '-c', script], { timeoutMs: 60_000 });
      const from: ServerRef = { role: 'source', pod, superuser, host: podIp, port };
      const postgres = createPostgresActivities({ kubeConfig });
      const dumped = () => run(() => postgres.dump({ world, from, compression, estimateBytes: 0, name: 'full' }));
      await inCandidate('fallocate -l "$(($(df -B1 --output=avail /pgleap | tail -n 1) - 20000))" /pgleap/other');
      const { message } = await failureOf(dumped(), 'NoSpace', []);
      expect(message).toMatch(/claim databases\/pgleap-u0badbad0-scratch \(.+B\) is full/);
      expect(message).toContain('kubectl -n databases edit pvc pgleap-u0badbad0-scratch');
      await inCandidate('rm /pgleap/other');
      expect((await dumped()).bytes).toBeGreaterThan(20_000);
    },
  );
});

describe('a probe behind the fence', () => {
  test.each([
    ['pg_isready -h 127.0.0.1 -U app', undefined],
    ['psql -U postgres -c "SELECT 1"', undefined],
    ['psql -U $POSTGRES_USER -d shop -c "SELECT 1"', undefined],
    ['psql -h /var/run/postgresql -U postgres', undefined],
    ['psql -U app -c "SELECT 1"', 'it logs in as app'],
    ['psql --username=app', 'it logs in as app'],
    ['PGUSER=app psql -c "SELECT 1"', 'it logs in as app'],
    ['psql -h 127.0.0.1 -U postgres', 'it connects to 127.0.0.1 over TCP'],
    ['psql postgresql://app:secret@localhost:5432/shop', 'it connects to localhost over TCP'],
    ['psql "host=localhost user=postgres"', 'it connects to localhost over TCP'],
    ['test -f /tmp/ready', undefined],
  ])('%s', (command, why) => {
    expect(refusedLogin(['sh', '-c', command], 'postgres')).toBe(why);
  });

  test('kills the server, or only shows it as not ready', () => {
    const exec = { command: ['psql', '-U', 'app', '-c', 'SELECT 1'] };
    const checks = probeChecks({ name: 'postgres', livenessProbe: { exec }, readinessProbe: { exec } }, 'postgres');
    expect(checks).toMatchObject([
      { id: 'kube.probes', status: 'FAILED', message: expect.stringContaining('because it logs in as app') },
      { id: 'kube.probes', status: 'WARNING' },
    ]);
    expect(probeChecks({ name: 'postgres', livenessProbe: { tcpSocket: { port: 5432 } } }, 'postgres')).toMatchObject([
      { status: 'INFO' },
    ]);
  });
});
