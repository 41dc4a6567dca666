/** What the database goes back to when something of its old volume is gone, and what is kept of a volume that was opened. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { messageOf } from '../../src/activities/errors.ts';
import type { Kube } from '../../src/activities/kubernetes/client.ts';
import { runInPod } from '../../src/activities/kubernetes/exec.ts';
import { createVolumeActivities } from '../../src/activities/kubernetes/volumes.ts';
import { seeRebound } from '../../src/activities/kubernetes/old-volume.ts';
import type { SharedActivities } from '../../src/activities/types.ts';
import { readSpecFile } from '../../src/client/spec-file.ts';
import type {
  BlockVolumeFact,
  ClusterFacts,
  NewClaimFact,
  ServerRef,
  SourceFacts,
  World,
} from '../../src/domain/facts.ts';
import { differencesText, type OldWorld } from '../../src/domain/old-world.ts';
import { specSchema } from '../../src/domain/spec.ts';
import { compare, type Way } from '../../src/workflows/go-back.ts';
import { run } from './environment.ts';
import { activitiesIn } from '../support/activities.ts';
import { oldWorldOf } from '../support/old-world.ts';
import { raiseTestWorld } from '../support/world.ts';

const namespace = 'databases';
const atRest = { services: [], reconcilers: [] };
const spec = specSchema.parse({
  database: { namespace },
  target: { image: 'postgres:18' },
  services: [
    { namespace: 'web', name: 'site' },
    { kind: 'CronJob', namespace, name: 'blackbox' },
  ],
});

let folder: string;
let sandbox: Awaited<ReturnType<typeof raiseTestWorld>>;
let kube: Kube;
let activities: SharedActivities;
let count = 0;
let world: World;
let facts: ClusterFacts;
let source: SourceFacts;
let volume: BlockVolumeFact;
let cloneLabel: string;
let made: NewClaimFact;
/** Of `pg_hba.conf` before the fence took its place. */
let hba: string;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'pgleap-old-volume-'));
  sandbox = await raiseTestWorld({ stateDir: folder, from: 16, sizeMb: 1 });
  ({ kube, activities } = activitiesIn(sandbox.address, folder));
}, 180_000);

afterAll(async () => {
  await sandbox?.close();
  await rm(folder, { recursive: true, force: true, maxRetries: 5 });
}, 60_000);

/** Up to a replaced volume, with a clone of the old one: both with the fence that the source was stopped with. */
beforeEach(async () => {
  count += 1;
  const startedAt = new Date().toISOString();
  const found = await run(() => activities.inspectCluster({ spec }));
  if (found.facts === null) throw new Error(JSON.stringify(found.checks.filter(({ status }) => status === 'FAILED')));
  facts = found.facts;
  const { database } = facts;
  const asked = await run(() => activities.inspectSource({ spec, database }));
  if (asked.facts === null) throw new Error('no source');
  source = asked.facts;
  world = { clusterUid: facts.clusterUid, upgradeId: `u0badca0${count}`, startedAt, namespace };
  const block = await run(() => activities.inspectVolume({ volume: database.volume }));
  if (block.facts === null) throw new Error('no volume');
  volume = block.facts;
  cloneLabel = `pgleap-${world.upgradeId}-data`;
  await run(() =>
    activities.beginJournal({ world, workflowId: 'pgleap/databases/postgres', planHash: '', summary: '' }),
  );
  await run(() => activities.setReclaimPolicy({ world, volume: database.volume, policy: 'Retain' }));
  const { superuser, port, pod } = database;
  const server: ServerRef = { role: 'source', pod, superuser, host: null, port };
  const { hbaFile } = source;
  ({ hba } = await run(() =>
    activities.fenceSource({ world, source: server, hbaFile, candidateIp: '192.0.2.1', readOnlyLogins: [] }),
  ));
  await run(() => activities.haltDatabase({ world, database, atRest }));
  await run(() => activities.awaitDetached({ world, volume }));
  const clone = await run(() => activities.startClone({ world, volume, label: cloneLabel }));
  await run(() => activities.awaitClone({ world, clone }));
  made = await run(() => activities.replaceClaim({ world, database, minBytes: 1, atRest }));
}, 180_000);

const rebind = () => run(() => activities.rebindOriginal({ world, database: facts.database, volume, cloneLabel }));

async function boundVolume() {
  const claim = await kube.get('PersistentVolumeClaim', { namespace, name: facts.database.claim.name });
  return await kube.get('PersistentVolume', { name: claim.spec?.volumeName ?? '' });
}

function oldWorld(): OldWorld {
  const { systemIdentifier } = source;
  const { database, services } = facts;
  return oldWorldOf(database, { volume, cloneLabel, systemIdentifier, services, hba, artifacts: folder });
}

/** Looks once, as both who go back do. */
const way: Pick<Way, 'look' | 'all'> = {
  async look(name, _says, arg) {
    try {
      return { answer: (await run(() => (activities[name] as (given: unknown) => Promise<unknown>)(arg))) as never };
    } catch (error) {
      return { failed: messageOf(error) };
    }
  },
  all: (promises) => Promise.all(promises),
};

async function startAndCompare(): Promise<string[]> {
  const { database } = facts;
  await run(() => activities.restartSource({ world, database }));
  const { pod } = await run(() => activities.seeSource({ world, database }));
  const remote = `SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND client_addr IS NOT NULL`;
  const sessions = async () =>
    Number(await runInPod(kube.kc, pod, ['psql', '-qAtX', '-U', database.superuser, '-d', 'postgres', '-c', remote]));
  expect(await sessions()).toBe(0);
  expect(await differences([])).toEqual(expect.arrayContaining([expect.stringMatching(/^pg_hba.conf: was /)]));
  await run(() => activities.liftSourceFence({ world, database, hbaFile: source.hbaFile }));
  await run(() => activities.restoreReclaimPolicy({ world, volume: database.volume }));
  // The services themselves log in again.
  await expect.poll(sessions, { timeout: 60_000 }).toBeGreaterThan(0);
  return differences();
}

async function differences(services = facts.services): Promise<string[]> {
  return differencesText(await compare(way, world, { ...oldWorld(), services }, []));
}

test('the original volume by its own PV; whatever is not as it was is named, one thing after the other', async () => {
  expect(await rebind()).toEqual({ volume: 'original', kept: null });
  expect(await rebind()).toEqual({ volume: 'original', kept: null });
  expect(await startAndCompare()).toEqual([]);

  const { database } = facts;
  const { workload, claim, pod } = database;
  const { maintenance } = (await readSpecFile(sandbox.address.upgradeSpec)).spec;
  if (!maintenance) throw new Error('the sandbox’s spec has no maintenance');
  const { script } = maintenance;
  const { routes } = await run(() => activities.inspectRoutes({ maintenance }));
  const route = routes[0];
  if (!route) throw new Error('no route');
  const undo = { id: 'r', phase: 'maintain', says: '', activity: 'restoreRoute', last: false, done: true } as const;
  const old = { ...oldWorld(), maintenance, routes };
  const differing = async (services = old.services) =>
    differencesText(await compare(way, world, { ...old, services }, [{ ...undo, args: { world, route, script } }]));
  const inServer = async (...argv: string[]) =>
    runInPod(kube.kc, (await run(() => activities.seeSource({ world, database }))).pod, argv);
  const alter = (sql: string) => inServer('psql', '-qX', '-U', database.superuser, '-d', 'postgres', '-c', sql);
  expect(await differing()).toEqual([]);

  const site = { namespace: 'web', name: 'site' };
  const cron = { namespace, name: 'blackbox' };
  await kube.patch('Deployment', site, { spec: { replicas: 1 } });
  await kube.patch('CronJob', cron, { spec: { suspend: true } });
  expect(await differing()).toEqual([
    expect.stringMatching(/^Deployment web\/site: was 2 replicas, is 1 replicas/),
    'CronJob databases/blackbox: was on, is suspended',
  ]);
  await kube.patch('Deployment', site, { spec: { replicas: 2 } });
  await kube.patch('CronJob', cron, { spec: { suspend: false } });

  const policy = (value: string) =>
    kube.patch('PersistentVolume', { name: database.volume.pv }, { spec: { persistentVolumeReclaimPolicy: value } });
  await policy('Recycle');
  expect(await differing()).toEqual([`reclaim policy: was ${database.volume.reclaimPolicy}, is Recycle`]);
  await policy(database.volume.reclaimPolicy);

  await inServer('sh', '-c', 'echo "# by hand" >>"$PGDATA/pg_hba.conf"');
  expect(await differing()).toEqual([expect.stringMatching(/^pg_hba.conf: was /)]);
  await inServer('sed', '-i', '$d', source.hbaFile);

  await run(() => activities.setRoute({ world, route, script }));
  expect(await differing()).toEqual([
    expect.stringMatching(/^route .*: was .*, is /),
    expect.stringMatching(/^the site over HTTP: not seen/),
  ]);
  await run(() => activities.restoreRoute({ world, route, script }));

  // Services that lose the database are not ready, which is waited for: not here.
  await alter("ALTER SYSTEM SET listen_addresses = ''");
  await run(() => activities.haltDatabase({ world, database, atRest }));
  const image = (value: string) =>
    kube.patch(
      workload.kind,
      workload,
      { spec: { template: { spec: { containers: [{ name: pod.container, image: value }] } } } },
      { strategic: true },
    );
  await image('postgres:18');
  expect(await differing([])).toEqual([
    `image of Deployment databases/postgres: was ${database.image}, is postgres:18`,
    expect.stringMatching(/^pod template of Deployment databases\/postgres: was /),
    'replicas of Deployment databases/postgres: was 1, is 0',
    expect.stringMatching(/^server: not seen/),
  ]);
  await image(database.image);
  await run(() => activities.restartSource({ world, database }));
  expect(await differing([])).toEqual(['takes logins over TCP: was yes, is no']);
  await alter('ALTER SYSTEM RESET listen_addresses');
  await run(() => activities.haltDatabase({ world, database, atRest }));
  await run(() => activities.restartSource({ world, database }));

  const other = { ...old, systemIdentifier: '7', database: { ...database, claim: { ...claim, name: 'other' } } };
  expect(differencesText(await compare(way, world, other, []))).toEqual([
    `volume under claim databases/other: was ${database.volume.handle}, Bound, is no volume, no claim`,
    expect.stringMatching(/^reclaim policy: /),
    `system identifier: was 7, is ${source.systemIdentifier}`,
  ]);
  expect(await differing()).toEqual([]);
  await run(() => activities.removeClone({ world, source: volume, label: cloneLabel }));
}, 300_000);

test('a PV that is gone is made anew on the original volume', async () => {
  const { pv, pvUid, handle } = facts.database.volume;
  await kube.remove('PersistentVolume', { name: pv }, pvUid);
  await expect.poll(() => kube.find('PersistentVolume', { name: pv }), { timeout: 20_000 }).toBeUndefined();
  expect(await rebind()).toEqual({ volume: 'original-static', kept: null });
  expect(await rebind()).toEqual({ volume: 'original-static', kept: null });
  const bound = await boundVolume();
  expect(bound.metadata?.name).toBe(`pgleap-${world.upgradeId}-original`);
  const { claimRef: _claimRef, persistentVolumeReclaimPolicy, ...lasting } = bound.spec ?? {};
  expect(lasting).toEqual(facts.database.volume.spec);
  expect([bound.spec?.csi?.volumeHandle, persistentVolumeReclaimPolicy]).toEqual([handle, 'Retain']);
  expect(await startAndCompare()).toEqual([]);
  await run(() => activities.removeClone({ world, source: volume, label: cloneLabel }));
}, 120_000);

test('a volume that is gone at the provider leaves its clone, which is not removed then', async () => {
  await run(() =>
    activities.rebindOriginal({ world, database: facts.database, volume: { ...volume, id: 1 }, cloneLabel: 'nothing' }),
  ).then(
    () => expect.unreachable(),
    (error: unknown) => expect(error).toMatchObject({ type: 'Refused' }),
  );
  const { linode } = sandbox.address;
  const gone = await fetch(`${linode.url}/v4/volumes/${volume.id}`, {
    method: 'DELETE',
    headers: { authorization: `Bearer ${linode.token}` },
  });
  expect(gone.status).toBe(200);
  expect(await rebind()).toEqual({ volume: 'clone', kept: null });
  expect((await boundVolume()).spec).toMatchObject({
    persistentVolumeReclaimPolicy: 'Retain',
    csi: { volumeHandle: expect.stringMatching(new RegExp(`^\\d+-${cloneLabel}$`)) },
  });
  // Also before its pod has it attached.
  await expect(run(() => activities.removeClone({ world, source: volume, label: cloneLabel }))).rejects.toMatchObject({
    type: 'Refused',
  });
  expect(await startAndCompare()).toEqual([expect.stringContaining('volume under claim databases/postgres-storage')]);
}, 120_000);

test('a claim that is not the original volume’s is not taken for it', async () => {
  const { database } = facts;
  const { claim, volume: original } = database;
  const at = { namespace, name: claim.name };
  const provider = { hasVolume: async () => true, findClone: async () => null };
  const rebindWith = (part: Partial<Kube>) =>
    run(() =>
      createVolumeActivities({ ...kube, ...part }, provider).rebindOriginal({ world, database, volume, cloneLabel }),
    );
  // As a tool that keeps the claim as in Git: between the claim that goes and the one that is made.
  const other = rebindWith({
    async patch(kind, name, ...rest) {
      if (kind === 'PersistentVolume' && name.name === original.pv) {
        const { accessModes, storageClass: storageClassName } = claim;
        const resources = { requests: { storage: '10Gi' } };
        await kube.create('PersistentVolumeClaim', {
          metadata: at,
          spec: { accessModes, storageClassName, resources },
        });
        const phase = async () => (await kube.get('PersistentVolumeClaim', at)).status?.phase;
        await expect.poll(phase, { timeout: 20_000 }).toBe('Bound');
      }
      return await kube.patch(kind, name, ...rest);
    },
  });
  const message = expect.stringMatching(/is on PersistentVolume .*, not on the original .* Delete it/);
  await expect(other).rejects.toMatchObject({ type: 'WrongWorld', message });
  await kube.remove('PersistentVolumeClaim', at, (await kube.get('PersistentVolumeClaim', at)).metadata?.uid ?? '');
  await expect.poll(() => kube.find('PersistentVolumeClaim', at), { timeout: 20_000 }).toBeUndefined();
  expect(await rebind()).toEqual({ volume: 'original', kept: null });

  const get: Kube['get'] = async (kind, name) => {
    const found = await kube.get(kind, name);
    if ('spec' in found && 'claimRef' in (found.spec ?? {}))
      Object.assign(found.spec ?? {}, { claimRef: { uid: 'x' } });
    return found;
  };
  await expect(rebindWith({ get })).rejects.toMatchObject({
    type: 'WrongWorld',
    message: expect.stringMatching(/is not bound to claim .* but to .* of uid x/),
  });
  await startAndCompare();
  await run(() => activities.removeClone({ world, source: volume, label: cloneLabel }));
}, 120_000);

test('a volume that was opened is kept, whatever its policy said', async () => {
  await run(() => activities.journalCommit({ world }));
  await kube.patch('PersistentVolume', { name: made.pv }, { spec: { persistentVolumeReclaimPolicy: 'Delete' } });
  const kept = { pv: made.pv, handle: made.handle };
  expect(await rebind()).toEqual({ volume: 'original', kept });
  expect(await rebind()).toEqual({ volume: 'original', kept });
  const left = await kube.get('PersistentVolume', { name: made.pv });
  expect(left.spec?.persistentVolumeReclaimPolicy).toBe('Retain');
  expect(left.metadata?.labels).toMatchObject({ 'pgleap.dev/upgrade': world.upgradeId, 'pgleap.dev/kept': 'opened' });
  await expect
    .poll(async () => (await kube.get('PersistentVolume', { name: made.pv })).status?.phase, { timeout: 20_000 })
    .toBe('Released');

  // Where somebody removed the journal, nothing but its label says that it was opened.
  const journal = { namespace, name: `pgleap-${world.upgradeId}-journal` };
  await kube.remove('ConfigMap', journal, (await kube.get('ConfigMap', journal)).metadata?.uid ?? '');
  const claim = { namespace, name: facts.database.claim.name };
  await kube.remove(
    'PersistentVolumeClaim',
    claim,
    (await kube.get('PersistentVolumeClaim', claim)).metadata?.uid ?? '',
  );
  await expect.poll(() => kube.find('PersistentVolumeClaim', claim), { timeout: 20_000 }).toBeUndefined();
  expect(await rebind()).toEqual({ volume: 'original', kept });
  expect(await seeRebound(kube, world, facts.database)).toEqual({ volume: 'original', kept });
  const still = await kube.get('PersistentVolume', { name: made.pv });
  expect(still.spec?.persistentVolumeReclaimPolicy).toBe('Retain');
  await startAndCompare();
}, 120_000);
