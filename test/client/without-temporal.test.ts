/** `pgleap recover` as people type it where Temporal is lost, and of an upgrade that has no journal. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createKube, type Kube } from '../../src/activities/kubernetes/client.ts';
import { createKubernetesActivities, type KubernetesActivities } from '../../src/activities/kubernetes/index.ts';
import { listJournals } from '../../src/activities/kubernetes/journal.ts';
import type { World } from '../../src/domain/facts.ts';
import { deploymentOf, startWorld, type World as Cluster } from '../sandbox/kube-parts.ts';
import { startTemporal } from '../support/temporal.ts';
import { openTerminal, type Terminal } from './commands.ts';

const namespace = 'databases';
const workflowId = 'pgleap/databases/postgres';
const workload = { kind: 'Deployment', namespace, name: 'postgres', uid: '' } as const;

let cluster: Cluster;
let kube: Kube;
let activities: KubernetesActivities;
let terminal: Terminal;

beforeAll(async () => {
  cluster = await startWorld();
  const meta = { apiVersion: 'v1', kind: 'Namespace', metadata: { name: namespace } };
  const site = { apiVersion: 'apps/v1', kind: 'Deployment', ...deploymentOf('site', { replicas: 2 }) };
  cluster.cluster.apply([meta, { ...site, metadata: { ...site.metadata, namespace } }]);
  kube = createKube(cluster.config);
  activities = createKubernetesActivities({
    kubeConfig: cluster.config,
    removeVolume: async () => undefined,
    provider: { hasVolume: async () => true, findClone: async () => null },
  });
  terminal = await openTerminal({
    KUBECONFIG: `${cluster.directory}/cluster/kubeconfig`,
    // Nothing listens there.
    TEMPORAL_ADDRESS: '127.0.0.1:1',
  });
});

afterAll(async () => {
  await terminal?.close();
  await cluster?.close();
});

async function worldOf(upgradeId: string): Promise<World> {
  const { metadata } = await kube.get('Namespace', { name: 'kube-system' });
  return { clusterUid: metadata?.uid ?? '', upgradeId, startedAt: new Date().toISOString(), namespace };
}

const lease = () => kube.find('Lease', { namespace, name: 'pgleap-postgres' });

async function recover(more = ''): Promise<{ code: number; said: string }> {
  const { code, stdout, stderr } = await terminal.type(`pgleap recover databases/postgres ${more}`, 60_000);
  return { code, said: stdout + stderr };
}

test('nothing is put back while nobody can say whether the workflow runs, but for who knows', async () => {
  const world = await worldOf('u0badf0f0');
  const found = await kube.get('Deployment', { namespace, name: 'site' });
  const service = {
    kind: 'Deployment',
    namespace,
    name: 'site',
    uid: found.metadata?.uid ?? '',
    replicas: 2,
    suspended: null,
    readOnly: false,
    login: null,
    hpa: null,
  } as const;
  const rest = { phase: 'prepare', last: false } as const;
  await activities.takeLease({ world, workload, workflowId });
  await activities.beginJournal({ world, workflowId, planHash: 'p', summary: '16 to 18' });
  await activities.journalUndo({
    world,
    undos: [
      { ...rest, id: 'prepare/lease', says: 'release it', activity: 'releaseLease', args: { world, workload } },
      { ...rest, id: 'quiesce/site', says: 'site back', activity: 'restoreService', args: { world, service } },
    ],
  });
  await activities.stopService({ world, service });
  const count = async () => (await kube.get('Deployment', service)).spec?.replicas;

  const refused = await recover('--yes');
  expect(refused.code, refused.said).toBe(4);
  const command = /: pgleap (recover .*--force)$/m.exec(refused.said)?.[1];
  expect(command).toBe('recover databases/postgres --force');
  expect((await terminal.type('pgleap recover databases/postgres --json')).code).toBe(4);
  const shown = await recover('--force');
  expect(shown).toMatchObject({
    code: 0,
    said: expect.stringMatching(/not asked: Temporal does not answer[^]*to site back/),
  });
  expect(await count()).toBe(0);
  expect(await lease()).toBeDefined();

  const done = await recover('--force --yes');
  expect(done).toMatchObject({ code: 0, said: expect.stringContaining('The old world stands again.') });
  expect(await count()).toBe(2);
  expect(await lease()).toBeUndefined();
  expect((await listJournals(kube, namespace)).map(({ head }) => head.outcome)).toEqual(['rolled-back']);
  expect((await recover('--force --yes')).code).toBe(6);
}, 240_000);

test('a Lease that was taken again after its journal was closed is released', async () => {
  const world = await worldOf('u0badf0f0');
  await activities.takeLease({ world, workload, workflowId });
  expect(await recover('--force --yes')).toMatchObject({
    code: 0,
    said: expect.stringMatching(/The Lease is released/),
  });
  expect(await lease()).toBeUndefined();
  expect((await listJournals(kube, namespace)).map(({ head }) => head.outcome)).toEqual(['rolled-back']);
}, 60_000);

test('a Lease without a journal is released, but not while its workflow runs', async () => {
  const temporal = await startTemporal();
  try {
    const world = await worldOf('u0badf0f1');
    await activities.takeLease({ world, workload, workflowId });
    const other = { world: await worldOf('u0badf0f2'), workload, workflowId };
    await expect(activities.takeLease(other)).rejects.toThrow(/pgleap recover databases\/postgres$/);

    const to = `--address ${temporal.address}`;
    const typed = (line: string) => terminal.type(`TEMPORAL_ADDRESS=${temporal.address} ${line}`, 60_000);
    const unknown = await typed('pgleap recover databases/postgres --yes');
    expect(unknown).toMatchObject({
      code: 4,
      stderr: expect.stringMatching(/does not know pgleap\/databases\/postgres[^]*--force/),
    });
    const begun = `--workflow-id ${workflowId} --type upgradePostgres --task-queue nobody`;
    expect((await typed(`temporal workflow start ${to} ${begun}`)).code).toBe(0);
    const held = await lease();
    for (const force of ['', '--force']) {
      expect((await typed(`pgleap recover databases/postgres --yes ${force}`)).code).toBe(7);
    }
    expect(await lease()).toEqual(held);

    await typed(`temporal workflow terminate ${to} --workflow-id ${workflowId}`);
    const shown = await typed('pgleap recover databases/postgres --json');
    expect(JSON.parse(shown.stdout)).toMatchObject({
      changed: false,
      recovery: { direction: 'release', journal: null, upgradeId: 'u0badf0f1', workflow: 'terminated' },
    });
    expect(await lease()).toEqual(held);
    const { code, stdout } = await typed('pgleap recover databases/postgres --yes --json');
    expect([code, JSON.parse(stdout)]).toMatchObject([0, { changed: true, ok: true, outcome: 'released' }]);
    expect(await lease()).toBeUndefined();
    await activities.takeLease(other);
  } finally {
    await temporal.teardown();
  }
}, 240_000);
