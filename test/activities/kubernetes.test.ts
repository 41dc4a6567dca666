/** Everything pgleap does in a cluster, against the sandbox's API server and real pods, in the order of an upgrade. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { KubeConfig } from '@kubernetes/client-node';
import { MockActivityEnvironment } from '@temporalio/testing';
import { DefaultLogger } from '@temporalio/worker';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createCandidateActivities } from '../../src/activities/kubernetes/candidate.ts';
import { createDatabaseActivities } from '../../src/activities/kubernetes/database.ts';
import { createKube, type Kube } from '../../src/activities/kubernetes/client.ts';
import { createKubernetesActivities, type KubernetesActivities } from '../../src/activities/kubernetes/index.ts';
import { runInPod } from '../../src/activities/kubernetes/exec.ts';
import { killJob, pollJob, startJob } from '../../src/activities/kubernetes/jobs.ts';
import { listJournals } from '../../src/activities/kubernetes/journal.ts';
import { sqlText } from '../../src/activities/postgres/psql.ts';
import { unsynced } from '../../src/activities/postgres/sync.ts';
import type {
  AtRest,
  ClusterFacts,
  NewClaimFact,
  ReconcilerFact,
  ServerRef,
  ServiceFact,
  World,
} from '../../src/domain/facts.ts';
import { differencesText } from '../../src/domain/old-world.ts';
import { specSchema, type Spec } from '../../src/domain/spec.ts';
import { EXAMPLE } from '../../src/sandbox/world/world.ts';
import { sourceFacts as source } from '../support/source-facts.ts';
import { oldWorldOf } from '../support/old-world.ts';
import { raiseTestWorld } from '../support/world.ts';

const namespace = 'databases';
const workflowId = 'pgleap/databases/postgres';

let folder: string;
let sandbox: Awaited<ReturnType<typeof raiseTestWorld>>;
let kubeConfig: KubeConfig;
let kube: Kube;
let activities: KubernetesActivities;
let facts: ClusterFacts;
let world: World;
const removed: string[] = [];
/** What else a way back is given. */
const spare = {
  volume: { id: 1, label: 'pvc1', region: 'eu', sizeGb: 10, encryption: 'disabled', monthlyPrice: null },
  cloneLabel: 'clone',
};
/** Of tests whose services run on. */
const atRest: AtRest = { services: [], reconcilers: [] };

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'pgleap-kubernetes-'));
  sandbox = await raiseTestWorld({ stateDir: folder, from: 16, sizeMb: 1 });
  kubeConfig = new KubeConfig();
  kubeConfig.loadFromFile(sandbox.address.kubeconfig);
  kube = createKube(kubeConfig);
  activities = createKubernetesActivities({
    kubeConfig,
    removeVolume: async ({ volume }) => void removed.push(volume.label),
    provider: { hasVolume: async () => true, findClone: async () => null },
  });
}, 180_000);

afterAll(async () => {
  await sandbox?.close();
  await rm(folder, { recursive: true, force: true, maxRetries: 5 });
}, 60_000);

const quiet = new DefaultLogger('ERROR');

/** Runs an activity as a worker does. */
async function act<N extends keyof KubernetesActivities>(
  name: N,
  arg: Parameters<KubernetesActivities[N]>[0],
): Promise<Awaited<ReturnType<KubernetesActivities[N]>>> {
  type Result = Awaited<ReturnType<KubernetesActivities[N]>>;
  const run = activities[name] as (given: typeof arg) => Promise<Result>;
  const environment = new MockActivityEnvironment({ heartbeatTimeoutMs: 30_000 }, { logger: quiet });
  return await environment.run<[typeof arg], Result, typeof run>(run, arg);
}

/** As when a worker is killed between doing and reporting: the same call again must find its work done. */
async function twice<N extends keyof KubernetesActivities>(name: N, arg: Parameters<KubernetesActivities[N]>[0]) {
  const first = await act(name, arg);
  const second = await act(name, arg);
  return { first, second };
}

function makeSpec(change: { database?: object; target?: object; services?: object[] } = {}): Spec {
  return specSchema.parse({
    database: { namespace, ...change.database },
    target: { image: 'postgres:18', ...change.target },
    services: change.services ?? [
      { namespace: 'web', name: 'site' },
      { namespace: 'web', name: 'pinnwand' },
      { namespace: 'bots', name: 'metricity' },
      { namespace: 'monitoring', name: 'grafana', readOnly: true, login: 'grafana' },
      { kind: 'CronJob', namespace, name: 'blackbox' },
    ],
  });
}

function service(name: string): ServiceFact {
  const found = facts.services.find((one) => one.name === name);
  if (found === undefined) throw new Error(`no service ${name}`);
  return found;
}

async function replicas(name: string): Promise<number | undefined> {
  const { kind, namespace: where } = service(name);
  if (kind === 'CronJob') throw new Error('has no replicas');
  return (await kube.get(kind, { namespace: where, name })).spec?.replicas;
}

/** As an import does, or a fingerprint: it leaves the folder of jobs. */
async function runJob({ pod }: ServerRef): Promise<void> {
  await startJob(kubeConfig, pod, { name: 'filled', script: 'true' });
  await expect.poll(async () => (await pollJob(kubeConfig, pod, 'filled')).state).toBe('done');
}

/** What keeps the word of a disk that did not take what was written is heeded. */
async function expectUnsynced(server: ServerRef, call: () => Promise<unknown>): Promise<void> {
  const mark = `/dev/shm/${unsynced(server)}`;
  await runInPod(kubeConfig, server.pod, ['sh', '-c', `echo 'Input/output error' >${mark}`]);
  await expect(call()).rejects.toMatchObject({
    type: 'CommandFailed',
    nonRetryable: true,
    message: expect.stringMatching(/did not take all that was written \(Input\/output error\)/),
  });
  await runInPod(kubeConfig, server.pod, ['rm', mark]);
}

async function inspectWith(change: Parameters<typeof makeSpec>[0]) {
  const { facts: found, checks } = await act('inspectCluster', { spec: makeSpec(change) });
  return { facts: found, failed: checks.filter(({ status }) => status === 'FAILED'), checks };
}

describe('inspectCluster', () => {
  test('finds database, volume and exact counts, and nothing to object to', async () => {
    const { facts: found, failed, checks } = await inspectWith({});
    expect(failed).toEqual([]);
    expect(checks.filter(({ id }) => id === 'kube.unlisted-user')).toEqual([]);
    if (found === null) throw new Error('no facts');
    facts = found;
    world = {
      clusterUid: found.clusterUid,
      upgradeId: 'u0badcafe',
      startedAt: new Date().toISOString(),
      namespace,
    };
    expect(found.database).toMatchObject({
      superuser: 'shop',
      port: 5432,
      image: 'postgres:16',
      mountPath: '/var/lib/postgresql/data',
      subPath: 'pgdata',
      pgdataEnv: null,
      terminationGraceSeconds: 60,
      volume: { driver: 'linodebs.csi.linode.com' },
    });
    expect(found.services.map(({ name, replicas: count, suspended }) => [name, count, suspended])).toEqual([
      ['site', 2, null],
      ['pinnwand', 0, null],
      ['metricity', 1, null],
      ['grafana', 1, null],
      ['blackbox', null, false],
    ]);
    expect(JSON.stringify({ found, checks })).not.toMatch(/password/i);
  });

  test.each([
    [{ database: { workload: 'postgre' } }, 'kube.workload', /does not exist/, /postgres/],
    [{ database: { kind: 'StatefulSet' } }, 'kube.workload', /is a Deployment/, /kind: Deployment/],
    [{ database: { container: 'db' } }, 'kube.container', /no container db/, /postgres/],
    [{ database: { claim: 'other' } }, 'kube.claim', /does not mount other/, /database\.claim/],
    [{ services: [{ namespace: 'web', name: 'sit' }] }, 'kube.service', /web\/sit does not exist/, /services/],
    [{ services: [{ namespace, name: 'postgres' }] }, 'kube.service', /is the database itself/, /services/],
    [{ target: { image: 'postgres:16' } }, 'target.image', /already/, /newer/],
    [{ target: { image: 'postgres:18', major: 17 } }, 'target.image', /says 18/, /Correct/],
    [
      { target: { patch: { spec: { selector: { matchLabels: { app: 'x' } } } } } },
      'target.patch',
      /refuses/,
      /strategic/,
    ],
    [
      {
        target: {
          patch: {
            spec: {
              template: { spec: { containers: [{ name: 'postgres', env: [{ name: 'PGDATA', value: '/tmp/x' }] }] } },
            },
          },
        },
      },
      'target.pgdata-layout',
      /outside of the claim/,
      /target\.patch/,
    ],
  ])('objects to %j', async (change, id, message, remedy) => {
    const { failed } = await inspectWith(change);
    expect(failed).toEqual([
      expect.objectContaining({ id, message: expect.stringMatching(message), remedy: expect.stringMatching(remedy) }),
    ]);
  });

  test('names workloads that use the database without being listed, by variable and never by value', async () => {
    const { checks } = await inspectWith({ services: [{ namespace: 'web', name: 'pinnwand' }] });
    const unlisted = checks.filter(({ id }) => id === 'kube.unlisted-user').map(({ message }) => message);
    expect(unlisted.join()).toMatch(/Deployment web\/site .*environment variable/);
    expect(unlisted.join()).toMatch(/Deployment bots\/metricity/);
    expect(unlisted.join()).not.toMatch(/:\/\//);
  });

  test('names whoever would undo its changes', async () => {
    const at = { namespace: 'web', name: 'site' };
    const labels = {
      'kustomize.toolkit.fluxcd.io/name': 'apps',
      'kustomize.toolkit.fluxcd.io/namespace': 'flux-system',
    };
    await kube.patch('Deployment', at, { metadata: { labels } });
    await kube.patch('Deployment', facts.database.workload, {
      metadata: { annotations: { 'argocd.argoproj.io/tracking-id': 'shop:apps/Deployment:databases/postgres' } },
    });
    const { failed } = await inspectWith({});
    expect(failed.map(({ id, message, remedy }) => [id, message, remedy])).toEqual([
      ['kube.argo-cd', expect.anything(), expect.stringContaining('argocd app set shop --sync-policy none')],
      [
        'kube.flux',
        expect.stringContaining('it is not in this cluster'),
        expect.stringContaining('flux suspend kustomization apps -n flux-system'),
      ],
    ]);
    await kube.patch('Deployment', at, {
      metadata: { labels: Object.fromEntries(Object.keys(labels).map((key) => [key, null])) },
    });
    await kube.patch('Deployment', facts.database.workload, {
      metadata: { annotations: { 'argocd.argoproj.io/tracking-id': null }, labels: { 'cnpg.io/cluster': 'shop' } },
    });
    const operator = await inspectWith({});
    expect(operator.failed).toEqual([
      expect.objectContaining({ id: 'kube.operator', message: expect.stringContaining('CloudNativePG') }),
    ]);
    await kube.patch('Deployment', facts.database.workload, { metadata: { labels: { 'cnpg.io/cluster': null } } });
  });
});

describe('the right world', () => {
  test('another cluster than the plan’s is refused by everything that changes something', async () => {
    const elsewhere = { ...world, clusterUid: 'another' };
    const { database } = facts;
    const fact = service('site');
    const claim = { claimUid: 'c', pv: 'p', handle: 'h' };
    const target: ServerRef = { role: 'target', pod: database.pod, superuser: 'shop', host: null, port: 5432 };
    const spec = makeSpec();
    const reconciler = {
      kind: 'ScaledObject',
      namespace,
      name: 'x',
      uid: 'x',
      apiVersion: 'keda.sh/v1alpha1',
      before: null,
      keeps: [],
    } satisfies ReconcilerFact;
    const volume = { id: 1, label: 'x', region: 'r', sizeGb: 10, encryption: 'disabled', monthlyPrice: null };
    const calls: { [N in keyof KubernetesActivities]?: Parameters<KubernetesActivities[N]>[0] } = {
      takeLease: { world: elsewhere, workload: database.workload, workflowId },
      beginJournal: { world: elsewhere, workflowId, planHash: 'p', summary: 's' },
      journalUndo: { world: elsewhere, undos: [] },
      journalUndone: { world: elsewhere, undoId: 'x' },
      journalOld: { world: elsewhere, old: oldWorldOf(database, { services: facts.services }) },
      readJournal: { world: elsewhere },
      compareOldWorld: { world: elsewhere, old: oldWorldOf(database, { services: facts.services }) },
      journalBack: { world: elsewhere },
      journalCommit: { world: elsewhere },
      closeJournal: { world: elsewhere, outcome: 'x' },
      setReclaimPolicy: { world: elsewhere, volume: database.volume, policy: 'Retain' },
      createScratch: { world: elsewhere, claim: database.claim, bytes: 1 },
      createCandidate: { world: elsewhere, spec, database, source, generation: 0 },
      stopService: { world: elsewhere, service: fact },
      startService: { world: elsewhere, service: fact },
      suspendCronJob: { world: elsewhere, service: service('blackbox') },
      resumeCronJob: { world: elsewhere, service: service('blackbox') },
      haltDatabase: { world: elsewhere, database, atRest: facts },
      replaceClaim: { world: elsewhere, database, minBytes: 0, atRest: facts },
      pauseReconciler: { world: elsewhere, reconciler },
      resumeReconciler: { world: elsewhere, reconciler },
      seeAtRest: { world: elsewhere, atRest: facts },
      deployTarget: { world: elsewhere, spec, database, source },
      emptyTarget: { world: elsewhere, database, claim, target },
      openTarget: { world: elsewhere, database },
      sweepTarget: { world: elsewhere, target },
      restoreReclaimPolicy: { world: elsewhere, volume: database.volume },
      removeCandidate: { world: elsewhere },
      removeScratch: { world: elsewhere },
      releaseLease: { world: elsewhere, workload: database.workload },
      restoreService: { world: elsewhere, service: fact },
      restoreCronJob: { world: elsewhere, service: service('blackbox') },
      restartSource: { world: elsewhere, database },
      rebindOriginal: { world: elsewhere, database, ...spare },
      restoreTemplate: { world: elsewhere, database },
      removeOriginal: { world: elsewhere, database, volume },
    };
    const untested = Object.keys(activities).filter((name) => !(name in calls));
    expect(untested.sort()).toEqual(['inspectCluster', 'observeService']);
    const before = await act('inspectCluster', { spec: makeSpec() });
    for (const [name, arg] of Object.entries(calls)) {
      const run = act(name as 'takeLease', arg as Parameters<KubernetesActivities['takeLease']>[0]);
      await expect(run, name).rejects.toMatchObject({ type: 'WrongWorld', nonRetryable: true });
    }
    expect(await act('inspectCluster', { spec: makeSpec() })).toEqual(before);
    expect(removed).toEqual([]);
  });

  test('an object that was made anew since the plan is refused', async () => {
    const { database } = facts;
    const other = { ...database, workload: { ...database.workload, uid: 'other' } };
    await expect(act('haltDatabase', { world, database: other, atRest })).rejects.toMatchObject({ type: 'WrongWorld' });
    const stranger = { ...service('site'), uid: 'other' };
    await expect(act('stopService', { world, service: stranger })).rejects.toMatchObject({ type: 'WrongWorld' });
    expect(await replicas('site')).toBe(2);
  });

  test('a service that was made anew or is gone starts nothing, and does not keep the rest from being put back', async () => {
    const anew = { ...service('site'), uid: 'other' };
    const gone = { ...service('site'), name: 'gone' };
    const crons = [
      { ...service('blackbox'), uid: 'other' },
      { ...service('blackbox'), name: 'gone' },
    ];
    await expect(act('startService', { world, service: anew })).rejects.toMatchObject({ type: 'WrongWorld' });
    await expect(act('startService', { world, service: gone })).rejects.toMatchObject({ type: 'NotFound' });
    for (const one of [anew, gone]) await act('restoreService', { world, service: one });
    for (const cron of crons) expect(await act('restoreCronJob', { world, service: cron })).toEqual({ missed: null });
    const old = oldWorldOf(facts.database, { services: [anew, gone, ...crons] });
    const seen = await act('compareOldWorld', { world, old });
    expect(differencesText(seen.filter(({ area }) => area === 'service'))).toEqual([
      'Deployment web/site: was there, is another one of that name',
      'Deployment web/gone: was there, is gone',
      'CronJob databases/blackbox: was on, is another one of that name',
      'CronJob databases/gone: was on, is gone',
    ]);
  });

  test('a service that is not there to be stopped holds up nobody who goes back with a loss, and else is an error', async () => {
    const lossy = { ...world, upgradeId: 'u0badb0ac' };
    await act('beginJournal', { world: lossy, workflowId, planHash: 'p', summary: '16 to 18' });
    const stops = () => [
      act('stopService', { world: lossy, service: { ...service('site'), uid: 'other' } }),
      act('suspendCronJob', { world: lossy, service: { ...service('blackbox'), uid: 'other' } }),
    ];
    await act('journalCommit', { world: lossy });
    for (const { status } of await Promise.allSettled(stops())) expect(status).toBe('rejected');
    await act('journalBack', { world: lossy });
    await Promise.all(stops());
    expect(await replicas('site')).toBe(2);
    const at = { namespace, name: `pgleap-${lossy.upgradeId}-journal` };
    await kube.remove('ConfigMap', at, (await kube.get('ConfigMap', at)).metadata?.uid ?? '');
  });

  test('what was scaled or suspended since is stopped for who goes back with a loss, and is put back as it is today', async () => {
    const lossy = { ...world, upgradeId: 'u0badb0ad' };
    await act('beginJournal', { world: lossy, workflowId, planHash: 'p', summary: '16 to 18' });
    const grown = { world: lossy, service: { ...service('site'), replicas: 1 } };
    const shut = { world: lossy, service: { ...service('pinnwand'), replicas: 2 } };
    const cron = { world: lossy, service: service('blackbox') };
    const wasShut = await replicas('pinnwand');
    await kube.patch('Deployment', shut.service, { spec: { replicas: 0 } });
    await kube.patch('CronJob', cron.service, { spec: { suspend: true } });
    const stops = () => [act('stopService', grown), act('stopService', shut), act('suspendCronJob', cron)];
    await act('journalCommit', { world: lossy });
    for (const { status } of await Promise.allSettled(stops())) expect(status).toBe('rejected');
    await act('journalBack', { world: lossy });
    // A second attempt must not take 0 for the count of today.
    for (const attempt of [stops, stops]) {
      await Promise.all(attempt());
      expect([await replicas('site'), await replicas('pinnwand')]).toEqual([0, 0]);
    }
    await Promise.all([act('restoreService', grown), act('restoreService', shut), act('restoreCronJob', cron)]);
    expect([await replicas('site'), await replicas('pinnwand')]).toEqual([2, 0]);
    expect((await kube.get('CronJob', cron.service)).spec?.suspend).toBe(true);
    await kube.patch('Deployment', shut.service, { spec: { replicas: wasShut } });
    await kube.patch('CronJob', cron.service, { spec: { suspend: false } });
    const at = { namespace, name: `pgleap-${lossy.upgradeId}-journal` };
    await kube.remove('ConfigMap', at, (await kube.get('ConfigMap', at)).metadata?.uid ?? '');
  }, 60_000);

  test('what was off before and is on since is stopped for who goes back with a loss, and is left as it was', async () => {
    const lossy = { ...world, upgradeId: 'u0badb0ae' };
    await act('beginJournal', { world: lossy, workflowId, planHash: 'p', summary: '16 to 18' });
    const site = { world: lossy, service: { ...service('site'), replicas: 0 } };
    const cron = { world: lossy, service: { ...service('blackbox'), suspended: true } };
    await act('journalCommit', { world: lossy });
    for (const call of [act('stopService', site), act('suspendCronJob', cron)]) {
      await expect(call).rejects.toMatchObject({ type: 'WrongWorld' });
    }
    await act('journalBack', { world: lossy });
    const { first, second } = await twice('stopService', site);
    expect([first, second]).toEqual([{ had: 2 }, { had: 0 }]);
    const suspended = await twice('suspendCronJob', cron);
    expect([suspended.first, suspended.second]).toMatchObject([{ wasOn: true }, { wasOn: false }]);
    expect(await replicas('site')).toBe(0);
    const [{ metadata }, { metadata: cronMeta, spec }] = await Promise.all([
      kube.get('Deployment', site.service),
      kube.get('CronJob', cron.service),
    ]);
    expect(spec?.suspend).toBe(true);
    expect(Object.keys({ ...metadata?.annotations, ...cronMeta?.annotations }).join()).not.toContain('pgleap.dev/');
    await kube.patch('Deployment', site.service, { spec: { replicas: 2 } });
    await kube.patch('CronJob', cron.service, { spec: { suspend: false } });
    const at = { namespace, name: `pgleap-${lossy.upgradeId}-journal` };
    await kube.remove('ConfigMap', at, (await kube.get('ConfigMap', at)).metadata?.uid ?? '');
  }, 60_000);

  test('a count that changed since the plan is refused, and nothing is put back that was not taken', async () => {
    const planned = { ...service('site'), replicas: 3 };
    await expect(act('stopService', { world, service: planned })).rejects.toThrow(/has 2 replicas, planned were 3/);
    await act('restoreService', { world, service: planned });
    expect(await replicas('site')).toBe(2);
  });
});

describe('an upgrade that is rolled back', () => {
  let claim: NewClaimFact;
  let before: unknown;

  test('takes the lease once, and names its holder to others', async () => {
    before = (await kube.get('Deployment', facts.database.workload)).spec;
    await twice('takeLease', { world, workload: facts.database.workload, workflowId });
    const other = { ...world, upgradeId: 'u00000001' };
    await expect(
      act('takeLease', { world: other, workload: facts.database.workload, workflowId }),
    ).rejects.toMatchObject({
      type: 'Locked',
      message: expect.stringMatching(/pgleap\/databases\/postgres.*u0badcafe/),
    });
    // A stranger releases nothing.
    await act('releaseLease', { world: other, workload: facts.database.workload });
    const { failed } = await inspectWith({});
    expect(failed).toEqual([expect.objectContaining({ id: 'kube.lease' })]);
  });

  test('keeps a journal in order, and replaces what is journalled again', async () => {
    await twice('beginJournal', { world, workflowId, planHash: 'p', summary: '16 to 18' });
    const undo = (id: string, says: string) =>
      ({ id, phase: 'prepare', says, activity: 'removeScratch', args: { world }, last: true }) as const;
    await twice('journalUndo', { world, undos: [undo('prepare/a', 'first'), undo('prepare/b', 'second')] });
    await act('journalUndo', { world, undos: [undo('prepare/c', 'third')] });
    await act('journalUndo', { world, undos: [undo('prepare/a', 'first, again')] });
    await twice('journalUndone', { world, undoId: 'prepare/c' });
    const [journal] = await listJournals(kube, namespace);
    expect(journal?.entries.map(({ undo: { says }, undoneAt }) => [says, undoneAt !== null])).toEqual([
      ['first, again', false],
      ['second', false],
      ['third', true],
    ]);
    expect(journal?.head).toMatchObject({ planHash: 'p', committedAt: null, outcome: null });
    // As a workflow would that was reset to before it went back.
    const old = oldWorldOf(facts.database);
    for (const forward of [
      () => act('journalUndo', { world, undos: [undo('a', 'a')] }),
      () => act('journalOld', { world, old }),
    ]) {
      await expect(forward()).rejects.toMatchObject({
        type: 'Refused',
        message: expect.stringMatching(/pgleap rollback/),
      });
    }
    expect(await listJournals(kube, namespace)).toEqual([journal]);
  });

  test('keeps the original volume whatever happens to its claim', async () => {
    await twice('setReclaimPolicy', { world, volume: facts.database.volume, policy: 'Retain' });
    await twice('createScratch', { world, claim: facts.database.claim, bytes: 11 * 2 ** 30 + 1 });
    const scratch = await kube.get('PersistentVolumeClaim', { namespace, name: `pgleap-${world.upgradeId}-scratch` });
    expect(scratch.spec?.resources?.requests?.['storage']).toBe('12Gi');
  });

  test('has a candidate of the target image that no Service selects', async () => {
    const arg = { world, spec: makeSpec(), database: facts.database, source, generation: 0 };
    const { first, second } = await twice('createCandidate', arg);
    expect(second).toEqual(first);
    expect(Math.floor(first.versionNum / 10_000)).toBe(18);
    const pod = await kube.get('Pod', first.pod);
    expect(pod.metadata?.labels).not.toHaveProperty('app');
    expect(pod.spec?.containers.map(({ ports }) => ports)).toEqual([undefined]);
    const server: ServerRef = { role: 'candidate', pod: first.pod, superuser: 'shop', host: null, port: 5432 };
    const shown = await sqlText(
      kubeConfig,
      server,
      `SHOW listen_addresses; SHOW data_directory; SHOW fsync; SHOW archive_mode`,
    );
    expect(shown).toBe('\n/pgleap/pgdata-0\noff\noff\n');
    // A higher generation is an empty server beside the same files.
    await sqlText(kubeConfig, server, 'CREATE DATABASE leftover', { write: true });
    const next = await act('createCandidate', { ...arg, generation: 1 });
    expect(next.pod.uid).not.toBe(first.pod.uid);
    const fresh = { ...server, pod: next.pod };
    expect(await sqlText(kubeConfig, fresh, `SELECT count(*) FROM pg_database WHERE datname = 'leftover'`)).toBe('0\n');
  });

  test('makes a candidate that is deleted while it starts again', async () => {
    const at = { namespace, name: `pgleap-${world.upgradeId}-candidate` };
    const old = (await kube.get('Pod', at)).metadata?.uid;
    const made = act('createCandidate', { world, spec: makeSpec(), database: facts.database, source, generation: 2 });
    const fresh = async () => {
      const uid = (await kube.find('Pod', at))?.metadata?.uid ?? old;
      return uid === old ? undefined : uid;
    };
    await expect.poll(fresh, { interval: 20, timeout: 60_000 }).toBeDefined();
    const doomed = (await fresh()) ?? '';
    await kube.remove('Pod', at, doomed, { graceSeconds: 0 });
    expect((await made).pod.uid).not.toBe(doomed);
  });

  test('makes another candidate when it is deleted just as it is ready', async () => {
    const arg = { world, spec: makeSpec(), database: facts.database, source, generation: 2 };
    const unlucky: Kube = {
      ...kube,
      async patch(kind, at, ...rest) {
        await kube.remove('Pod', at, (await kube.get('Pod', at)).metadata?.uid ?? '', { graceSeconds: 0 });
        await expect.poll(() => kube.find('Pod', at)).toBeUndefined();
        return kube.patch(kind, at, ...rest);
      },
    };
    const { createCandidate } = createCandidateActivities(unlucky);
    const environment = new MockActivityEnvironment({ attempt: 1 }, { logger: quiet });
    // It is tried again.
    await expect(environment.run(createCandidate, arg)).rejects.toMatchObject({
      type: 'Conflict',
      nonRetryable: false,
    });
    await act('createCandidate', arg);
  });

  test('waits for a candidate that did start and was killed again and again', { timeout: 120_000 }, async () => {
    const arg = { world, spec: makeSpec(), database: facts.database, source, generation: 2 };
    const first = await act('createCandidate', arg);
    const reasons: unknown[] = [];
    for (const restarts of [0, 1, 2]) {
      // The command may end with its container, before it can say so.
      await runInPod(kubeConfig, first.pod, ['sh', '-c', 'kill -QUIT 1']).catch(() => {});
      const ended = async () => {
        const [container] = (await kube.get('Pod', first.pod)).status?.containerStatuses ?? [];
        const reason = container?.state?.waiting?.reason;
        reasons.push(reason);
        // The first time it may be started again at once.
        return reason === 'CrashLoopBackOff' || (container?.restartCount ?? 0) > restarts;
      };
      await expect.poll(ended, { interval: 20, timeout: 10_000 }).toBe(true);
      expect(await act('createCandidate', arg)).toEqual(first);
    }
    expect(reasons).toContain('CrashLoopBackOff');
  });

  test('makes a candidate again whose scratch volume was emptied, before its server notices', async () => {
    const arg = { world, spec: makeSpec(), database: facts.database, source, generation: 2 };
    const first = await act('createCandidate', arg);
    await runInPod(kubeConfig, first.pod, ['sh', '-c', 'rm -rf /pgleap/* 2>/dev/null; rm -rf /pgleap/*']);
    const second = await act('createCandidate', arg);
    expect(second.pod.uid).not.toBe(first.pod.uid);
    const server: ServerRef = { role: 'candidate', pod: second.pod, superuser: 'shop', host: null, port: 5432 };
    expect(await sqlText(kubeConfig, server, 'SHOW data_directory')).toBe('/pgleap/pgdata-2\n');
    expect((await act('createCandidate', arg)).pod.uid).toBe(second.pod.uid);
  });

  test('ends a job without the server taking it for a crashed backend', async () => {
    const at = { namespace, name: `pgleap-${world.upgradeId}-candidate` };
    const pod = { ...at, uid: (await kube.get('Pod', at)).metadata?.uid ?? '', container: 'postgres' };
    await startJob(kubeConfig, pod, { name: 'doomed', script: 'sh -c "sleep 60; true" | (sleep 61; true)' });
    await expect.poll(async () => (await pollJob(kubeConfig, pod, 'doomed')).state).toBe('running');
    await killJob(kubeConfig, pod, 'doomed');
    expect((await pollJob(kubeConfig, pod, 'doomed')).state).toBe('done');
    const server: ServerRef = { role: 'candidate', pod, superuser: 'shop', host: null, port: 5432 };
    expect(await sqlText(kubeConfig, server, 'SELECT 1')).toBe('1\n');
    expect(await kube.log(at, { container: 'postgres' })).not.toMatch(
      /terminated by signal|other active server processes/,
    );
  });

  test('refuses an image that is not there, naming it', async () => {
    const elsewhere = { ...world, upgradeId: 'u00000002' };
    const spec = makeSpec({ target: { image: 'postgres:18-no-such' } });
    await act('createScratch', { world: elsewhere, claim: facts.database.claim, bytes: 1 });
    const arg = { world: elsewhere, spec, database: facts.database, source, generation: 0 };
    await expect(act('createCandidate', arg)).rejects.toMatchObject({
      type: 'PreflightRefused',
      message: expect.stringMatching(/postgres:18-no-such.*target\.image/),
    });
    await twice('removeCandidate', { world: elsewhere });
    // Nor is a server waited for that will never know its superuser.
    const database = { ...facts.database, superuser: 'nobody' };
    await expect(act('createCandidate', { ...arg, spec: makeSpec(), database })).rejects.toMatchObject({
      type: 'PreflightRefused',
      message: expect.stringContaining('has no role nobody'),
    });
    await act('removeCandidate', { world: elsewhere });
    await twice('removeScratch', { world: elsewhere });
    const left = await kube.list('PersistentVolume');
    expect(left.filter(({ spec: one }) => one?.claimRef?.name?.includes('u00000002'))).toEqual([]);
  }, 90_000);

  test('stops services and remembers on them what they were', async () => {
    for (const name of ['site', 'pinnwand', 'metricity']) {
      const { first, second } = await twice('stopService', { world, service: service(name) });
      expect(await replicas(name)).toBe(0);
      expect([first, second]).toEqual([{ had: service(name).replicas }, { had: 0 }]);
    }
    await twice('suspendCronJob', { world, service: service('blackbox') });
    expect((await kube.get('CronJob', service('blackbox'))).spec?.suspend).toBe(true);
    const site = await kube.get('Deployment', service('site'));
    expect(site.metadata?.annotations).toMatchObject({
      'pgleap.dev/upgrade': 'u0badcafe',
      'pgleap.dev/before': 'replicas=2',
    });
    // A workflow that was reset to before this plans with what was, and not with what it left.
    expect((await inspectWith({})).facts?.services).toEqual(facts.services);
    expect(await act('observeService', { world, service: service('site'), since: world.startedAt })).toMatchObject({
      ready: false,
    });
  }, 90_000);

  test('replaces the claim only from a stopped server, and keeps its volume', async () => {
    const arg = { world, database: facts.database, minBytes: 30 * 2 ** 30, atRest: facts };
    await expect(act('replaceClaim', arg)).rejects.toMatchObject({ type: 'NotStopped' });
    await twice('haltDatabase', { world, database: facts.database, atRest: facts });
    // Neither is the target started on the original volume.
    const deploy = { world, spec: makeSpec(), database: facts.database, source };
    await expect(act('deployTarget', deploy)).rejects.toThrow(/still on the original volume/);
    const late = { ...arg, approvedUntil: new Date(Date.now() - 1).toISOString() };
    await expect(act('replaceClaim', late)).rejects.toMatchObject({ type: 'ApprovalLapsed', nonRetryable: true });
    const at = { namespace, name: facts.database.claim.name };
    expect((await kube.get('PersistentVolumeClaim', at)).metadata).toMatchObject({ uid: facts.database.claim.uid });
    const inTime = { ...arg, approvedUntil: new Date(Date.now() + 60_000).toISOString() };
    const { first, second } = await twice('replaceClaim', inTime);
    expect(second).toEqual(first);
    // What was begun in time is finished.
    expect(await act('replaceClaim', late)).toEqual(first);
    claim = first;
    expect(claim.pv).not.toBe(facts.database.volume.pv);
    const original = await kube.get('PersistentVolume', { name: facts.database.volume.pv });
    expect(original.status?.phase).toBe('Released');
    const made = await kube.get('PersistentVolumeClaim', { namespace, name: facts.database.claim.name });
    expect(made.spec).toMatchObject({
      accessModes: facts.database.claim.accessModes,
      resources: { requests: { storage: '30Gi' } },
    });
    // The policy is not given back while that would destroy the volume.
    const volume = { ...facts.database.volume, reclaimPolicy: 'Delete' as const };
    await expect(act('restoreReclaimPolicy', { world, volume })).rejects.toThrow(/would be destroyed/);
  }, 60_000);

  test('has a fenced target, which can be emptied', async () => {
    const arg = { world, spec: makeSpec(), database: facts.database, source };
    const { first, second } = await twice('deployTarget', arg);
    expect(second).toEqual(first);
    const shown = await sqlText(kubeConfig, first, `SHOW listen_addresses; SHOW fsync; SHOW shared_preload_libraries`);
    expect(shown).toBe('\noff\npg_stat_statements\n');
    await sqlText(kubeConfig, first, 'CREATE DATABASE half_restored', { write: true });
    await runJob(first);
    const emptied = await twice('emptyTarget', { world, database: facts.database, claim, target: first });
    expect(emptied.second).toEqual(emptied.first);
    const count = await sqlText(
      kubeConfig,
      emptied.first,
      `SELECT count(*) FROM pg_database WHERE datname = 'half_restored'`,
    );
    expect(count).toBe('0\n');
    const checkpoint = () => sqlText(kubeConfig, emptied.first, 'SELECT checkpoint_lsn FROM pg_control_checkpoint()');
    await sqlText(kubeConfig, emptied.first, 'CREATE TABLE public.unsynced AS SELECT 1', { write: true });
    const unswept = await checkpoint();
    await twice('sweepTarget', { world, target: emptied.first });
    expect(await checkpoint()).not.toBe(unswept);
    await expectUnsynced(emptied.first, () => act('sweepTarget', { world, target: emptied.first }));
  }, 120_000);

  test('ends in exactly the old world', async () => {
    await expect(act('restartSource', { world, database: facts.database })).rejects.toMatchObject({
      type: 'WrongWorld',
    });
    await twice('restoreTemplate', { world, database: facts.database });
    await twice('rebindOriginal', { world, database: facts.database, ...spare });
    await twice('restartSource', { world, database: facts.database });
    for (const name of ['site', 'pinnwand', 'metricity'])
      await twice('restoreService', { world, service: service(name) });
    await twice('restoreCronJob', { world, service: service('blackbox') });
    await twice('removeCandidate', { world });
    await twice('removeScratch', { world });
    await twice('restoreReclaimPolicy', { world, volume: facts.database.volume });
    await twice('closeJournal', { world, outcome: 'rolled-back' });
    const open = await inspectWith({});
    expect(open.failed.map(({ id }) => id)).toContain('kube.leftover');
    for (const undoId of ['prepare/a', 'prepare/b']) await act('journalUndone', { world, undoId });
    await twice('releaseLease', { world, workload: facts.database.workload });

    const { facts: after, failed } = await inspectWith({});
    expect(failed).toEqual([]);
    const { claim: newClaim, pod, podIp, ...rest } = after?.database ?? facts.database;
    const { claim: oldClaim, pod: oldPod, podIp: oldIp, ...old } = facts.database;
    expect(rest).toEqual(old);
    expect({ ...newClaim, uid: oldClaim.uid }).toEqual(oldClaim);
    expect(pod.uid).not.toBe(oldPod.uid);
    expect([podIp, oldIp]).not.toContain('');
    expect(after?.services).toEqual(facts.services);
    const deployment = await kube.get('Deployment', facts.database.workload);
    expect(deployment.spec).toEqual(before);
    const marks = Object.keys(deployment.metadata?.annotations ?? {}).filter((key) => key.startsWith('pgleap.dev/'));
    expect(marks).toEqual([]);
    const volumes = (await kube.list('PersistentVolume')).map(({ spec }) => spec?.claimRef?.name);
    expect(new Set(volumes)).toEqual(new Set(['metricity-progress', 'postgres-storage']));
  }, 120_000);
});

describe('an upgrade that is committed', () => {
  test('is opened while attempts to empty it are frozen, and they do it no harm', async () => {
    const again = await inspectWith({});
    if (again.facts === null) throw new Error('no facts');
    facts = again.facts;
    world = { ...world, upgradeId: 'u0badbeef', startedAt: new Date().toISOString() };
    const { database } = facts;
    const arg = { world, spec: makeSpec(), database, source };
    await act('setReclaimPolicy', { world, volume: database.volume, policy: 'Retain' });
    await act('stopService', { world, service: service('metricity') });
    await act('suspendCronJob', { world, service: service('blackbox') });
    await act('haltDatabase', { world, database, atRest });
    await act('replaceClaim', { world, database, minBytes: 0, atRest });
    const target = await act('deployTarget', arg);

    // As when a machine is paused, and thawed when other attempts have gone on to the end.
    const claim = await claimFact();
    const late = frozenBefore((call, { name }) => call === 'find' && name.endsWith('-eraser'));
    const first = late.run(({ emptyTarget }) => emptyTarget({ world, database, claim, target }));
    await late.frozen;
    const filled = await act('emptyTarget', { world, database, claim, target });
    await sqlText(kubeConfig, filled, 'CREATE DATABASE live', { write: true });
    await runJob(filled);
    const early = frozenBefore((call) => call === 'patch');
    const second = early.run(({ emptyTarget }) => emptyTarget({ world, database, claim, target: filled }));
    await early.frozen;
    // One that has stopped the target already, and is about to empty its volume.
    const last = frozenBefore((call) => call === 'create');
    const third = last.run(({ emptyTarget }) => emptyTarget({ world, database, claim, target: filled }));
    await last.frozen;
    const refilled = await act('deployTarget', arg);
    await act('sweepTarget', { world, target: refilled });
    const opened = await twice('openTarget', arg);
    expect(opened.second).toEqual(opened.first);
    await expectUnsynced(opened.first, () => act('openTarget', arg));
    late.thaw();
    early.thaw();
    last.thaw();
    for (const call of await Promise.allSettled([first, second, third])) {
      expect(call).toMatchObject({ reason: { type: 'WrongWorld', message: expect.stringMatching(/not fenced/) } });
    }
    const live = await sqlText(kubeConfig, opened.first, `SELECT datname FROM pg_database WHERE datname = 'live'`);
    expect(live).toBe('live\n');
    expect((await act('openTarget', arg)).pod).toEqual(opened.first.pod);
  }, 120_000);

  test('has its lasting settings, starts services and removes the original', async () => {
    const { database } = facts;
    const arg = { world, spec: makeSpec(), database, source };
    const volume = { id: 1, label: 'original', region: 'r', sizeGb: 10, encryption: 'disabled', monthlyPrice: null };
    const { first, second } = await twice('openTarget', arg);
    expect(second).toEqual(first);
    expect(await sqlText(kubeConfig, first, `SHOW listen_addresses; SHOW fsync; SHOW wal_level`)).toBe(
      '*\non\nreplica\n',
    );
    await expect(act('emptyTarget', { world, database, claim: await claimFact(), target: first })).rejects.toThrow(
      /not fenced/,
    );
    await expect(act('deployTarget', arg)).rejects.toMatchObject({ type: 'WrongWorld' });
    const { spec } = await kube.get('Deployment', database.workload);
    const container = spec?.template.spec?.containers[0];
    expect(container).toMatchObject({
      image: 'postgres:18',
      args: ['-c', 'shared_preload_libraries=pg_stat_statements', '-c', 'max_connections=100'],
    });
    expect(container?.env).toEqual([{ name: 'PGDATA', value: '/var/lib/postgresql/data' }]);
    expect(JSON.stringify(spec)).not.toContain('pgleap');
    const resumed = await act('resumeCronJob', { world, service: service('blackbox') });
    expect(resumed.missed === null || resumed.missed.includes('blackbox')).toBe(true);
    await twice('removeOriginal', { world, database, volume });
    expect(removed).toEqual(['original', 'original']);
    // As recover does, where the rest of cleanup failed and was aborted.
    expect((await act('openTarget', arg)).pod).toEqual(first.pod);
    expect(await kube.find('PersistentVolume', { name: database.volume.pv })).toBeUndefined();
  }, 120_000);

  /** Database activities that stop before the first call that is asked for, until they are thawed. */
  function frozenBefore(isIt: (call: 'patch' | 'find' | 'create', at: { name: string }) => boolean) {
    const reached = Promise.withResolvers<void>();
    const thawed = Promise.withResolvers<void>();
    const pass = async (...[call, at]: Parameters<typeof isIt>) => {
      if (!isIt(call, at)) return;
      reached.resolve();
      await thawed.promise;
    };
    const slow: Kube = {
      ...kube,
      async patch(kind, at, ...rest) {
        await pass('patch', at);
        return await kube.patch(kind, at, ...rest);
      },
      async find(kind, at) {
        await pass('find', at);
        return await kube.find(kind, at);
      },
      async create(kind, object) {
        await pass('create', { name: object.metadata?.name ?? '' });
        return await kube.create(kind, object);
      },
    };
    const environment = new MockActivityEnvironment({ heartbeatTimeoutMs: 30_000 }, { logger: quiet });
    const frozen = createDatabaseActivities(slow);
    type Frozen = typeof frozen;
    return {
      frozen: reached.promise,
      thaw: thawed.resolve,
      run: <T>(call: (activities: Frozen) => Promise<T>): Promise<T> => environment.run(() => call(frozen)),
    };
  }

  async function claimFact(): Promise<NewClaimFact> {
    const claim = await kube.get('PersistentVolumeClaim', { namespace, name: facts.database.claim.name });
    return { claimUid: claim.metadata?.uid ?? '', pv: claim.spec?.volumeName ?? '', handle: '' };
  }
});

describe('a StatefulSet', () => {
  const home = 'sets';

  test('is halted, replaced, deployed, and put back as a Deployment is', async () => {
    const labels = { app: 'pg' };
    await kube.create('Namespace', { metadata: { name: home, labels: EXAMPLE } });
    await kube.create('Secret', {
      metadata: { namespace: home, name: 'pg' },
      stringData: { POSTGRES_PASSWORD: 'kept-in-the-cluster' },
    });
    await kube.create('StatefulSet', {
      metadata: { namespace: home, name: 'pg' },
      spec: {
        serviceName: 'pg',
        // Its controller would delete the claim as soon as it is scaled to 0.
        persistentVolumeClaimRetentionPolicy: { whenScaled: 'Delete', whenDeleted: 'Delete' },
        selector: { matchLabels: labels },
        template: {
          metadata: { labels },
          spec: {
            terminationGracePeriodSeconds: 60,
            containers: [
              {
                name: 'postgres',
                image: 'postgres:16',
                env: [
                  { name: 'POSTGRES_PASSWORD', valueFrom: { secretKeyRef: { name: 'pg', key: 'POSTGRES_PASSWORD' } } },
                  { name: 'PGDATA', value: '/data/pg' },
                ],
                readinessProbe: { exec: { command: ['pg_isready', '-h', '127.0.0.1'] }, periodSeconds: 1 },
                volumeMounts: [{ name: 'data', mountPath: '/data' }],
              },
            ],
          },
        },
        volumeClaimTemplates: [
          {
            metadata: { name: 'data' },
            spec: {
              accessModes: ['ReadWriteOnce'],
              storageClassName: 'linode-block-storage',
              resources: { requests: { storage: '10Gi' } },
            },
          },
        ],
      },
    });
    const spec = specSchema.parse({
      database: { namespace: home, kind: 'StatefulSet', workload: 'pg' },
      target: { image: 'postgres:18' },
    });
    const claimed = { namespace: home, name: 'data-pg-0' };
    await expect
      .poll(async () => (await kube.find('PersistentVolumeClaim', claimed))?.status?.phase, { timeout: 30_000 })
      .toBe('Bound');
    await kube.patch('PersistentVolumeClaim', claimed, {
      metadata: { annotations: { 'example.org/owner': 'ada' } },
      spec: { resources: { requests: { storage: '14Gi' } } },
    });
    const capacity = async () => (await kube.get('PersistentVolumeClaim', claimed)).status?.capacity?.['storage'];
    await expect.poll(capacity, { timeout: 30_000 }).toBe('14Gi');
    let found: ClusterFacts | null = null;
    await expect
      .poll(async () => (found = (await act('inspectCluster', { spec })).facts) !== null, { timeout: 30_000 })
      .toBe(true);
    found = (await act('inspectCluster', { spec })).facts;
    if (found === null) throw new Error('no facts');
    const { database } = found;
    expect(database).toMatchObject({
      volumeName: 'data',
      pgdataEnv: '/data/pg',
      superuser: 'postgres',
      whenScaled: 'Delete',
      claim: { name: 'data-pg-0', capacityBytes: 14 * 2 ** 30, annotations: { 'example.org/owner': 'ada' } },
    });
    const mine = { ...world, upgradeId: 'u0badf00d', startedAt: new Date().toISOString(), namespace: home };
    const arg = { world: mine, spec, database, source: { ...source, dataDirectory: '/data/pg', preload: [] } };
    const old: ServerRef = { role: 'source', pod: database.pod, superuser: 'postgres', host: null, port: 5432 };
    await sqlText(kubeConfig, old, 'CREATE DATABASE precious', { write: true });
    const before = (await kube.get('StatefulSet', database.workload)).spec;

    await act('setReclaimPolicy', { world: mine, volume: database.volume, policy: 'Retain' });
    await twice('haltDatabase', { world: mine, database, atRest });
    // The garbage collector needs a moment for what it may take.
    await setTimeout(1000);
    expect((await kube.get('PersistentVolumeClaim', claimed)).metadata).toMatchObject({ uid: database.claim.uid });
    const { first: claim } = await twice('replaceClaim', { world: mine, database, minBytes: 0, atRest });
    const made = await kube.get('PersistentVolumeClaim', claimed);
    // Its template still asks for 10Gi.
    expect(made.status?.capacity).toEqual({ storage: '14Gi' });
    expect(made.metadata?.annotations).toMatchObject({ 'example.org/owner': 'ada' });
    const { first: target } = await twice('deployTarget', arg);
    const emptied = await act('emptyTarget', { world: mine, database, claim, target });
    // The same name, another pod.
    expect([emptied.pod.name, emptied.pod.uid === target.pod.uid]).toEqual([target.pod.name, false]);
    expect(await sqlText(kubeConfig, emptied, `SHOW data_directory; SHOW listen_addresses`)).toBe('/data/pg\n\n');

    await twice('restoreTemplate', { world: mine, database });
    // As when a worker dies after it removed the new claim: the original volume carries a reference to the same name.
    const at = { namespace: home, name: database.claim.name };
    await kube.remove('PersistentVolumeClaim', at, claim.claimUid);
    await expect.poll(() => kube.find('PersistentVolumeClaim', at), { timeout: 10_000 }).toBeUndefined();
    await twice('rebindOriginal', { world: mine, database, ...spare });
    const original = await kube.get('PersistentVolume', { name: database.volume.pv });
    expect(original.spec?.persistentVolumeReclaimPolicy).toBe('Retain');
    await expect.poll(() => kube.find('PersistentVolume', { name: claim.pv }), { timeout: 10_000 }).toBeUndefined();
    const differs = async () =>
      (await act('compareOldWorld', { world: mine, old: oldWorldOf(database) }))
        .filter(({ equal }) => equal !== true)
        .map(({ what }) => what);
    expect(await differs()).toContain('whenScaled of StatefulSet sets/pg');
    await twice('restartSource', { world: mine, database });
    await act('restoreReclaimPolicy', { world: mine, volume: database.volume });
    expect(await differs()).toEqual([]);
    expect((await kube.get('StatefulSet', database.workload)).spec).toEqual(before);
    const { facts: after } = await act('inspectCluster', { spec });
    expect(after?.database.volume).toEqual(database.volume);
    expect(after?.database.claim).toEqual({ ...database.claim, uid: after?.database.claim.uid });
    // The same name, another pod.
    const again: ServerRef = { ...old, pod: after?.database.pod ?? old.pod };
    expect(await sqlText(kubeConfig, again, `SELECT datname FROM pg_database WHERE datname = 'precious'`)).toBe(
      'precious\n',
    );
  }, 120_000);
});
