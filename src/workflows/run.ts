/**
 * One upgrade while it runs: its state, and the few verbs phases are written in. Phases park instead of failing; whatever
 * ends the upgrade early (an answer, a message, a refusal) is set as `ending` and cancels the scope that phases run in.
 */
import {
  ActivityFailure,
  ApplicationFailure,
  CancellationScope,
  CancelledFailure,
  TimeoutFailure,
  condition,
  isCancellation,
  log,
  setCurrentDetails,
  workflowInfo,
} from '@temporalio/workflow';
import type { ArtifactActivities, SavedSettings } from '../activities/types.ts';
import type { DatabaseFact, ServerRef, World } from '../domain/facts.ts';
import { details, headline } from '../domain/details.ts';
import { failures, type FailureType } from '../domain/failures.ts';
import type { PhaseName } from '../domain/phases.ts';
import type { Plan, PlanFacts } from '../domain/plan.ts';
import type { Spec } from '../domain/spec.ts';
import {
  newStatus,
  openGate,
  phaseRow,
  secondsBetween,
  type Ending,
  type Gathered,
  type Park,
  type ParkAction,
  type PhaseRow,
  type UpgradeStatus,
} from '../domain/state.ts';
import type { Undo } from '../domain/undo.ts';
import { act, actOnArtifacts, type ArtifactQueue } from './activities.ts';
import { options, showInSearch } from './options.ts';

/** What preflight resolved; there is nothing to do before it has. */
export interface Resolved {
  spec: Spec;
  plan: Plan & { facts: PlanFacts; hash: string };
  world: World;
}

export interface Run {
  readonly status: UpgradeStatus;
  readonly gathered: Gathered;
  resolved: Resolved | null;
  /** Configuration texts on their way from source to target: too long for `status`. */
  settings: SavedSettings | null;
  /** uid of the target's pod whose content was proven. */
  verifiedPod: string | null;
  /** Set before the journal is asked for: its answer may be lost. */
  journalTried: boolean;
  journalBegun: boolean;
  journalBusy: boolean;
  /** Notifications under way: the workflow ends after them. */
  untold: number;
  /** Cancelled when the upgrade must stop before its end. */
  readonly forward: CancellationScope;
}

export function newRun(): Run {
  const { workflowId, originalExecutionRunId, startTime } = workflowInfo();
  // The first run's id: a reset goes on with the same names outside. Its end, for its beginning is the time (UUID version 7),
  // and upgrades begun in the same minute would share it.
  const upgradeId = `u${originalExecutionRunId.replaceAll('-', '').slice(-8)}`;
  const status = newStatus(workflowId, upgradeId, startTime.toISOString());
  return {
    status,
    gathered: status.gathered,
    resolved: null,
    settings: null,
    verifiedPod: null,
    journalTried: false,
    journalBegun: false,
    journalBusy: false,
    untold: 0,
    // Not a child of the workflow's own scope: what Temporal's cancel means is decided by the upgrade.
    forward: new CancellationScope({ cancellable: true, parent: new CancellationScope({ cancellable: false }) }),
  };
}

/** Time as the workflow knows it: the same in every replay. */
export function now(): string {
  return new Date().toISOString();
}

export function resolved(run: Run): Resolved {
  return needed(run.resolved, 'the plan');
}

export function database(run: Run): DatabaseFact {
  return resolved(run).plan.facts.cluster.database;
}

/** What an earlier phase must have left; its absence is a defect of the order of phases, not of the world. */
export function needed<T>(value: T | null | undefined, what: string): T {
  if (value === null || value === undefined) throw new TypeError(`${what} is not known yet`);
  return value;
}

/** The source, asked over its own socket in its own pod. */
export function source(run: Run): ServerRef {
  const { pod, superuser, port } = database(run);
  return { role: 'source', pod, superuser, host: null, port };
}

/** The source, asked by the candidate over TCP: only so do results lie on the scratch volume. */
export function sourceFromCandidate(run: Run): ServerRef {
  const { podIp, superuser, port } = database(run);
  return { role: 'source', pod: needed(run.gathered.candidate, 'the candidate').pod, superuser, host: podIp, port };
}

export function candidate(run: Run): ServerRef {
  const { superuser, port } = database(run);
  const { pod } = needed(run.gathered.candidate, 'the candidate');
  return { role: 'candidate', pod, superuser, host: null, port };
}

/** Must follow every change of the state: details, search attributes and queries show it. */
export function show(run: Run): void {
  const { status } = run;
  if (status.stage !== 'ended') {
    const parked = status.park !== null && status.park.action === null;
    if (parked) status.stage = 'parked';
    else if (status.ending) status.stage = 'rolling-back';
    else status.stage = openGate(status) || status.retentionEndsAt !== null ? 'waiting' : 'running';
  }
  setCurrentDetails(details(status));
  showInSearch(status);
}

/** Tells people, best effort: whether anybody hears it changes nothing. */
export function tell(run: Run, kind: 'phase' | 'gate' | 'remind' | 'park' | 'end', text: string): void {
  const { upgradeId } = run.status;
  run.untold += 1;
  CancellationScope.nonCancellable(() => act('notify', `tell people: ${text}`, { upgradeId, kind, text }))
    .catch((error: unknown) => log.warn('nobody could be told', { kind, text, error: String(error) }))
    .finally(() => {
      run.untold -= 1;
    });
}

function artifactQueue(run: Run): ArtifactQueue {
  return { ...resolved(run).plan.facts.artifacts, patience: options().artifactPatience };
}

/** An activity of the worker that keeps this upgrade's artifacts. */
export function onArtifacts<Name extends keyof ArtifactActivities>(
  run: Run,
  name: Name,
  summary: string,
  ...args: Parameters<ArtifactActivities[Name]>
): ReturnType<ArtifactActivities[Name]> {
  return actOnArtifacts(artifactQueue(run), name, summary, ...args);
}

/**
 * Registers how changes are put back, here and in the journal, before they are made. The same id again replaces the first in
 * its place, so that a repeated phase does not undo twice.
 */
export async function willUndo(run: Run, ...undos: Undo[]): Promise<void> {
  for (const undo of undos) {
    const index = run.status.undo.findIndex(({ id }) => id === undo.id);
    if (index === -1) run.status.undo.push({ ...undo, done: false });
    else run.status.undo[index] = { ...undo, done: false };
  }
  if (!run.journalBegun || undos.length === 0) return;
  await journal(run, undos);
}

/** One writer at a time: phases that run side by side would only meet in conflicts. */
export async function journal(run: Run, undos: Undo[]): Promise<void> {
  while (run.journalBusy) await condition(() => !run.journalBusy);
  run.journalBusy = true;
  try {
    const { world } = resolved(run);
    await act('journalUndo', `journal: ${undos.map(({ says }) => says).join('; ')}`, { world, undos });
  } finally {
    run.journalBusy = false;
  }
}

/**
 * Waits for all, also when one fails, and then throws the first failure: what is still under way must not go on behind a
 * phase that has ended.
 */
export async function all<T extends readonly unknown[]>(promises: {
  [Index in keyof T]: Promise<T[Index]>;
}): Promise<T> {
  const settled = await Promise.allSettled(promises);
  for (const result of settled) if (result.status === 'rejected' && !isCancellation(result.reason)) throw result.reason;
  for (const result of settled) if (result.status === 'rejected') throw result.reason;
  return settled.map((result) => (result.status === 'fulfilled' ? result.value : undefined)) as unknown as T;
}

/** A failure as people read it. Rethrows what is no failure but a defect, so that Temporal retries the workflow task. */
export function failureOf(run: Run, error: unknown): { type: FailureType; message: string } {
  if (error instanceof ApplicationFailure) return typed(error);
  if (error instanceof ActivityFailure) {
    if (error.cause instanceof ApplicationFailure) return typed(error.cause);
    if (error.cause instanceof TimeoutFailure) return timedOut(run, error, error.cause);
    return { type: 'Unreachable', message: `${error.activityType}: ${error.cause?.message ?? error.message}` };
  }
  // Nobody of this upgrade cancelled it, so it is a failure like any other.
  if (error instanceof CancelledFailure) return { type: 'Unreachable', message: error.message };
  throw error;
}

function typed(failure: ApplicationFailure): { type: FailureType; message: string } {
  const type = failure.type ?? '';
  if (Object.hasOwn(failures, type)) return { type: type as FailureType, message: failure.message };
  return { type: 'CommandFailed', message: `${type === '' ? 'Error' : type}: ${failure.message}` };
}

function timedOut(run: Run, error: ActivityFailure, cause: TimeoutFailure): { type: FailureType; message: string } {
  if (cause.timeoutType === 'SCHEDULE_TO_START') {
    const { queue, folder } = artifactQueue(run);
    return {
      type: 'Unreachable',
      message:
        `No worker serves the artifact folder ${folder} (task queue ${queue}), which ${error.activityType} needs. ` +
        `Start pgleap worker with that folder again, then retry.`,
    };
  }
  return { type: 'Unreachable', message: `${error.activityType} did not finish in its time (${cause.timeoutType}).` };
}

/** Stops the upgrade at the next safe point. The first reason stays. */
export function stop(run: Run, ending: Ending): void {
  if (run.status.ending) return;
  run.status.ending = ending;
  const open = run.status.park;
  if (open && open.action === null) answerPark(run, ending.how === 'abort' ? 'abort' : 'rollback', ending.by);
  show(run);
  run.forward.cancel();
}

export function answerPark(run: Run, action: ParkAction, by: string | null): void {
  const open = run.status.park;
  if (!open) return;
  open.action = action;
  open.by = by;
}

/** Until the first reminder of a park; each one comes after twice the time. */
const firstSilence = 5 * 60_000;

/** Stops and asks a person what to do about a failure. Returns when the answer is `retry`; cancelled when it is another. */
export async function park(
  run: Run,
  where: Park['phase'],
  failure: { type: FailureType; message: string },
): Promise<ParkAction> {
  const { status } = run;
  // One question at a time; a phase that failed beside another waits for its turn.
  while (status.park !== null) await condition(() => status.park === null);
  status.park = {
    id: `park-${status.parked.length + 1}`,
    phase: where,
    ...failure,
    options:
      where === 'rollback' || where === 'end' || status.committedAt !== null
        ? ['retry', 'abort']
        : ['retry', 'rollback', 'abort'],
    since: now(),
    action: null,
    by: null,
  };
  const mine = status.park;
  show(run);
  tell(run, 'park', `${headline(status)} ${failure.type}: ${failure.message}`);
  try {
    let silence = firstSilence;
    const summary = `${mine.id}: remind`;
    while (!(await condition(() => mine.action !== null, silence, { summary }))) {
      tell(run, 'remind', `${status.workflowId}: ${mine.id} still waits for an answer. ${headline(status)}`);
      silence = Math.min(silence * 2, 86_400_000);
    }
    return mine.action ?? 'abort';
  } finally {
    status.parked.push(mine);
    status.park = null;
    show(run);
  }
}

/** Does something until it works: a failure is parked. Cancelled when the answer is another than `retry`. */
export async function insist<T>(run: Run, where: Park['phase'], body: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await body();
    } catch (error) {
      if (isCancellation(error) && run.forward.consideredCancelled) throw error;
      const failure = failureOf(run, error);
      if ((await park(run, where, failure)) !== 'retry') throw new CancelledFailure(failure.message);
    }
  }
}

/** Failures that mean "not this upgrade": nothing was taken down yet, so there is nothing for a person to decide. */
const refusals = new Set<FailureType>(['SpecInvalid', 'PreflightRefused', 'Locked', 'WrongWorld']);

/** Runs one phase until it is done: a failure parks it, and `retry` begins it again. */
export async function phase(run: Run, name: PhaseName, body: (run: Run) => Promise<void>): Promise<void> {
  const row = phaseRow(run.status, name);
  for (;;) {
    begin(row);
    show(run);
    try {
      await body(run);
      end(run, row, 'done');
      if (name !== 'preflight')
        tell(run, 'phase', `${run.status.workflowId}: ${name} is done. ${row.note ?? ''}`.trim());
      return;
    } catch (error) {
      if (isCancellation(error) && run.status.ending) {
        end(run, row, 'stopped');
        throw error;
      }
      const failure = failureOf(run, error);
      row.state = 'parked';
      row.note = `${failure.type}: ${failure.message}`;
      if (name === 'preflight' || (name === 'prepare' && refusals.has(failure.type))) {
        end(run, row, 'stopped');
        stop(run, { how: 'refused', why: failure.message, by: null, type: failure.type });
        throw new CancelledFailure(failure.message);
      }
      if (!(await askedToRetry(run, name, failure))) {
        end(run, row, 'stopped');
        throw new CancelledFailure(failure.message);
      }
    }
  }
}

async function askedToRetry(
  run: Run,
  name: PhaseName,
  failure: { type: FailureType; message: string },
): Promise<boolean> {
  if (run.status.ending) return false;
  try {
    return (await park(run, name, failure)) === 'retry';
  } catch (error) {
    if (isCancellation(error)) return false;
    throw error;
  }
}

function begin(row: PhaseRow): void {
  row.state = 'running';
  row.startedAt ??= now();
  row.endedAt = null;
  row.note = null;
  row.tries += 1;
}

function end(run: Run, row: PhaseRow, state: PhaseRow['state']): void {
  row.state = state;
  row.endedAt = now();
  row.seconds = secondsBetween(row.startedAt ?? row.endedAt, row.endedAt);
  run.status.progress = [];
  show(run);
}

/** Leaves a short word in the phase's row of the table. */
export function note(run: Run, name: PhaseName, text: string): void {
  phaseRow(run.status, name).note = text;
  show(run);
}

export function isDone(run: Run, name: PhaseName): boolean {
  return phaseRow(run.status, name).state === 'done';
}
