import { CancelledFailure } from '@temporalio/workflow';
import { phaseRow } from '../domain/state.ts';
import type { FailureType } from '../domain/failures.ts';
import type { PhaseName } from '../domain/phases.ts';
import { failureOf } from './park.ts';
import { now, show, tell, type Run } from './run.ts';

/** How often a phase is begun again by itself; a pod that goes a third time has a cause that a person must see. */
const times = 2;

const losses = new Set<FailureType>(['PodLost', 'JobLost', 'ScratchLost', 'ServerLost']);

/**
 * Runs a phase's body, and runs it again when the pod it worked in was lost, or the detached work with it, the server that it
 * worked on, or what lay on its scratch volume: deleted, evicted, out of memory, a node restarted. As for a `retry` of a
 * person's, `tries` tells the body that it was begun before.
 */
export async function evenIfLost(run: Run, name: PhaseName, body: (run: Run) => Promise<void>): Promise<void> {
  for (let lost = 1; ; lost += 1) {
    try {
      await body(run);
      return;
    } catch (error) {
      if (error instanceof CancelledFailure || run.status.ending || lost > times) throw error;
      const { type, message } = failureOf(run, error);
      if (!losses.has(type)) throw error;
      const text = `${name} was begun again by itself (${lost} of ${times} times): ${message}`;
      run.status.notes.push(text);
      const row = phaseRow(run.status, name);
      row.tries += 1;
      row.triedAt = now();
      show(run);
      tell(run, 'phase', `${run.status.workflowId}: ${text}`);
    }
  }
}
