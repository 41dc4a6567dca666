/**
 * reopen: the commit point.
 *
 * 0. A workflow that was reset may have opened it before: then only what is left is done.
 * 1. Look once more whether the target may be opened. A server that is not the one that was verified, or was restarted since,
 *    is verified again: until now the target runs without fsync, and a node that crashed may have lost what it held.
 *    An approval that has lapsed by now, because this was parked or took long, is asked for again, and all is looked at anew.
 * 2. Remove what the import left beside PGDATA; note the target's counters, to say later what a way back would lose.
 * 3. From here on rollback would lose writes: noted in state and journal before it is true.
 * 4. The target restarts with its lasting settings, its fence lifted, everything synced to disk.
 *
 * Undone by: until step 3, everything; after it the same, but what was written since is lost to the services, so that it takes
 * `acceptLostWrites`; the volume that has it is kept.
 * Killed here: a template in its lasting form is found as such.
 */
import { ApplicationFailure, CancellationScope, CancelledFailure } from '@temporalio/workflow';
import { missingForReopen } from '../../domain/laws.ts';
import { act } from '../activities.ts';
import { gate, stillApproved } from '../gates.ts';
import { journalOld } from '../old-world.ts';
import { fencedTarget } from './deploy.ts';
import { verify } from './verify.ts';
import { database, note, now, resolved, show, type Run } from '../run.ts';

export async function reopen(run: Run): Promise<void> {
  const { world } = resolved(run);
  await learnOfCommit(run);
  if (run.status.committedAt === null) {
    await makeReady(run);
    while (!stillApproved(run, 'reopen')) {
      await gate(run, 'reopen');
      await makeReady(run);
    }
    commit(run);
  }
  run.status.committedAt = await act('journalCommit', 'journal: the commit point', { world });
  await openTarget(run);
  note(run, 'reopen', 'the target takes logins, with its lasting settings');
}

/** All that comes before the commit point. */
async function makeReady(run: Run): Promise<void> {
  const { world } = resolved(run);
  const missing = missingForReopen(run.status);
  if (missing.length > 0) {
    throw ApplicationFailure.nonRetryable(`The target is not opened without ${missing.join(', ')}.`, 'Refused');
  }
  const target = await fencedTarget(run);
  if (target.pod.uid !== run.verified?.pod.uid || target.began !== run.verified.began) await verify(run);
  await act('sweepTarget', 'clear the target of scratch files', { world, target });
  run.gathered.opened = await act('countWrites', 'note what the target has counted', { server: target });
  await journalOld(run);
}

/** A workflow that was reset to before its commit point takes the target for one that nobody wrote to: the journal knows. */
async function learnOfCommit(run: Run): Promise<void> {
  const { status } = run;
  if (status.committedAt !== null) return;
  const head = await act('readJournal', 'see that the target was never opened', { world: resolved(run).world });
  if (!head?.committedAt) return;
  status.committedAt = head.committedAt;
  status.notes.push(
    `The journal says that the target has been open since ${head.committedAt}: this workflow was reset to before that.`,
  );
}

/** A rollback that was asked for in the same moment goes first. */
function commit(run: Run): void {
  if (CancellationScope.current().consideredCancelled) throw new CancelledFailure('stopped before the commit point');
  run.status.committedAt = now();
  show(run);
}

/** The open target, in its pod of now: opened if need be, and found again when its pod was replaced. */
export async function openTarget(run: Run): Promise<void> {
  const { world } = resolved(run);
  run.gathered.target = await act('openTarget', 'the target, open', { world, database: database(run) });
}
