/** What a workflow that was reset asks for again, when its journal knows better. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { cloudflareActivities } from '../../src/activities/cloudflare.ts';
import { askingJournal } from '../../src/activities/forward.ts';
import type { Kube } from '../../src/activities/kubernetes/client.ts';
import { runInPod } from '../../src/activities/kubernetes/exec.ts';
import { listJournals } from '../../src/activities/kubernetes/journal.ts';
import { createServiceActivities } from '../../src/activities/kubernetes/services.ts';
import type { SharedActivities } from '../../src/activities/types.ts';
import type { ClusterFacts, RouteFact, ServerRef, ServiceFact, World } from '../../src/domain/facts.ts';
import { unknownWrites, writesSince, type Writes } from '../../src/domain/old-world.ts';
import { specSchema } from '../../src/domain/spec.ts';
import type { Undo } from '../../src/domain/undo.ts';
import { run } from './environment.ts';
import { activitiesIn } from '../support/activities.ts';
import { oldWorldOf } from '../support/old-world.ts';
import { raiseTestWorld } from '../support/world.ts';

const namespace = 'databases';
const workflowId = 'pgleap/databases/postgres';
const script = 'maintenance';
const atRest = { services: [], reconcilers: [] };
const volume = { id: 1, label: 'pvc1', region: 'eu', sizeGb: 10, encryption: 'disabled', monthlyPrice: null };

let folder: string;
let sandbox: Awaited<ReturnType<typeof raiseTestWorld>>;
let kube: Kube;
let activities: SharedActivities;
let facts: ClusterFacts;
let route: RouteFact;
let world: World;
let count = 0;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'pgleap-reset-'));
  sandbox = await raiseTestWorld({ stateDir: folder, from: 16, sizeMb: 1 });
  ({ kube, activities } = activitiesIn(sandbox.address, folder));
  const found = await run(() => activities.inspectCluster({ spec }));
  if (found.facts === null) throw new Error('no facts');
  facts = found.facts;
  route = { zone: sandbox.address.cloudflare.zoneId, pattern: 'shop.test/checkout/*', prior: null };
}, 180_000);

afterAll(async () => {
  await sandbox?.close();
  await rm(folder, { recursive: true, force: true, maxRetries: 5 });
}, 60_000);

const spec = specSchema.parse({
  database: { namespace },
  target: { image: 'postgres:18' },
  services: [
    { namespace: 'bots', name: 'metricity' },
    { kind: 'CronJob', namespace, name: 'blackbox' },
  ],
});

beforeEach(async () => {
  count += 1;
  world = {
    clusterUid: facts.clusterUid,
    upgradeId: `u0badca1${count}`,
    startedAt: new Date().toISOString(),
    namespace,
  };
  await run(() => activities.beginJournal({ world, workflowId, planHash: 'p', summary: '16 to 18' }));
});

function service(name: string): ServiceFact {
  const found = facts.services.find((one) => one.name === name);
  if (found === undefined) throw new Error(`no service ${name}`);
  return found;
}

const undo = (): Undo => ({
  id: 'quiesce/service',
  phase: 'quiesce',
  says: 'metricity back to 1',
  activity: 'restoreService',
  args: { world, service: service('metricity') },
  last: false,
});

/** What services notice first. */
const stops = (): Promise<unknown>[] => [
  run(() => activities.setRoute({ world, route, script })),
  run(() => activities.suspendCronJob({ world, service: service('blackbox') })),
  run(() => activities.stopService({ world, service: service('metricity') })),
];

/** All that goes forward before the commit point. */
const forward = (): Promise<unknown>[] => [...stops(), pause(), ...changes()];

function pause(): Promise<unknown> {
  const reconciler = { kind: 'ScaledObject', namespace, name: 'x', uid: 'x', before: null } as const;
  const apiVersion = 'keda.sh/v1alpha1';
  return run(() => activities.pauseReconciler({ world, reconciler: { ...reconciler, keeps: [], apiVersion } }));
}

/** What no way back begins with. */
function changes(): Promise<unknown>[] {
  const { database } = facts;
  const source: ServerRef = { role: 'source', pod: database.pod, superuser: 'shop', host: null, port: 5432 };
  const sourceFacts = { major: 16 } as Parameters<SharedActivities['deployTarget']>[0]['source'];
  const claim = { claimUid: 'c', pv: 'p', handle: 'h' };
  return [
    run(() => activities.journalUndo({ world, undos: [undo()] })),
    run(() => activities.journalOld({ world, old: oldWorldOf(database) })),
    run(() => activities.setReclaimPolicy({ world, volume: database.volume, policy: 'Retain' })),
    run(() => activities.createScratch({ world, claim: database.claim, bytes: 1 })),
    run(() => activities.createCandidate({ world, spec, database, source: sourceFacts, generation: 0 })),
    run(() => activities.fenceSource({ world, source, hbaFile: 'x', candidateIp: '192.0.2.1', readOnlyLogins: [] })),
    run(() => activities.haltDatabase({ world, database, atRest })),
    run(() => activities.startClone({ world, volume, label: 'clone' })),
    run(() => activities.replaceClaim({ world, database, minBytes: 0, atRest })),
    run(() => activities.deployTarget({ world, spec, database, source: sourceFacts })),
    run(() => activities.emptyTarget({ world, database, claim, target: { ...source, role: 'target' } })),
  ];
}

async function expectRefused(calls: Promise<unknown>[], message: RegExp): Promise<void> {
  for (const call of await Promise.allSettled(calls)) {
    expect(call).toMatchObject({ reason: { type: 'Refused', message: expect.stringMatching(message) } });
  }
}

/** All that the calls could have changed. */
async function stands(): Promise<unknown> {
  const { services, database } = (await run(() => activities.inspectCluster({ spec }))).facts ?? {};
  const { routes } = await run(() =>
    activities.inspectRoutes({
      maintenance: { zone: route.zone, script, patterns: [route.pattern], probes: [], marker: 'x', takeOver: false },
    }),
  );
  const pods = new Set((await kube.list('Pod', { namespace })).map(({ metadata }) => metadata?.uid));
  const claims = (await kube.list('PersistentVolumeClaim', { namespace })).map(({ metadata }) => metadata?.uid);
  const leases = (await kube.list('Lease', { namespace })).map(({ metadata }) => metadata?.name);
  return { services, database, routes, pods, claims, leases, journals: await listJournals(kube, namespace) };
}

test('nothing before the commit point is done again after it, but what the way back asks for', async () => {
  await run(() => activities.journalUndo({ world, undos: [undo()] }));
  await run(() => activities.journalCommit({ world }));
  const before = await stands();
  await expectRefused(
    forward(),
    /has been open since .* In phase reopen answer retry.* pgleap recover databases\/postgres$/,
  );
  expect(await stands()).toEqual(before);

  await run(() => activities.journalBack({ world }));
  const goesBack = /has been going back since .* Abort it, and then: pgleap recover databases\/postgres$/;
  const begun = await stands();
  await expectRefused(changes(), goesBack);
  expect(await stands()).toEqual(begun);
  // There is no such object: it was looked for.
  await expect(pause()).rejects.toMatchObject({ type: 'WrongWorld' });
  await Promise.all(stops());
  expect((await kube.get('Deployment', service('metricity'))).spec?.replicas).toBe(0);
  await run(() => activities.restoreCronJob({ world, service: service('blackbox') }));
  await run(() => activities.restoreRoute({ world, route, script }));
  await run(() => activities.restoreService({ world, service: service('metricity') }));
  await run(() => activities.journalUndone({ world, undoId: undo().id }));

  // What began to go back and was frozen since would stop what is live again.
  const back = await stands();
  await expectRefused(forward(), goesBack);
  expect(await stands()).toEqual(back);
}, 120_000);

test('what going back left behind stays known, also when nobody can count it any more', async () => {
  const at = '2026-01-01T00:00:00Z';
  const lost = writesSince(
    { nextTransaction: '1', databases: [] },
    { nextTransaction: '8', databases: [] },
    ['app'],
    at,
  );
  const back = async (arg: { lost?: Writes }) => {
    await run(() => activities.journalBack({ world, ...arg }));
    const journals = await listJournals(kube, namespace);
    return journals.find(({ head }) => head.upgradeId === world.upgradeId)?.head;
  };
  const first = await back({});
  expect([first?.backAt, first?.lost]).toEqual([expect.any(String), undefined]);
  const unknown = unknownWrites('nobody answers', at);
  expect(await back({ lost: unknown })).toEqual({ ...first, lost: unknown });
  expect(await back({ lost })).toEqual({ ...first, lost });
  for (const arg of [{}, { lost: unknown }]) expect(await back(arg)).toEqual({ ...first, lost });
});

test('nothing is changed once the upgrade is over, nor the database locked again', async () => {
  await run(() => activities.closeJournal({ world, outcome: 'rolled-back' }));
  const before = await stands();
  await expectRefused(forward(), /closed as rolled-back: this upgrade is over, and changes nothing more/);
  const { workload } = facts.database;
  await expect(run(() => activities.takeLease({ world, workload, workflowId }))).rejects.toMatchObject({
    type: 'PreflightRefused',
  });
  expect(await stands()).toEqual(before);
}, 120_000);

test('nor once it has begun to go back, nor without its journal', async () => {
  await run(() => activities.journalUndo({ world, undos: [undo()] }));
  await run(() => activities.journalUndone({ world, undoId: undo().id }));
  const before = await stands();
  await expectRefused(forward(), /has begun to go back/);
  expect(await stands()).toEqual(before);

  const at = { namespace, name: `pgleap-${world.upgradeId}-journal` };
  await kube.remove('ConfigMap', at, (await kube.get('ConfigMap', at)).metadata?.uid ?? '');
  for (const call of await Promise.allSettled(forward())) expect(call).toMatchObject({ reason: { type: 'NotFound' } });
}, 120_000);

/** Activities of a worker that is frozen before it looks, or before it changes what it saw, until it is thawed. */
function frozenBefore(what: 'look' | 'change') {
  const thawed = Promise.withResolvers<void>();
  let held = 0;
  const hold = async (at: typeof what) => {
    if (at !== what) return;
    held += 1;
    await thawed.promise;
  };
  const slow: Kube = {
    ...kube,
    async get(kind, at) {
      if (kind === 'Deployment' || kind === 'CronJob') await hold('look');
      return await kube.get(kind, at);
    },
    async patch(...args) {
      await hold('change');
      return await kube.patch(...args);
    },
  };
  const { token, url } = sandbox.address.cloudflare;
  const frozen = askingJournal(kube, {
    ...createServiceActivities(slow),
    ...cloudflareActivities({ assertWorld: () => hold('look'), token: () => token, baseUrl: url }),
    async fenceSource() {
      await hold('look');
      await runInPod(kube.kc, facts.database.pod, ['touch', '/tmp/late']);
    },
  } as unknown as SharedActivities);
  return { frozen, held: () => held, thaw: thawed.resolve };
}

test('what was frozen before it looked asks the journal again before it changes anything', async () => {
  const { frozen, held, thaw } = frozenBefore('look');
  const arg = { world } as Parameters<SharedActivities['fenceSource']>[0];
  const late = [
    run(() => frozen.setRoute({ world, route, script })),
    run(() => frozen.suspendCronJob({ world, service: service('blackbox') })),
    run(() => frozen.stopService({ world, service: service('metricity') })),
    run(() => frozen.fenceSource(arg)),
  ];
  await expect.poll(held).toBe(late.length);
  await run(() => activities.closeJournal({ world, outcome: 'upgraded' }));
  const before = await stands();
  await delay(5100);
  thaw();
  await expectRefused(late, /this upgrade is over/);
  expect(await stands()).toEqual(before);
  await expect(runInPod(kube.kc, facts.database.pod, ['ls', '/tmp/late'])).rejects.toThrow(/No such file/);
}, 120_000);

test('what was frozen before it changed what it saw changes nothing of what is live since', async () => {
  const { frozen, held, thaw } = frozenBefore('change');
  const [cron, deployment] = [
    { world, service: service('blackbox') },
    { world, service: service('metricity') },
  ];
  const late = [run(() => frozen.suspendCronJob(cron)), run(() => frozen.stopService(deployment))];
  await expect.poll(held).toBe(late.length);
  await Promise.all([run(() => activities.suspendCronJob(cron)), run(() => activities.stopService(deployment))]);
  await Promise.all([run(() => activities.resumeCronJob(cron)), run(() => activities.startService(deployment))]);
  await run(() => activities.closeJournal({ world, outcome: 'upgraded' }));
  const before = await stands();
  thaw();
  await expectRefused(late, /this upgrade is over/);
  expect(await stands()).toEqual(before);
}, 120_000);

test('what stands in the journal of an upgrade under way is changed, and found as done', async () => {
  await run(() => activities.journalUndo({ world, undos: [undo()] }));
  await Promise.all(stops());
  await Promise.all(stops());
  const { services } = facts;
  expect((await run(() => activities.inspectCluster({ spec }))).facts?.services).toEqual(services);
  expect((await kube.get('Deployment', service('metricity'))).spec?.replicas).toBe(0);
}, 120_000);
