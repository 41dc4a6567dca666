/** Follows an upgrade: what changed since the last look, a line each, and the measured progress of what runs now. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Progress } from '../activities/types.ts';
import { duration } from '../domain/text.ts';
import { UserError } from '../domain/exit-codes.ts';
import { phases } from '../domain/phases.ts';
import { openGate, type UpgradeResult, type UpgradeStatus } from '../domain/state.ts';
import type { Session } from './connection.ts';
import { gateText, parkText, progressText, titleText } from './text.ts';
import { describeUpgrade, upgradeResult, upgradeStatus, type PendingActivity } from './upgrades.ts';

/** Something that happened, for programs as it is and for people as `text`. */
export interface WatchEvent {
  type: 'start' | 'phase' | 'gate' | 'park' | 'note' | 'trouble' | 'progress';
  at: string;
  text: string;
  phase?: string;
  state?: string;
  seconds?: number | null;
  gate?: string;
  evidence?: string;
  park?: string;
  progress?: Progress & { perSecond: number | null };
}

const everyMs = 1000;

/**
 * Calls `tell` for each event until the upgrade has its result: what comes after it, retention and gate cleanup, takes
 * days. Workers and servers that go away meanwhile are told about once and waited for. Throws UserError with the exit
 * code of an upgrade that ended badly.
 */
export async function watchUpgrade(
  session: Session,
  workflowId: string,
  tell: (event: WatchEvent) => void,
  signal?: AbortSignal,
): Promise<UpgradeResult> {
  let before: UpgradeStatus | null = null;
  let trouble: string | null = null;
  const rates = rateMeter();
  for (;;) {
    try {
      const status = await upgradeStatus(session, workflowId);
      const { state, activities } = await describeUpgrade(session, workflowId);
      if (trouble !== null) tell({ type: 'trouble', at: now(), text: 'It answers again.' });
      trouble = null;
      for (const event of changes(before, status)) tell(event);
      before = status;
      if (status.result) return status.result;
      if (state !== 'RUNNING') return await upgradeResult(session, workflowId);
      for (const event of progressEvents(activities, rates)) tell(event);
    } catch (error) {
      if (!(error instanceof Error) || signal?.aborted === true || !mayPass(error, before)) throw error;
      const text = error instanceof UserError ? error.message : `Temporal’s server does not answer: ${error.message}`;
      if (text !== trouble)
        tell({ type: 'trouble', at: now(), text: `${text} The upgrade itself is safe; still trying.` });
      trouble = text;
    }
    await sleep(everyMs, undefined, signal ? { signal } : {});
  }
}

/** Without a worker or a server for a while there is nothing to show, and nothing is lost; at the first look it is an error. */
function mayPass(error: Error, before: UpgradeStatus | null): boolean {
  if (before === null) return false;
  return error instanceof UserError
    ? error.exit === 'noWorker' || error.exit === 'noTemporal'
    : error.name === 'ServiceError';
}

function changes(before: UpgradeStatus | null, status: UpgradeStatus): WatchEvent[] {
  const events: WatchEvent[] = [];
  if (before === null) events.push({ type: 'start', at: status.startedAt, text: titleText(status) });
  for (const row of status.phases) {
    const old = before?.phases.find(({ name }) => name === row.name);
    if (row.state === 'pending' || (old?.state === row.state && old.tries === row.tries)) continue;
    const { name, state, seconds } = row;
    const says = phases.find((phase) => phase.name === name)?.says ?? '';
    const took = seconds === null ? '' : ` in ${duration(seconds)}`;
    const note = state === 'running' ? says : (row.note ?? '');
    const verb = state === 'running' ? '…' : `${state}${took}`;
    events.push({
      type: 'phase',
      at: row.endedAt ?? row.startedAt ?? now(),
      text: `${name.padEnd(10)}  ${verb}${note === '' ? '' : `  ${note}`}`,
      phase: name,
      state,
      seconds,
    });
  }
  for (const row of status.gates) {
    const old = before?.gates.find(({ name }) => name === row.name);
    if (row.state === 'pending' || row.state === 'open' || old?.state === row.state) continue;
    const text = `gate ${row.name}  ${row.state} by ${row.by ?? 'nobody'}${row.note === null ? '' : `: ${row.note}`}`;
    events.push({ type: 'gate', at: row.decidedAt ?? now(), text, gate: row.name, state: row.state });
  }
  const gate = openGate(status);
  if (gate && (before === null || openGate(before)?.name !== gate.name)) {
    events.push({
      type: 'gate',
      at: gate.openedAt ?? now(),
      text: `\n${gateText(status, gate)}\n`,
      gate: gate.name,
      state: 'open',
      evidence: gate.evidence?.hash ?? '',
    });
  }
  const { park } = status;
  if (park && park.action === null && before?.park?.id !== park.id) {
    const text = `\n${parkText(status.workflowId, park)}\n`;
    events.push({ type: 'park', at: park.since, text, park: park.id, phase: park.phase });
  }
  const exceeded = status.budget?.exceeded;
  if (exceeded && before?.budget?.exceeded?.at !== exceeded.at) {
    events.push({ type: 'note', at: exceeded.at, text: exceeded.why });
  }
  for (const note of status.notes.slice(before?.notes.length ?? 0))
    events.push({ type: 'note', at: now(), text: note });
  return events.sort((a, b) => (a.at < b.at ? -1 : 1));
}

interface RateMeter {
  measure: (key: string, done: number, atMs: number) => number | null;
}

/** Rates over the last half a minute of heartbeats: a whole job's average would hide that it has slowed down. */
function rateMeter(): RateMeter {
  const seen = new Map<string, { at: number; done: number }[]>();
  return {
    measure(key, done, atMs) {
      const points = (seen.get(key) ?? []).filter(({ at, done: then }) => atMs - at < 30_000 && then <= done);
      if (points.at(-1)?.at !== atMs) points.push({ at: atMs, done });
      seen.set(key, points);
      const first = points[0];
      const span = first ? atMs - first.at : 0;
      return first && span >= 1000 ? ((done - first.done) * 1000) / span : null;
    },
  };
}

function progressEvents(activities: PendingActivity[], rates: RateMeter): WatchEvent[] {
  return activities.flatMap(({ name, progress, at, attempt, lastFailure }): WatchEvent[] => {
    if (!progress || at === null) return [];
    const perSecond = rates.measure(`${name} ${progress.what}`, progress.done, at);
    const again =
      attempt > 1 ? `  (try ${attempt}${lastFailure === null ? '' : `, after: ${lastFailure.slice(0, 80)}`})` : '';
    return [
      {
        type: 'progress',
        at: new Date(at).toISOString(),
        text: `${progressText(progress, perSecond)}${again}`,
        progress: { ...progress, perSecond },
      },
    ];
  });
}

function now(): string {
  return new Date().toISOString();
}
