/** Waiting for a person. What the answers mean is decided in src/domain/decide.ts; here is only the waiting. */
import { CancelledFailure, condition, isCancellation } from '@temporalio/workflow';
import { milliseconds } from '../domain/duration.ts';
import { evidenceFor } from '../domain/evidence.ts';
import { gates, type GateName } from '../domain/phases.ts';
import { gateRow, recordAttempt, type GateRow } from '../domain/state.ts';
import { now, resolved, show, stop, tell, type Run } from './run.ts';

/** Reminders come at longer and longer intervals, up to this one, so that a fortnight at a gate stays a short history. */
const longestSilence = 86_400_000;

interface Deadline {
  at: number;
  what: 'remind' | 'limit' | 'downtime';
}

/**
 * Opens a gate and waits for its answer. True when it is approved, false when gate cleanup is not; a no at any other gate
 * rolls the upgrade back.
 */
export async function gate(run: Run, name: GateName): Promise<boolean> {
  const { spec, plan } = resolved(run);
  const row = gateRow(run.status, name);
  row.state = 'open';
  row.openedAt = now();
  row.decidedAt = null;
  row.by = null;
  row.note = null;
  row.evidence = evidenceFor(name, run.status, plan.facts, row.openedAt);
  if (spec.gates[name].policy === 'auto') {
    answer(run, row, 'approved', 'policy', null);
    recordAttempt(run.status, {
      at: now(),
      how: 'policy',
      message: 'approve',
      by: 'policy',
      gate: name,
      accepted: true,
      says: `Gate ${name} passed by the spec's policy.`,
      note: null,
    });
  } else {
    show(run);
    tell(run, 'gate', `${run.status.workflowId} waits at gate ${name}: ${asks(name)} Evidence ${row.evidence.hash}`);
    try {
      await waitForAnswer(run, row);
    } catch (error) {
      if (isCancellation(error)) answer(run, row, 'closed', null, null);
      throw error;
    }
  }
  const { state, by, note }: GateRow = gateRow(run.status, name);
  if (state === 'approved') return true;
  if (name === 'cleanup') return false;
  const who = state === 'expired' ? 'nobody answered in time' : `${by ?? 'somebody'} said no`;
  stop(run, { how: 'rollback', why: `Gate ${name}: ${who}.${note === null ? '' : ` ${note}`}`, by, type: null });
  throw new CancelledFailure(`gate ${name} ${state}`);
}

export function answer(run: Run, row: GateRow, state: GateRow['state'], by: string | null, text: string | null): void {
  row.state = state;
  row.decidedAt = now();
  row.by = by;
  row.note = text;
  show(run);
}

function asks(name: GateName): string {
  return gates.find((known) => known.name === name)?.asks ?? '';
}

async function waitForAnswer(run: Run, row: GateRow): Promise<void> {
  const opened = Date.now();
  const policy = resolved(run).spec.gates[row.name];
  let silence = Math.max(milliseconds(policy.remind), 1);
  let remindAt = opened + silence;
  let limitAt = policy.timeLimit === undefined ? null : opened + milliseconds(policy.timeLimit);
  let downtimeAt = downtimeLimit(run, row.name);
  for (;;) {
    const next = soonest(remindAt, limitAt, downtimeAt);
    const summary = `gate ${row.name}: ${next.what === 'remind' ? 'remind' : next.what === 'limit' ? 'time limit' : 'longest downtime'}`;
    if (await condition(() => row.state !== 'open', Math.max(next.at - Date.now(), 1), { summary })) return;
    switch (next.what) {
      case 'remind':
        row.reminders += 1;
        silence = Math.min(silence * 2, longestSilence);
        remindAt = Date.now() + silence;
        show(run);
        tell(run, 'remind', `${run.status.workflowId} still waits at gate ${row.name}: ${asks(row.name)}`);
        break;
      case 'limit':
        limitAt = null;
        if (row.name === 'begin' || row.name === 'cleanup') {
          answer(run, row, 'expired', 'time limit', null);
          return;
        }
        tell(
          run,
          'remind',
          `${run.status.workflowId}: the time limit of gate ${row.name} is reached. It goes on waiting.`,
        );
        break;
      case 'downtime':
        downtimeAt = null;
        answer(run, row, 'expired', 'time limit', 'The longest downtime that the spec accepts is reached.');
        return;
    }
  }
}

/** When policy asks to go back by itself rather than stay down any longer. */
function downtimeLimit(run: Run, name: GateName): number | null {
  const { spec } = resolved(run);
  const { from } = run.status.downtime;
  if (name !== 'replace' && name !== 'reopen') return null;
  if (spec.onDowntimeExceeded !== 'rollback' || spec.maxDowntime === undefined || from === null) return null;
  return Date.parse(from) + milliseconds(spec.maxDowntime);
}

function soonest(remind: number, limit: number | null, downtime: number | null): Deadline {
  let next: Deadline = { at: remind, what: 'remind' };
  if (limit !== null && limit <= next.at) next = { at: limit, what: 'limit' };
  if (downtime !== null && downtime <= next.at) next = { at: downtime, what: 'downtime' };
  return next;
}
