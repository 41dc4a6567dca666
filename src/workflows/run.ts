/**
 * One upgrade while it runs: its state, and the few verbs phases are written in. Phases park instead of failing; whatever
 * ends the upgrade early (an answer, a message, a refusal) is set as `ending` and cancels the scope that phases run in.
 */
import {
  CancellationScope,
  condition,
  isCancellation,
  log,
  setCurrentDetails,
  workflowInfo,
} from '@temporalio/workflow';
import type { ArtifactActivities, SavedSettings } from '../activities/types.ts';
import type { AtRest, DatabaseFact, ServerRef, World } from '../domain/facts.ts';
import { refreshOpenGate } from '../domain/approvals.ts';
import { details } from '../domain/details.ts';
import { prospects, worldNow } from '../domain/parks.ts';
import type { PhaseName } from '../domain/phases.ts';
import type { Plan, PlanFacts } from '../domain/plan.ts';
import type { Spec } from '../domain/spec.ts';
import {
  newStatus,
  openGate,
  phaseRow,
  recordAttempt,
  type Ending,
  type Gathered,
  type ParkAction,
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
  verified: ServerRef | null;
  /** Set before the journal is asked for: its answer may be lost. */
  journalTried: boolean;
  /** Whether CronJobs are off and their Jobs have ended, so that nothing but services keeps visitors from the maintenance page. */
  jobsEnded: boolean;
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
  const status = newStatus(workflowId, upgradeId, startTime.toISOString(), options().startedBy);
  return {
    status,
    gathered: status.gathered,
    resolved: null,
    settings: null,
    verified: null,
    journalTried: false,
    jobsEnded: false,
    journalBegun: false,
    journalBusy: false,
    untold: 0,
    // Not a child of the workflow's own scope: what Temporal's cancel means is decided by the upgrade.
    forward: new CancellationScope({ cancellable: true, parent: new CancellationScope({ cancellable: false }) }),
  };
}

/** Whether this run goes on from the history of another, and may know less than that one did. */
export function wasReset(): boolean {
  const { runId, originalExecutionRunId } = workflowInfo();
  return runId !== originalExecutionRunId;
}

/**
 * Ends the names of what lies outside until it is found again by them. Empty in an upgrade's first run; after a reset, which
 * counts tries anew, part of the run's id: what was made before it must not pass for what is there now.
 */
export function runMark(): string {
  return wasReset() ? `-${workflowInfo().runId.replaceAll('-', '').slice(-8)}` : '';
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

/** What must be at rest before the source is changed. */
export function atRest(run: Run): AtRest {
  const { services, reconcilers } = resolved(run).plan.facts.cluster;
  return { services, reconcilers };
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
  freshen(run);
  if (status.stage !== 'ended') {
    const parked = status.park !== null && status.park.action === null;
    if (parked) status.stage = 'parked';
    else if (status.ending) status.stage = 'rolling-back';
    else status.stage = openGate(status) || status.retentionEndsAt !== null ? 'waiting' : 'running';
  }
  setCurrentDetails(details(status));
  showInSearch(status);
}

/** What a person is asked about is what is there now. */
export function freshen(run: Run): void {
  const { status } = run;
  const { changed, voided } = refreshOpenGate(status, now());
  for (const attempt of voided) recordAttempt(status, attempt);
  const says = [
    ...(changed === null ? [] : [`The evidence of gate ${changed} is another now.`]),
    ...voided.map((one) => one.says),
  ];
  if (says.length > 0) tell(run, 'remind', `${status.workflowId}: ${says.join(' ')}`);
  const { park } = status;
  if (!park || park.action !== null) return;
  park.world = worldNow(status);
  park.prospects = prospects(status, park.phase, park.options);
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

export function artifactQueue(run: Run): ArtifactQueue {
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

/** Stops the upgrade at the next safe point. The first reason stays. */
export function stop(run: Run, ending: Ending): void {
  if (run.status.ending) return;
  run.status.ending = ending;
  const open = run.status.park;
  if (open && open.action === null) answerPark(run, ending.how === 'abort' ? 'abort' : 'rollback', ending.by, null);
  show(run);
  run.forward.cancel();
}

export function answerPark(run: Run, action: ParkAction, by: string | null, text: string | null): void {
  const open = run.status.park;
  if (!open) return;
  open.action = action;
  open.by = by;
  open.note = text;
}

/** Leaves a short word in the phase's row of the table. */
export function note(run: Run, name: PhaseName, text: string): void {
  phaseRow(run.status, name).note = text;
  show(run);
}

export function isDone(run: Run, name: PhaseName): boolean {
  return phaseRow(run.status, name).state === 'done';
}
