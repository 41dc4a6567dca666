/** Puts the old world back from the list of undos, last change first. Nothing cancels it. */
import { CancellationScope } from '@temporalio/workflow';
import type { SharedActivities } from '../activities/types.ts';
import { undoOrder, type RegisteredUndo, type Undo } from '../domain/undo.ts';
import { act } from './activities.ts';
import { all, failureOf, park, resolved, show, type Run } from './run.ts';

/** Undoes everything registered. False when a person answered a failure with `abort`. */
export async function rollBack(run: Run): Promise<boolean> {
  return CancellationScope.nonCancellable(async () => {
    for (const group of undoOrder(run.status.undo)) {
      const outcomes = await all(group.map((undo) => putBack(run, undo)));
      if (outcomes.includes(false)) return false;
    }
    return true;
  });
}

async function putBack(run: Run, undo: RegisteredUndo): Promise<boolean> {
  const { world } = resolved(run);
  for (;;) {
    try {
      await undoOne(undo);
      if (run.journalBegun) {
        await act('journalUndone', `journal: undone: ${undo.says}`, { world, undoId: undo.id });
      }
      undo.done = true;
      if (undo.activity === 'restoreService') run.status.downtime.to = new Date().toISOString();
      show(run);
      return true;
    } catch (error) {
      const failure = failureOf(run, error);
      const answer = await park(run, 'rollback', { ...failure, message: `${undo.says}: ${failure.message}` });
      if (answer === 'abort') return false;
    }
  }
}

function undoOne(undo: Undo): Promise<void> {
  // The pair of name and argument was checked where the undo was made.
  const call = act as (name: keyof SharedActivities, summary: string, arg: unknown) => Promise<unknown>;
  return call(undo.activity, `undo: ${undo.says}`, undo.args).then(() => undefined);
}
