/** One phase from its begin to its end: what fails in it is parked, and `retry` begins it again. */
import { CancelledFailure, isCancellation } from '@temporalio/workflow';
import type { FailureType } from '../domain/failures.ts';
import type { PhaseName } from '../domain/phases.ts';
import { phaseRow, secondsBetween, type PhaseRow } from '../domain/state.ts';
import { failureOf, park, type Failure } from './park.ts';
import { now, show, stop, tell, type Run } from './run.ts';

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

async function askedToRetry(run: Run, name: PhaseName, failure: Failure): Promise<boolean> {
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
  row.triedAt = now();
  row.startedAt ??= row.triedAt;
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
