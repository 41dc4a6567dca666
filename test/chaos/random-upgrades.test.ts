/**
 * Random upgrades through the real workflow on a real Temporal server: phases fail, people and machines send what they like,
 * somebody cancels, the source changes, and the worker restarts now and then. The fake
 * world knows the laws; every upgrade must keep them and come to an end.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { isGrpcDeadlineError, ServiceError, WorkflowFailedError, WorkflowUpdateFailedError } from '@temporalio/client';
import { ApplicationFailure, CancelledFailure } from '@temporalio/common';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import type { FailureType } from '../../src/domain/failures.ts';
import { gates } from '../../src/domain/phases.ts';
import { openGate, type UpgradeResult, type UpgradeStatus } from '../../src/domain/state.ts';
import { undoOrder } from '../../src/domain/undo.ts';
import type { ActivityName } from '../workflows/fake-world.ts';
import { startHarness, type Harness, type Upgrade } from '../workflows/harness.ts';
import { randomOf, sampled, sampleSize } from './seed.ts';
import { tell } from './table.ts';

const title = 'random upgrades';
const upgrades = 300;
/**
 * By work and not by time: a new worker replays all that runs, and on a slow machine it would be replaced before it has caught
 * up.
 */
const activitiesPerWorker = 300;
/** What became of those that ended, and by whose doing. */
const met = new Map<string, number>();
/** After so many messages nobody plays any more: gates are approved, parks tried again, then given up. */
const moves = 12;

const failures: FailureType[] = [
  'CommandFailed',
  'AccessDenied',
  'NotFound',
  'Conflict',
  'WrongWorld',
  'PodLost',
  'JobLost',
  'ScratchLost',
];

/** Draws from what it is given, the same for the same seed and number. */
function dice(number: number) {
  const random = randomOf(`${title} ${number}`);
  const whole = (below: number) => Math.floor(random() * below);
  return {
    whole,
    chance: (part: number) => random() < part,
    pick: <T>(from: readonly [T, ...T[]]): T => from[whole(from.length)] ?? from[0],
  };
}
type Dice = ReturnType<typeof dice>;

let harness: Harness;
let activities: ActivityName[];
let restarts: Promise<void>;
let restarted = 0;
// More at once only wait for each other.
vi.setConfig({ maxConcurrency: 5 });
const over = new AbortController();
beforeAll(async () => {
  harness = await startHarness('random');
  activities = Object.keys(harness.makeWorld().world.activities) as ActivityName[];
  // Each lets what it has begun end (`worker.shutdown`): one that is killed is for kills.test.ts, with activities that have effects.
  restarts = (async () => {
    for (let before = 0; !over.signal.aborted; await sleep(500)) {
      const done = [...harness.worlds.values()].reduce((sum, { order }) => sum + order.length, 0);
      if (done < before + activitiesPerWorker) continue;
      before = done;
      await harness.restartWorker();
      restarted += 1;
    }
  })();
});
afterAll(async () => {
  over.abort();
  await restarts;
  await harness?.close();
});

function randomSpec({ chance, pick }: Dice): Record<string, unknown> {
  const asked = gates.map(({ name }) => [name, chance(0.5) ? { policy: 'auto' } : {}]);
  const policy = chance(0.3) ? { onFailure: { default: { answer: pick(['retry', 'rollback']), after: '1s' } } } : {};
  return { gates: Object.fromEntries(asked), ...policy };
}

/** What a move did, for the text of a failed test. */
async function move(upgrade: Upgrade, status: UpgradeStatus, { chance, pick, whole }: Dice): Promise<string> {
  const by = pick(['ada', 'Grace ', 'eve']);
  const say = (name: string, message: unknown) =>
    upgrade.handle.executeUpdate(name, { args: [message] }).then(
      () => `${name} accepted`,
      () => `${name} refused`,
    );
  const gate = openGate(status);
  const { park } = status;
  const kind = whole(16);
  // So late few are left that could still be asked to go back.
  if (kind < 9 && status.committedAt !== null && chance(0.4)) return say('rollback', { by, acceptLostWrites: true });
  if (kind < 6 && gate) return approve(upgrade, gate.name, gate.evidence?.hash);
  if (kind < 9 && park)
    return say('resolve', { park: park.id, action: pick(['retry', 'retry', 'rollback', 'abort']), by });
  if (kind === 9)
    return say('approve', { gate: pick(['begin', 'replace', 'reopen', 'cleanup']), by, evidence: 'f'.repeat(64) });
  if (kind === 10) return say('resolve', { park: `park-${whole(4)}`, action: 'retry', by });
  if (kind === 11)
    return say(pick(['approve', 'reject', 'resolve', 'rollback']), pick([null, 7, 'yes', {}, { by }, [{}]]));
  if (kind === 12 && chance(0.3)) return say('reject', { gate: gate?.name ?? 'begin', by });
  if (kind === 13 && chance(0.3)) return say('rollback', { by, ...(chance(0.5) ? { acceptLostWrites: true } : {}) });
  if (kind === 14 && chance(0.2)) {
    return upgrade.handle.cancel().then(
      () => 'cancel',
      () => 'cancel, too late',
    );
  }
  // Of what is written between the last look and the stop of the source nobody can know.
  const halting = upgrade.world.journal.undos.some(({ activity }) => activity === 'restartSource');
  if (kind === 15 && chance(0.3) && !halting) {
    upgrade.world.writeToSource(`rows-${whole(99)}`);
    return 'somebody writes';
  }
  if (gate) {
    // Twice at once, by a signal too, which nobody waits for.
    upgrade.world.approvals.add(gate.name);
    await upgrade.handle.signal('approve', { gate: gate.name, by, evidence: gate.evidence?.hash }).catch(() => {});
    return `${gate.name} twice: ${await approve(upgrade, gate.name, gate.evidence?.hash)}`;
  }
  return 'waits';
}

/** The fake world counts a yes only when it was accepted. */
async function approve(upgrade: Upgrade, gate: string, evidence: string | undefined): Promise<string> {
  const { approvals } = upgrade.world;
  const had = approvals.has(gate);
  approvals.add(gate);
  try {
    await upgrade.handle.executeUpdate('approve', { args: [{ gate, by: 'ada', evidence }] });
    return `${gate} approved`;
  } catch (error) {
    // It may have been accepted when only its answer was lost.
    if (!had && error instanceof WorkflowUpdateFailedError) approvals.delete(gate);
    return `${gate} not approved`;
  }
}

/** What is left to say so that every upgrade ends. */
async function finish(upgrade: Upgrade, { park, ...status }: UpgradeStatus, tries: number): Promise<string> {
  const gate = openGate({ park, ...status });
  if (park) {
    const action = tries < 4 ? 'retry' : park.options.includes('rollback') && tries < 6 ? 'rollback' : 'abort';
    const message = { park: park.id, action, by: 'ada' };
    return upgrade.handle.executeUpdate('resolve', { args: [message] }).then(
      () => `${park.phase}: ${action}`,
      () => `${park.phase}: not ${action}`,
    );
  }
  return gate ? approve(upgrade, gate.name, gate.evidence?.hash) : 'waits';
}

/** While the worker restarts, and until a task is given up that the old one took with it, there is no answer. */
async function statusOf(upgrade: Upgrade): Promise<UpgradeStatus> {
  for (const until = performance.now() + 120_000; ; await sleep(1000)) {
    try {
      return await upgrade.status();
    } catch (error) {
      const notNow = error instanceof ServiceError || isGrpcDeadlineError(error);
      if (!notNow) throw error;
      if (performance.now() > until) throw new Error(`no answer: ${await taskOf(upgrade)}`, { cause: error });
    }
  }
}

/** How the last workflow task of one that gives no answer does. */
async function taskOf({ handle }: Upgrade): Promise<string> {
  const { pendingWorkflowTask } = (await handle.describe()).raw;
  const { events } = await handle.fetchHistory();
  const failed = events?.findLast(
    (event) => event.workflowTaskFailedEventAttributes,
  )?.workflowTaskFailedEventAttributes;
  const task = `task in state ${pendingWorkflowTask?.state}, attempt ${pendingWorkflowTask?.attempt}`;
  return `${task}, last failure ${failed?.failure?.message}, ${events?.length} events`;
}

type End = { result: UpgradeResult } | { failed: string };

async function endOf({ handle }: Upgrade): Promise<End> {
  try {
    return { result: await handle.result() };
  } catch (error) {
    const cause = error instanceof WorkflowFailedError ? error.cause : error;
    if (cause instanceof ApplicationFailure) return { failed: cause.type ?? '' };
    if (cause instanceof CancelledFailure) return { failed: 'Cancelled' };
    throw error;
  }
}

/** In words of the table, and of what a whole run must have met. */
function outcomeOf({ world }: Upgrade, end: End): string {
  if ('failed' in end) return end.failed === 'Aborted' ? 'aborted' : `refused: ${end.failed}`;
  if (end.result.outcome === 'upgraded') return 'upgraded';
  if (world.journal.committed) return 'rolled back after the commit point';
  return /was cancelled/.test(end.result.why ?? '') ? 'cancelled' : 'rolled back before it';
}

/**
 * After `abort` was accepted no undo may be begun any more. Those that ran side by side with the one that failed were begun
 * before.
 */
async function expectLeftAlone({ handle, world }: Upgrade): Promise<void> {
  const undos = new Set<string>(world.journal.undos.map(({ activity }) => activity));
  const events = (await handle.fetchHistory()).events ?? [];
  const said = (event: (typeof events)[number]) =>
    Buffer.from(
      event.workflowExecutionUpdateAcceptedEventAttributes?.acceptedRequest?.input?.args?.payloads?.[0]?.data ?? '',
    ).toString();
  const answered = events.findLastIndex((event) => said(event).includes('"action":"abort"'));
  expect(answered, 'the answer in the history').toBeGreaterThan(-1);
  const begun = events
    .slice(answered)
    .map((event) => event.activityTaskScheduledEventAttributes?.activityType?.name ?? '')
    .filter((name) => undos.has(name));
  expect(begun, 'undos begun after the answer').toEqual([]);
  // Where its closing was what failed, it may have taken effect.
  if (!world.order.includes('closeJournal')) expect(world.journal.closed, 'the end in the journal').toBe(null);
}

function expectLawful({ world }: Upgrade, end: End): void {
  expect(world.broken).toEqual([]);
  const journalled = world.journal.undos.map((undo) => ({ ...undo, done: false }));
  const activityOf = (id: string) => journalled.find((undo) => undo.id === id)?.activity;
  // Neighbours of one kind are undone at once, in whatever order they come back.
  const undone = world.journal.undone.map(activityOf).filter((name) => name !== undefined);
  const ofKinds = undoOrder(journalled)
    .flat()
    .map(({ activity }) => activity);
  const outcome = 'result' in end ? end.result.outcome : end.failed;
  if (outcome === 'upgraded') {
    expect(world.state).toMatchObject({ claim: 'new', image: 'postgres:18', lease: null, candidate: null });
    expect(world.state.counts).toEqual(world.oldState().counts);
    expect(world.state.routes).toEqual(world.oldState().routes);
    expect(world.target.fenced).toBe(false);
    expect(world.journal.committed).toBe(true);
  } else if (outcome !== 'Aborted' && journalled.length > 0) {
    // Where nobody could look at the source, the clone is kept.
    const cloneKept = 'result' in end && end.result.back?.cloneKept != null;
    const isMeant = (name: string) => !cloneKept || name !== 'removeClone';
    expect(undone.filter(isMeant)).toEqual(ofKinds.filter(isMeant));
    if (world.journal.committed) expect(world.journal.back).toBe(true);
    else expect({ ...world.state, clone: cloneKept ? null : world.state.clone }).toEqual(world.oldState());
  }
}

describe.concurrent(title, () => {
  for (const number of sampled(
    title,
    Array.from({ length: upgrades }, (_, index) => index),
  )) {
    test(`${number}`, { timeout: 360_000 }, async (context) => {
      const chances = dice(number);
      const upgrade = await harness.start({ spec: randomSpec(chances) });
      // One whose test failed would go on trying for ever, and keep the others from theirs.
      context.onTestFinished(async () => {
        await upgrade.handle.terminate().catch(() => {});
      });
      const broken = Array.from({ length: chances.whole(4) }, () => activities[chances.whole(activities.length)]);
      for (const name of broken) {
        if (name && name !== 'notify')
          upgrade.world.failOn(
            name,
            chances.pick(failures as [FailureType]),
            1 + chances.whole(2),
            chances.chance(0.5),
          );
      }
      const said: string[] = [`fails: ${broken.join(' ')}`];
      const ended = endOf(upgrade);
      const running = new AbortController();
      void ended.finally(() => running.abort()).catch(() => {});
      let tries = 0;
      const deadline = performance.now() + 300_000;
      let status = await statusOf(upgrade);
      let told = 0;
      for (let made = 0; ; made += 1) {
        await sleep(100 + chances.whole(400), undefined, { signal: running.signal }).catch(() => {});
        if (running.signal.aborted) break;
        // A query costs processor time: one that waits says so to the world, and then goes on only when it is answered.
        if (upgrade.world.told.length > told || status.park || openGate(status)) {
          told = upgrade.world.told.length;
          status = await statusOf(upgrade);
        }
        if (status.stage === 'ended') break;
        if (performance.now() > deadline) {
          const { stage, park, phases } = status;
          const at = phases.filter(({ state }) => state === 'running').map(({ name }) => name);
          throw new Error(
            `no end: ${stage} in ${at.join()}, ${park?.message}, ${upgrade.world.broken.join()} after ${said.join('; ')}`,
          );
        }
        const did = made < moves ? await move(upgrade, status, chances) : await finish(upgrade, status, tries);
        if (made >= moves && status.park) tries += 1;
        if (did !== 'waits') said.push(did);
      }
      const end = await ended;
      const outcome = outcomeOf(upgrade, end);
      const [kind = ''] = outcome.split(':');
      met.set(kind, (met.get(kind) ?? 0) + 1);
      tell(context, title, {
        number,
        outcome,
        events: upgrade.world.order.length,
        moves: said.length - 1,
        workers: restarted + 1,
      });
      try {
        expectLawful(upgrade, end);
        if (outcome === 'aborted') await expectLeftAlone(upgrade);
      } catch (error) {
        throw new Error(
          `${outcome} after ${said.join('; ')}: ${error instanceof Error ? error.message : String(error)}`,
          { cause: error },
        );
      }
    });
  }
});

// One that gets nowhere proves nothing. Of a sample that is too much to ask.
test.runIf(sampleSize === undefined)(`${title} met every end`, () => {
  expect(restarted).toBeGreaterThan(3);
  for (const outcome of [
    'upgraded',
    'rolled back before it',
    'rolled back after the commit point',
    'cancelled',
    'aborted',
    'refused',
  ])
    expect(met.get(outcome) ?? 0, outcome).toBeGreaterThan(3);
});
