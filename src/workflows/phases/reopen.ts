/**
 * reopen: the commit point.
 *
 * 1. Look once more whether the target may be opened; remove what the import left beside PGDATA.
 * 2. From here on rollback would lose writes: noted in state and journal before it is true.
 * 3. The target restarts with its lasting settings, its fence lifted, everything synced to disk.
 *
 * Undone by: nothing any more. Until step 2, everything; after it the original volume and the clone are still kept.
 * Killed here: a template in its lasting form is found as such.
 */
import { ApplicationFailure, CancellationScope, CancelledFailure } from '@temporalio/workflow';
import { missingForReopen } from '../../domain/laws.ts';
import { act } from '../activities.ts';
import { database, needed, note, now, resolved, show, type Run } from '../run.ts';

export async function reopen(run: Run): Promise<void> {
  const { world, spec, plan } = resolved(run);
  const missing = missingForReopen(run.status);
  if (missing.length > 0) {
    throw ApplicationFailure.nonRetryable(`The target is not opened without ${missing.join(', ')}.`, 'Refused');
  }
  if (run.status.committedAt === null) {
    await act('sweepTarget', 'clear the target of scratch files', {
      world,
      target: needed(run.gathered.target, 'the target'),
    });
    commit(run);
  }
  await act('journalCommit', 'journal: the commit point', { world });
  run.gathered.target = await act('openTarget', 'lift the fence of the target', {
    world,
    spec,
    database: database(run),
    source: plan.facts.source,
  });
  note(run, 'reopen', 'the target takes logins, with its lasting settings');
}

/** A rollback that was asked for in the same moment goes first. */
function commit(run: Run): void {
  if (CancellationScope.current().consideredCancelled) throw new CancelledFailure('stopped before the commit point');
  run.status.committedAt = now();
  show(run);
}
