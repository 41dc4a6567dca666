/**
 * Activities that stop and start the database, and that take its volume away and give it another. Each stands in one of
 * three worlds, which are brought about by the activities themselves and kept as long as scenes want the same.
 */
import { expect } from 'vitest';
import { runInPod } from '../../src/activities/kubernetes/exec.ts';
import { names } from '../../src/activities/kubernetes/identity.ts';
import { annotations, podRef } from '../../src/activities/kubernetes/workloads.ts';
import type { Resource } from '../../src/activities/kubernetes/client.ts';
import { sqlText } from '../../src/activities/postgres/psql.ts';
import type { DatabaseFact, NewClaimFact, ServerRef } from '../../src/domain/facts.ts';
import type { WriteCounts } from '../../src/domain/old-world.ts';
import { run } from '../activities/environment.ts';
import { sourceFacts as source } from '../support/source-facts.ts';
import { toldGone, type Scene } from './scene.ts';
import {
  direct,
  facts,
  isTime,
  kube,
  namespace,
  plain,
  plainPostgres,
  postgres,
  spec,
  stageOf,
  world,
} from './cluster.ts';
import type { Fault } from './faults.ts';

const atRest = { services: [], reconcilers: [] };
const spare = {
  volume: { id: 1, label: 'pvc1', region: 'eu', sizeGb: 10, encryption: 'disabled', monthlyPrice: null },
  cloneLabel: 'clone',
};

/** The plan's, but for the claim: after each way back it is another of the same name. */
let claimUid: string | undefined;
function database(): DatabaseFact {
  const { claim, ...rest } = facts.database;
  return { ...rest, claim: { ...claim, uid: claimUid ?? claim.uid } };
}
const claimAt = () => ({ namespace, name: facts.database.claim.name });

const halt = (on: typeof kube) => on.haltDatabase({ world, database: database(), atRest });
const restart = (on: typeof kube) => on.restartSource({ world, database: database() });
const replace = (on: typeof kube) => on.replaceClaim({ world, database: database(), minBytes: 0, atRest });
const rebind = (on: typeof kube) => on.rebindOriginal({ world, database: database(), ...spare });
const deploy = (on: typeof kube) => on.deployTarget({ world, spec, database: database(), source });
const restoreTemplate = (on: typeof kube) => on.restoreTemplate({ world, database: database() });

async function rebound(): Promise<void> {
  await run(() => restoreTemplate(plain));
  await run(() => rebind(plain));
  claimUid = (await direct.get('PersistentVolumeClaim', claimAt())).metadata?.uid;
}

/** `running`: the source; `halted`: it is at 0; `replaced`: at 0 on a new volume, which holds a target's data. */
type Base = 'running' | 'halted' | 'replaced';
let base: Base = 'running';
let newClaim: NewClaimFact;
/** The workload with the fenced target's template. */
let fencedTarget: Resource<'Deployment'>;

async function stand(wanted: Base): Promise<void> {
  if (base === wanted) return;
  if (base === 'replaced') {
    await rebound();
    base = 'halted';
  }
  if (wanted === 'running') await run(() => restart(plain));
  else if (base === 'running') await run(() => halt(plain));
  if (wanted === 'replaced') {
    newClaim = await run(() => replace(plain));
    await run(() => deploy(plain));
    fencedTarget = await workload();
    await atZero();
  }
  base = wanted;
}

const workload = async () => await direct.get('Deployment', facts.database.workload);
const pods = async () => await direct.list('Pod', { namespace, labels: 'app=postgres' });

/** Without its pods, whatever template it has. */
async function atZero(): Promise<void> {
  await direct.patch('Deployment', facts.database.workload, { spec: { replicas: 0 } });
  await expect.poll(async () => (await pods()).length, { timeout: 30_000 }).toBe(0);
}

/** The pod itself is another each time: whether it is the one that runs. */
async function asItRuns({ pod, began, ...rest }: ServerRef): Promise<unknown> {
  const now = await targetNow();
  return [rest, JSON.stringify(pod) === JSON.stringify(now.pod), Number.isNaN(Date.parse(began ?? ''))];
}

/** At `replicas` with the fenced target's template, whatever it was before. */
async function fencedAt(replicas: number, change: (text: string) => string = (text) => text): Promise<void> {
  await atZero();
  const { metadata, spec: template } = JSON.parse(change(JSON.stringify(fencedTarget))) as typeof fencedTarget;
  const now = await workload();
  const { status: _status, ...rest } = now;
  await direct.replace('Deployment', {
    ...rest,
    metadata: { ...now.metadata, annotations: metadata?.annotations ?? {} },
    spec: { ...template!, replicas },
  });
}

async function targetNow(): Promise<ServerRef> {
  const pod = (await pods()).find(({ metadata }) => metadata?.deletionTimestamp === undefined);
  if (pod === undefined) throw new Error('no target');
  const { superuser, port } = facts.database;
  return { role: 'target', pod: podRef(pod, facts.database.pod.container), superuser, host: null, port };
}

async function open(): Promise<void> {
  await fencedAt(0);
  await run(() => plain.openTarget({ world, database: database() }));
}

/** A target that was filled in part. */
async function half(): Promise<void> {
  await fencedAt(0);
  full = await run(() => deploy(plain));
  const make = `SELECT 'CREATE DATABASE half' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'half') \\gexec`;
  await sqlText(direct.kc, full, make, { write: true });
  // What an import leaves: without it there is nothing to empty.
  await runInPod(direct.kc, full.pod, ['mkdir', '-p', '/pgleap/jobs']);
}
let full: ServerRef;

/** What in a server shows which one it is, and what was done to it. */
const inServer = `SELECT version(); SHOW listen_addresses; SHOW fsync;
  SELECT datname FROM pg_database ORDER BY 1;
  SELECT encode(sha256(pg_read_binary_file(current_setting('hba_file'))), 'hex')`;

async function state(): Promise<unknown> {
  const { pv, pvUid } = facts.database.volume;
  // The driver removes a new volume in its own time.
  const others = async () =>
    (await direct.list('PersistentVolume')).filter(
      ({ metadata, spec: has }) => metadata?.uid !== pvUid && has?.claimRef?.name === facts.database.claim.name,
    );
  const claim = await direct.find('PersistentVolumeClaim', claimAt());
  const onOriginal = claim?.spec?.volumeName === pv;
  await expect.poll(async () => (await others()).length, { timeout: 15_000 }).toBe(onOriginal ? 0 : 1);
  const original = await direct.get('PersistentVolume', { name: pv });
  const { metadata, spec: has } = await workload();
  const timeless = (text: string) =>
    text
      .replaceAll(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, '(time)')
      .replaceAll(/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/g, '(uid)');
  const marks = Object.entries(metadata?.annotations ?? {}).filter(([key]) => key.startsWith('pgleap'));
  const [pod, ...more] = await pods();
  const container = facts.database.pod.container;
  return {
    original: [original.status?.phase, original.spec?.persistentVolumeReclaimPolicy, original.metadata?.uid === pvUid],
    claim: [onOriginal, claim?.status?.phase, claim?.metadata?.labels, claim?.spec?.resources],
    others: (await others()).map(({ status, spec: is }) => [status?.phase, is?.persistentVolumeReclaimPolicy]),
    workload: timeless(JSON.stringify([has, Object.fromEntries(marks)])),
    more: more.length,
    eraser: (await direct.find('Pod', { namespace, name: names.eraser(world) })) !== undefined,
    server: pod === undefined ? 'none' : await sqlText(direct.kc, await targetNow(), inServer),
    work: pod === undefined ? 'none' : await runInPod(direct.kc, podRef(pod, container), workLook),
  };
}
const workLook = ['sh', '-c', 'ls -A /pgleap 2>/dev/null; true'];

/** Of what takes seconds: its changes only, and of faults that mean the same to a caller one. */
const telling: Fault[] = ['timeout', 'reset after', '403', '404', '409', '422', '429', 'garbage'];
const changes = (call: string, fault: Fault) => !call.startsWith('GET') && telling.includes(fault);
/** The same, and one command of each kind by a lost answer and a refusal. */
const andCommands = (call: string, fault: Fault) =>
  changes(call, fault) || (call.includes('/exec, ') && ['reset before', 'reset after', '403'].includes(fault));

export const databaseScenes: Scene[] = [
  {
    activity: 'haltDatabase',
    only: changes,
    before: () => stand('running'),
    run: () => halt(kube),
    after: () => run(() => restart(plain)),
  },
  {
    activity: 'restartSource',
    only: andCommands,
    before: async () => {
      await stand('running');
      await run(() => halt(plain));
    },
    run: () => restart(kube),
    after: () => run(() => restart(plain)),
  },
  {
    activity: 'replaceClaim',
    never: toldGone,
    before: () => stand('halted'),
    run: () => replace(kube),
    // Another claim each time: whether it is the one that stands.
    told: async ({ claimUid: uid, pv, handle }) => {
      const { metadata, spec: has } = await direct.get('PersistentVolumeClaim', claimAt());
      const volume = await direct.get('PersistentVolume', { name: pv });
      return [uid === metadata?.uid, pv === has?.volumeName, handle === volume.spec?.csi?.volumeHandle];
    },
    after: rebound,
  },
  {
    activity: 'rebindOriginal',
    // Told in error that the original's PV is gone, it makes another on the same volume, as it should where that is true.
    never: (call, fault) =>
      toldGone(call, fault) || (fault === '404' && call === 'GET /api/v1/persistentvolumes/:name'),
    before: async () => {
      await stand('halted');
      await run(() => replace(plain));
    },
    run: () => rebind(kube),
    after: rebound,
  },
  {
    activity: 'restoreTemplate',
    before: async () => {
      await stand('replaced');
      // Its pods end at once when their image is not there.
      await fencedAt(1, (text) => text.replaceAll('"image":"postgres:18"', '"image":"missing:1"'));
    },
    run: () => restoreTemplate(kube),
  },
  {
    activity: 'deployTarget',
    only: andCommands,
    before: async () => {
      await stand('replaced');
      await run(() => restoreTemplate(plain));
    },
    run: () => deploy(kube),
    told: asItRuns,
  },
  {
    activity: 'emptyTarget',
    never: toldGone,
    only: changes,
    before: async () => {
      await stand('replaced');
      await half();
    },
    run: () => kube.emptyTarget({ world, database: database(), claim: newClaim, target: full }),
    told: asItRuns,
  },
  {
    activity: 'sweepTarget',
    only: andCommands,
    before: async () => {
      await stand('replaced');
      const now = await workload();
      if (now.spec?.replicas === 0 || now.metadata?.annotations?.[annotations.stage] !== 'fenced') {
        await fencedAt(0);
        await run(() => deploy(plain));
      }
      await runInPod(direct.kc, (await targetNow()).pod, ['touch', '/pgleap/left']);
    },
    run: async () => kube.sweepTarget({ world, target: await targetNow() }),
  },
  {
    activity: 'openTarget',
    only: andCommands,
    before: async () => {
      await stand('replaced');
      await fencedAt(0);
    },
    run: () => kube.openTarget({ world, database: database() }),
    told: asItRuns,
  },
  {
    activity: 'lostWrites',
    // Whatever cannot be seen is told of as such: a broken target is a reason to go back.
    also: () => ['mended'],
    orTold: ({ transactions, rows, why }) => transactions === null && rows === null && why !== null,
    only: andCommands,
    before: async () => {
      await opened();
      await writeSome();
    },
    run: () => postgres.lostWrites({ world, database: database(), opened: counts, namespaces: [namespace] }),
    told: ({ at, ...writes }) => {
      expect(writes, 'what was written').toMatchObject({
        transactions: 1,
        rows: { inserted: 3, updated: 0, deleted: 0 },
      });
      return { ...writes, at: isTime(at) };
    },
  },
  {
    activity: 'closeTarget',
    only: andCommands,
    before: opened,
    run: () => postgres.closeTarget({ world, database: database() }),
    after: () => run(() => postgres.liftSourceFence({ world, database: database(), hbaFile: source.hbaFile })),
  },
];

async function opened(): Promise<void> {
  await stand('replaced');
  if ((await workload()).metadata?.annotations?.[annotations.stage] !== 'open') await open();
}

let counts: WriteCounts;
/** One transaction with three rows since the counts. Statistics of a server's own housekeeping would come to them. */
async function writeSome(): Promise<void> {
  const target = await targetNow();
  const make = `ALTER SYSTEM SET autovacuum = off; SELECT pg_reload_conf(); CREATE TABLE IF NOT EXISTS written (row int)`;
  for (const one of make.split('; ')) await sqlText(direct.kc, target, one, { write: true, ownSearchPath: true });
  counts = await run(() => plainPostgres.countWrites({ server: target }));
  const write = 'INSERT INTO written SELECT generate_series(1, 3)';
  await sqlText(direct.kc, target, write, { write: true, ownSearchPath: true });
}

export const stage = stageOf(state);
