/** One whole upgrade that meets many deaths, and what became of it. */
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ServiceError } from '@temporalio/client';
import { expect, type onTestFinished } from 'vitest';
import { countWorkers } from '../../src/client/connection.ts';
import { readSpecFile } from '../../src/client/spec-file.ts';
import { startTemporal, type TemporalServer } from '../../src/client/temporal-server.ts';
import { planUpgrade, sendMessage, upgradeResult, upgradeStatus } from '../../src/client/upgrades.ts';
import { UserError } from '../../src/domain/exit-codes.ts';
import type { Plan } from '../../src/domain/plan.ts';
import { differencesText } from '../../src/domain/old-world.ts';
import { downtimeSeconds, openGate, type UpgradeStatus } from '../../src/domain/state.ts';
import { countAcknowledged } from '../../src/sandbox/demo/proof.ts';
import { takeSnapshot } from '../../src/sandbox/demo/snapshot.ts';
import { startTcpProxy } from '../activities/tcp-proxy.ts';
import { patiently, raiseStage, start, whereItStands, type Stage } from '../e2e/stage.ts';
import { expectUpgraded, oldWorld, sceneOf } from '../e2e/world.ts';
import type { Boundary, Place } from './boundary.ts';
import { deleteCandidate, emptyScratch, killServer, killTemporal } from './harm.ts';
import { mayEndEarly, says, type Point, type Way } from './points.ts';
import { startStopping } from './stopping.ts';

/** What a point met. */
export interface Met {
  point: string;
  outcome: string;
  /** Of a person, between this point and the next. */
  answers: number;
  downtime: number | null;
  rowsLost: number | null;
}

export interface Lane {
  way: Way;
  points: Point[];
  /**
   * Whether a killed worker's activities wait until Temporal notices by itself. Else its timeouts are cut short: the server
   * is told that the attempt failed, as soon as the worker is dead.
   */
  patient: boolean;
}

/** Temporal's server and the API server are away so long, and as long as they take to start. */
const downMs = 3000;
/** After that a worker that found neither at its own start may still end by itself. */
const graceMs = 30_000;

/** Longer than any victim takes to die: its worker stands still meanwhile. */
const harmMs = 60_000;

/** How long an upgrade that is harmed so often may take on a busy machine, with its world raised before and compared after it. */
export function patienceMs(points: number): number {
  return 600_000 + points * 120_000;
}

/** What a lane says of itself when it comes to no end. */
interface Waits {
  for: string;
  /** What it knows of where it stands. */
  tell: () => Promise<string[]>;
}

/**
 * Runs one upgrade through all of the lane's points. Throws when one is not met, when a point needs more than one answer,
 * when a row is lost, or when the world at the end is neither the new nor the old one. `met` is filled on the way. Resolves
 * with the activities it went by, in the order in which they began.
 */
export async function travel(
  lane: Lane,
  workflows: string,
  finished: typeof onTestFinished,
  met: Met[],
): Promise<Place[]> {
  const waits: Waits = { for: 'its world', tell: async () => [] };
  return await within(patienceMs(lane.points.length), goThrough(lane, workflows, finished, met, waits), async () =>
    [`it came to no end, and waits for ${waits.for}`, ...(await waits.tell())].join('\n'),
  );
}

/** Rejects with these words when it takes longer. */
async function within<T>(ms: number, work: Promise<T>, words: () => Promise<string>): Promise<T> {
  const done = new AbortController();
  const late = sleep(ms, undefined, { signal: done.signal }).then(async () => {
    throw new Error(`after ${ms / 1000} s: ${await words()}`);
  });
  late.catch(() => undefined);
  return await Promise.race([work, late]).finally(() => done.abort());
}

async function goThrough(
  lane: Lane,
  workflows: string,
  finished: typeof onTestFinished,
  met: Met[],
  waits: Waits,
): Promise<Place[]> {
  const { way, points, patient } = lane;
  const folder = await mkdtemp(join(tmpdir(), 'pgleap-chaos-'));
  finished(() => rm(folder, { recursive: true, force: true }));
  const dbFilename = join(folder, 'temporal.db');
  let temporal = await startTemporal({ ui: false, dbFilename });
  const outages = new Map<Point['victim'], Promise<void>>();
  finished(async () => {
    await outages.get('Temporal');
    await temporal.close();
  });
  const port = Number(temporal.address.split(':')[1]);
  const on = await raiseStage(16, 5, { temporal, onTestFinished: finished });
  const proxy = await startTcpProxy(on.access.kubeConfig);
  finished(async () => {
    await outages.get('API server');
    await proxy.close();
  });
  const kubeconfig = join(folder, 'kubeconfig');
  await writeFile(kubeconfig, proxy.kubeConfig.exportConfig());

  const left = new Set(points);
  /** Whose victim was not there when they came. */
  const away = new Set<Point>();
  const begun = new Map<string, Place>();
  const journey: { way: Way | null; over: boolean } = { way: null, over: false };
  let workflowId = '';
  let trouble: unknown;
  let upAt = -Infinity;
  let child: ChildProcess | undefined;
  let childSaid = () => '';
  /** The boundary that the worker stands still at. */
  let still = '';
  /** The last that was passed over calmly. */
  let passed = '';
  waits.tell = async () => [
    `not met: ${[...left].map(says).join('; ') || 'none'}`,
    `no victim was there for: ${[...away].map(says).join('; ') || 'none'}`,
    `the worker stands still: ${still || 'no'}`,
    `passed over last: ${passed || 'nothing'}`,
    `the worker said: ${childSaid().slice(-1500) || 'nothing'}`,
    await whereItStands(on.session),
  ];

  async function meet({ activity, id, moment, long }: Boundary): Promise<'g' | 'k'> {
    if (journey.way === null) return 'g';
    const place = begun.get(id) ?? { activity, long, moments: [] };
    begun.set(id, place);
    if (!place.moments.includes(moment)) place.moments.push(moment);
    for (const late of away) if (left.has(late) && (await strike(late))) away.delete(late);
    const point = [...left].find(
      (one) =>
        one.way === journey.way &&
        one.activity === activity &&
        one.moment === moment &&
        firstSince([...begun.values()], one) === place,
    );
    if (point === undefined) return 'g';
    if (!(await strike(point))) {
      // Another death took it away. What needs it begins again, and the point is met there; else when it is back.
      place.moments.splice(place.moments.indexOf(moment), 1);
      away.add(point);
      return 'g';
    }
    return point.victim === 'worker' ? 'k' : 'g';
  }

  /** False when there is no victim. */
  async function strike(point: Point): Promise<boolean> {
    if (point.victim !== 'worker') {
      const done = await within(harmMs, harm[point.victim](), async () => `${says(point)}: it is not done yet`);
      if (!done) return false;
    }
    left.delete(point);
    console.error(`${clock()} ${says(point)}${away.has(point) ? ', late' : ''}`);
    met.push({ point: says(point), outcome: '', answers: 0, downtime: null, rowsLost: null });
    return true;
  }

  async function killDatabase(): Promise<boolean> {
    if (!(await killServer(on.access, 'database'))) return false;
    // PostgreSQL empties unlogged tables when it comes up after a crash.
    for (const world of [before, old]) {
      Object.assign(world, { tables: { ...before.tables, 'metricity.public.cache': expect.any(String) } });
    }
    return true;
  }

  /** Each resolves to false, having done nothing, when its victim is not there. */
  const harm: Record<Exclude<Point['victim'], 'worker'>, () => Promise<boolean>> = {
    source: killDatabase,
    target: killDatabase,
    candidate: () => killServer(on.access, 'candidate'),
    'candidate pod': () => deleteCandidate(on.access),
    scratch: () => emptyScratch(on.access),
    'API server': () =>
      outage(
        'API server',
        () => proxy.down(),
        () => proxy.up(),
      ),
    Temporal: () =>
      outage(
        'Temporal',
        () => killTemporal(port),
        async () => void (temporal = await startAgain()),
      ),
  };

  /** The worker goes on meanwhile: it works, tells and asks without it. False when that one is away already. */
  async function outage(victim: Point['victim'], down: () => Promise<void>, up: () => Promise<void>): Promise<boolean> {
    if (outages.has(victim)) return false;
    await down();
    const over = sleep(downMs)
      .then(up)
      .catch((error: unknown) => void (trouble ??= error))
      .finally(() => {
        outages.delete(victim);
        upAt = Date.now();
      });
    outages.set(victim, over);
    return true;
  }

  async function startAgain(): Promise<TemporalServer> {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await startTemporal({ ui: false, dbFilename, port });
      } catch (error) {
        if (attempt === 3) throw error;
        await sleep(1000);
      }
    }
  }

  /** Undefined for what passes; the limit of the whole ends it when it comes again and again. */
  async function calmly<T>(request: () => Promise<T>): Promise<T | undefined> {
    try {
      return await request();
    } catch (error) {
      if (!isPassing(error)) throw error;
      passed = `${clock()} ${String(error)}`;
      return undefined;
    }
  }

  /** As whatever keeps the operator's worker running would. */
  async function keepWorker(): Promise<void> {
    while (!journey.over) {
      const { worker, log } = startStopping({ ...on.env, KUBECONFIG: kubeconfig }, workflows, (boundary) => {
        still = `${boundary.moment} ${boundary.activity} since ${clock()}`;
        return meet(boundary)
          .catch((error: unknown) => {
            trouble ??= error;
            return 'g' as const;
          })
          .finally(() => (still = ''));
      });
      child = worker;
      childSaid = log;
      await once(worker, 'exit');
      if (journey.over) break;
      if (worker.signalCode !== 'SIGKILL') {
        const words = `the worker ended by itself (${worker.exitCode ?? worker.signalCode}): ${log()}`;
        console.error(`${clock()} ${words}`);
        if (outages.size === 0 && Date.now() - upAt > graceMs) trouble ??= new Error(words);
        await sleep(1000);
      } else if (!patient) {
        await tellTemporal(on, workflowId, worker.pid ?? 0).catch((error: unknown) => (trouble ??= error));
      }
    }
  }
  const kept = keepWorker();
  finished(async () => {
    journey.over = true;
    // One that stands still hears nothing else.
    child?.kill(still === '' ? 'SIGTERM' : 'SIGKILL');
    await kept;
  });
  waits.for = 'a worker';
  while ((await countWorkers(on.session)) === 0) {
    if (trouble !== undefined) throw trouble;
    await sleep(100);
  }

  waits.for = 'the plan';
  const { input } = await readSpecFile(on.sandbox.upgradeSpec);
  let plan: Plan | undefined;
  while (plan === undefined) plan = await calmly(() => planUpgrade(on.session, input));
  waits.for = 'what the world is before';
  const scene = sceneOf(on, plan);
  const [old, before] = [await oldWorld(scene), await takeSnapshot(scene)];
  journey.way = 'forward';
  workflowId = await start(on);

  waits.for = 'the end of the upgrade';
  while (!journey.over) {
    if (trouble !== undefined) throw trouble;
    const status = await calmly(() => upgradeStatus(on.session, workflowId));
    if (status?.stage === 'ended') break;
    if (status !== undefined) await respond(status);
    await sleep(200);
  }

  async function respond(status: UpgradeStatus): Promise<void> {
    const { park } = status;
    if (park !== null && park.action === null) {
      const last = met.at(-1);
      const forGood = points.some(mayEndEarly) && park.phase !== 'backup' && changedData.has(park.type);
      const again = (last?.answers ?? 0) === 0 && !forGood;
      const action = again || !park.options.includes('rollback') ? 'retry' : 'rollback';
      const sent = await calmly(() =>
        sendMessage(on.session, workflowId, 'resolve', { park: park.id, action, by: 'chaos' }),
      );
      if (sent === undefined) return;
      if (last === undefined) throw new Error(`parked before anything was harmed: ${park.type}: ${park.message}`);
      last.answers += 1;
      console.error(
        `${clock()} ${last.point}: ${park.type} in ${park.phase}, answered ${action}: ${park.message.slice(0, 300)}`,
      );
      if (last.answers > 3) throw new Error(`${last.point}: parked again and again: ${park.type}: ${park.message}`);
    }
    const gate = openGate(status);
    if (gate === undefined || gate === null) return;
    const back = gate.name === 'reopen' && way === 'back';
    if (back && journey.way === 'forward') {
      journey.way = 'back';
      begun.clear();
    }
    const message = { gate: gate.name, by: 'chaos', evidence: gate.evidence?.hash ?? '' };
    await calmly(() => sendMessage(on.session, workflowId, back ? 'reject' : 'approve', message));
  }

  waits.for = 'its result, and what the world is after it';
  const status = await patiently(() => upgradeStatus(on.session, workflowId));
  let refusal = '';
  const result = await upgradeResult(on.session, workflowId).catch((error: unknown) => {
    if (!(error instanceof UserError && error.exit === 'checksFailed')) throw error;
    refusal = error.message;
  });
  const outcome = result?.outcome ?? 'refused';
  for (const one of met) Object.assign(one, { outcome, downtime: downtimeSeconds(status, '') });
  if (outcome === 'upgraded') {
    await expectUpgraded(on, workflowId, before, scene);
  } else {
    expect(differencesText(result?.back?.compared ?? [])).toEqual([]);
    if (result) expect(result).toMatchObject({ servicesRestored: true, routesRestored: true });
    expect(await oldWorld(scene)).toEqual(old);
    await on.visitor.stop();
  }
  const { missing } = await countAcknowledged(scene, on.visitor.visits.acknowledged);
  for (const one of met) one.rowsLost = missing;
  expect(missing).toBe(0);
  const straight = way === 'back' ? 'rolled-back' : 'upgraded';
  // One that may end otherwise has an upgrade of its own.
  expect(points[0]?.ends ?? [straight], refusal).toContain(outcome);
  expect([...left].map(says), 'points that were not met').toEqual([]);
  expect(met.filter(({ answers }) => answers > 1)).toEqual([]);
  return [...begun.values()];
}

function clock(): string {
  return new Date().toISOString().slice(11, 19);
}

/** Data that differs after a crash of the database differs for good: only the way back is left then. */
const changedData = new Set(['SourceNotQuiet', 'FingerprintDiffers']);

/** The first that comes so far: one before it may be lost with its pod, or be begun again with its phase. */
function firstSince(begun: Place[], { activity, since, moment }: Point): Place | undefined {
  const from = since === null ? 0 : begun.findIndex((one) => one.activity === since);
  if (from === -1) return undefined;
  return begun.slice(from).find((one) => one.activity === activity && one.moments.includes(moment));
}

/** Temporal or the worker is gone just now, or the answer came too late for what it answered. */
function isPassing(error: unknown): boolean {
  if (error instanceof UserError) return ['noWorker', 'noTemporal', 'refused'].includes(error.exit);
  // gRPC's, or around one of it.
  return error instanceof Error && ('code' in error || error instanceof ServiceError);
}

/** What the server would find out by itself when a heartbeat or a sticky queue's time runs out. */
async function tellTemporal({ session }: Stage, workflowId: string, pid: number): Promise<void> {
  const { client, namespace } = session;
  const handle = client.workflow.getHandle(workflowId);
  const { raw } = await handle.describe();
  await client.workflowService.resetStickyTaskQueue({ namespace, execution: { workflowId } });
  for (const { activityId, state, lastWorkerIdentity } of raw.pendingActivities ?? []) {
    // 2: started.
    if (Number(state) !== 2 || !lastWorkerIdentity?.endsWith(`:${pid}`)) continue;
    await client.workflowService.respondActivityTaskFailedById({
      namespace,
      workflowId,
      activityId: activityId ?? '',
      failure: { message: 'the worker was killed', applicationFailureInfo: { type: 'WorkerKilled' } },
    });
  }
}
