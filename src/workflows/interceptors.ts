/**
 * Keeps a query from breaking an upgrade.
 *
 * The SDK answers a query for which a worker has to replay by a history up to that moment: also one that ends in the midst of
 * two workflow tasks, say just after a timer fired. What happened since the last task is then run before its time and beside the
 * rest of its task, at the clock of the task before, and stays so in the worker's memory: what the upgrade goes on to do from there is
 * not what a later replay does, and it is stuck for good. (Core of SDK 1.24, `managed_run.rs`; seen when a worker came back
 * just after a timer while `pgleap watch` was waiting.) So such an activation is refused: the query fails, the worker forgets
 * what it replayed, and the workflow task that is on its way begins afresh.
 */
import type { WorkflowInterceptors } from '@temporalio/workflow';
import { askedTooEarly } from '../domain/asked-too-early.ts';

type Internals = NonNullable<WorkflowInterceptors['internals']>[number];
type Activation = Parameters<NonNullable<Internals['activate']>>[0]['activation'];

/** What the begin of a workflow task changes, which each whole one has. */
function beginOf({ timestamp, historySizeBytes }: Activation): string {
  return `${String(timestamp?.seconds)}.${timestamp?.nanos} ${String(historySizeBytes)}`;
}

export function interceptors(): WorkflowInterceptors {
  let last = { begin: '', length: 0 };
  const activate: Internals['activate'] = (input, next) => {
    const { activation } = input;
    const now = { begin: beginOf(activation), length: activation.historyLength ?? 0 };
    // A second activation of the same task, as after a cancelled activity, brings no more of the history.
    if (activation.isReplaying !== true && now.begin === last.begin && now.length > last.length) {
      throw new Error(askedTooEarly);
    }
    last = now;
    next(input);
  };
  return { internals: [{ activate }] };
}
