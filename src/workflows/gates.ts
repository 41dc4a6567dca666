/** Waiting for a person. What the answers mean is decided in src/domain/decide.ts; here is only the waiting. */
import { CancelledFailure, condition, isCancellation } from '@temporalio/workflow';
import { approvalsNeeded, approvalsText, firstLapse } from '../domain/approvals.ts';
import { milliseconds } from '../domain/duration.ts';
import { evidenceFor, gateQuestion } from '../domain/evidence.ts';
import { isApproved } from '../domain/laws.ts';
import type { GateName } from '../domain/phases.ts';
import { gateRow, recordAttempt, type GateRow } from '../domain/state.ts';
import { now, resolved, show, stop, tell, type Run } from './run.ts';

/** Reminders come at longer and longer intervals, up to this one, so that a fortnight at a gate stays a short history. */
const longestSilence = 86_400_000;

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
  row.approvals = [];
  row.needed = approvalsNeeded(spec.gates[name]);
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
    tell(
      run,
      'gate',
      `${run.status.workflowId} waits at gate ${name}: ${gateQuestion(run.status, name)} Evidence ${row.evidence.hash}`,
    );
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

function answer(run: Run, row: GateRow, state: GateRow['state'], by: string | null, text: string | null): void {
  row.state = state;
  row.decidedAt = now();
  row.by = by;
  row.note = text;
  show(run);
}

async function waitForAnswer(run: Run, row: GateRow): Promise<void> {
  const opened = Date.now();
  const { spec } = resolved(run);
  const policy = spec.gates[row.name];
  let silence = Math.max(milliseconds(policy.remind), 1);
  let remindAt = opened + silence;
  let limitAt = policy.timeLimit === undefined ? Infinity : opened + milliseconds(policy.timeLimit);
  for (;;) {
    const lapseAt = firstLapse(spec, row.approvals);
    const next = Math.min(remindAt, limitAt, lapseAt);
    const summary = `gate ${row.name}: ${next === limitAt ? 'time limit' : next === lapseAt ? 'an approval lapses' : 'remind'}`;
    const counted = row.approvals.length;
    const heard = () => row.state !== 'open' || row.approvals.length !== counted;
    await condition(heard, Math.max(next - Date.now(), 1), { summary });
    // A person's answer that came in the same moment goes first.
    if (row.state !== 'open') return;
    if (Date.now() >= remindAt) {
      row.reminders += 1;
      silence = Math.min(silence * 2, longestSilence);
      remindAt = Date.now() + silence;
      tell(
        run,
        'remind',
        `${run.status.workflowId} still waits at gate ${row.name}: ${gateQuestion(run.status, row.name)} ${approvalsText(row) ?? ''}`.trim(),
      );
    }
    if (Date.now() >= limitAt) {
      limitAt = Infinity;
      if (row.name === 'begin' || row.name === 'cleanup') {
        answer(run, row, 'expired', 'time limit', null);
        return;
      }
      tell(
        run,
        'remind',
        `${run.status.workflowId}: the time limit of gate ${row.name} is reached. It goes on waiting.`,
      );
    }
    show(run);
  }
}

/** Whether the gate was passed for what is there now, and lately enough: what waited too long is asked again. */
export function stillApproved(run: Run, name: GateName): boolean {
  const { status } = run;
  if (!isApproved(status, name)) return false;
  if (firstLapse(resolved(run).spec, gateRow(status, name).approvals) > Date.now()) return true;
  noteLapse(run, name);
  return false;
}

/** Says why a gate that was passed opens again. */
export function noteLapse(run: Run, name: GateName): void {
  const { by } = gateRow(run.status, name);
  run.status.notes.push(
    `What ${by ?? 'somebody'} approved at gate ${name} has lapsed: nothing followed it within ${resolved(run).spec.approvalLasts}.`,
  );
}

/** Until when what was approved at a gate may be begun; null where nobody was asked. */
export function approvedUntil(run: Run, name: GateName): string | null {
  const lapse = firstLapse(resolved(run).spec, gateRow(run.status, name).approvals);
  return Number.isFinite(lapse) ? new Date(lapse).toISOString() : null;
}
