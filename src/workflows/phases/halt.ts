/**
 * halt: the original volume is at rest.
 *
 * 1. Nobody has written since the backup: read-only services still had their logins, which are shut out now. Begun again: the
 *    source of now.
 * 2. Seen that services are still at 0, the source's workload to 0.
 * 3. Pods gone, VolumeAttachment gone; the volume detached at the provider, unless the spec goes without a clone.
 *
 * Undone by: the source at 1 again, on its own volume.
 * Killed here: a workload at 0 and a detached volume are found as such.
 */
import { ApplicationFailure, patched } from '@temporalio/workflow';
import { phaseRow } from '../../domain/state.ts';
import { act } from '../activities.ts';
import { evenIfLost } from '../lost.ts';
import { fingerprint } from './backup.ts';
import { fence, quietAgain, readOnlyLogins } from './quiesce.ts';
import { atRest, database, needed, note, now, resolved, runMark, source, willUndo, type Run } from '../run.ts';

export async function halt(run: Run): Promise<void> {
  await evenIfLost(run, 'halt', haltOnce);
}

async function haltOnce(run: Run): Promise<void> {
  const { world, plan } = resolved(run);
  await willUndo(run, {
    id: 'halt/source',
    phase: 'halt',
    says: 'start the source again on its own volume',
    activity: 'restartSource',
    args: { world, database: database(run) },
    last: false,
  });
  if (run.gathered.haltingAt === null || (await stillRuns(run))) await stillAsBackedUp(run);
  run.gathered.haltingAt = now();
  await act('haltDatabase', 'source to 0', { world, database: database(run), atRest: atRest(run) });
  const { volume } = plan.facts;
  if (volume !== null) await act('awaitDetached', `wait until volume ${volume.id} is detached`, { world, volume });
  note(run, 'halt', `volume ${volume?.label ?? database(run).volume.handle} is detached`);
}

/** Whether the source was not stopped yet when this failed before: who could write to it until now may have. */
async function stillRuns(run: Run): Promise<boolean> {
  if (!patched('halt-looks-again')) return false;
  const { spec } = resolved(run);
  const { checks } = await act('inspectCluster', 'see whether the source still runs', { spec });
  return checks.some(({ id, status }) => id === 'kube.replicas' && status === 'PASSED');
}

/**
 * Compares the next transaction id with that of the backup. Housekeeping of the server's own takes ids too, so only another
 * fingerprint tells whether a changed id means changed data.
 */
async function stillAsBackedUp(run: Run): Promise<void> {
  const { quietAt, sourceFingerprint } = run.gathered;
  const { tries } = phaseRow(run.status, 'halt');
  // A source that was restarted may be another pod now, at another address.
  if (tries > 1) await quietAgain(run);
  // Between the look and the stop they could write once more.
  if (readOnlyLogins(run).length > 0 && patched('halt-fences-all')) await fence(run, []);
  const next = await act('nextTransaction', 'see that nobody wrote since the backup', { server: source(run) });
  if (next === quietAt) return;
  const seen = await fingerprint(run, `source-halt-${tries}${runMark()}`);
  if (seen.sha512 === needed(sourceFingerprint, 'the source’s fingerprint').sha512) return;
  throw ApplicationFailure.nonRetryable(
    'The source changed after it was backed up. A service that is listed as read-only writes, or somebody uses the superuser. Roll back, and list it as a service that is stopped.',
    'SourceNotQuiet',
  );
}
