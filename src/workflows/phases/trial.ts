/**
 * trial: that very dump, imported into the empty candidate, equals the source.
 *
 * 1. Begun again: the candidate's server empty again, once nothing else uses its pod, and the dump there, from the artifact store if need be.
 * 2. Import the dump; every error classified.
 * 3. Each role's login tried; the candidate's fingerprint, compared with the source's.
 * 4. If the backup was made again meanwhile, this was another dump: once more from the start.
 *
 * Undone by: what prepare registered: the candidate is removed.
 * Killed here: the detached import is found again; one that was lost with its pod begins in an empty server, by itself.
 */
import { ApplicationFailure, condition, patched } from '@temporalio/workflow';
import type { DumpFact, ImportFact } from '../../domain/facts.ts';
import { phaseRow, type TrialFact } from '../../domain/state.ts';
import { act } from '../activities.ts';
import { evenIfLost } from '../lost.ts';
import { again, keep } from './backup.ts';
import { freshCandidate } from './prepare.ts';
import { all, candidate, isDone, needed, note, onArtifacts, resolved, runMark, type Run } from '../run.ts';

export async function trial(run: Run): Promise<void> {
  await evenIfLost(run, 'trial', trialOnce);
}

async function trialOnce(run: Run): Promise<void> {
  const { gathered } = run;
  let used = phaseRow(run.status, 'trial').tries > 1;
  for (;;) {
    if (used) {
      await condition(() => !isPodUsed(run));
      await freshCandidate(run);
    }
    await condition(() => gathered.dump !== null);
    if (used) await bringDumpBack(run);
    const { dump } = gathered;
    // The backup was begun again meanwhile.
    if (dump === null) continue;
    gathered.trial = await tryDump(run, dump);
    used = true;
    await condition(() => isDone(run, 'backup'));
    if (gathered.trial.dump === needed(gathered.dump, 'the dump').sha512) break;
  }
  const { fingerprint, logins } = gathered.trial;
  note(
    run,
    'trial',
    `equal: ${fingerprint.rows} rows in ${fingerprint.tables} tables; ${logins.tried} logins tried, ${logins.failedCount} failed`,
  );
}

/** Whether backup or halt have work under way in the candidate's pod. */
function isPodUsed({ status, gathered }: Run): boolean {
  const isRunning = (name: 'backup' | 'halt') => phaseRow(status, name).state === 'running';
  return isRunning('backup') || (isRunning('halt') && gathered.haltingAt === null);
}

/** The scratch volume may have lost the dump with the work. What is still right of it is not copied again. */
async function bringDumpBack(run: Run): Promise<void> {
  const { dump, dumpArtifact: artifact } = run.gathered;
  // Without a copy the backup is not done, and makes the dump anew itself when it is lost.
  if (dump === null || artifact === null || !patched('dump-back-for-the-trial')) return;
  const { world } = resolved(run);
  const { pod } = candidate(run);
  const { path } = dump;
  await onArtifacts(run, 'copyIn', 'see that the dump is in the candidate', { world, artifact, pod, path });
}

async function tryDump(run: Run, dump: DumpFact): Promise<TrialFact> {
  const { world } = resolved(run);
  const { generation } = run.gathered;
  const server = candidate(run);
  const imported = await act('importDump', 'import the dump into the candidate', {
    world,
    server,
    path: dump.path,
    compression: dump.compression,
    sha512: dump.sha512,
    name: `trial-${generation}${runMark()}`,
  });
  failOnImportErrors(imported, 'the candidate');

  const [logins, fingerprint] = await all([
    act('tryLogins', 'try each role’s login', { world, server }),
    act('fingerprint', 'fingerprint of the candidate', { world, server, name: `trial-${generation}${runMark()}` }),
  ]);
  const b = await keep(run, server.pod, fingerprint, `fingerprint-trial${again(generation + 1)}.txt`);
  await condition(() => run.gathered.sourceFingerprintArtifact !== null);
  const a = needed(run.gathered.sourceFingerprintArtifact, 'the source’s fingerprint');
  const comparison = await onArtifacts(run, 'compareFingerprints', 'compare candidate and source', { world, a, b });
  // A source that was restarted meanwhile may hold other data than before, and was backed up again.
  if (!comparison.equal && run.gathered.dump?.sha512 === dump.sha512) {
    throw ApplicationFailure.nonRetryable(
      `The trial does not equal the source in ${comparison.differing} lines: ${comparison.differences.join('; ')}`,
      'FingerprintDiffers',
    );
  }
  return { dump: dump.sha512, import: imported, fingerprint, equal: comparison.equal, logins };
}

/** Only the bootstrap role and database may exist already; the activity sorts errors, and any other ends the phase. */
export function failOnImportErrors(imported: ImportFact, where: string): void {
  if (imported.unexpectedCount === 0) return;
  const first = imported.unexpected
    .slice(0, 3)
    .map(({ sqlstate, line, message }) => `${sqlstate} at line ${line}: ${message}`);
  throw ApplicationFailure.nonRetryable(
    `${imported.unexpectedCount} errors while importing into ${where}: ${first.join('; ')}`,
    'ImportErrors',
  );
}
