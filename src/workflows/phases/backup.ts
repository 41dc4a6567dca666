/**
 * backup: a proven dump, in two places.
 *
 * 1. Begun again: source and candidate of now, and a fence that knows its address.
 * 2. pg_dumpall with the target's client; beside it the fingerprint of the source, and its settings, read while it runs. The
 *    trial begins with the dump's end.
 * 3. After the dump the fingerprint again: equal, or the source was not quiet. Beside it the dump is copied to the artifact
 *    store, chunk by chunk, and verified there.
 *
 * Undone by: what prepare registered; the copies in the artifact store stay.
 * Killed here: the detached jobs are found again by their names, the copy goes on after its last good chunk. A workflow that was
 * reset to before this has names of its own.
 */
import { ApplicationFailure } from '@temporalio/workflow';
import type { Artifact, FingerprintFact, PodRef } from '../../domain/facts.ts';
import { phaseRow } from '../../domain/state.ts';
import { act } from '../activities.ts';
import { evenIfLost } from '../lost.ts';
import { journalOld } from '../old-world.ts';
import { quietAgain } from './quiesce.ts';
import {
  all,
  needed,
  note,
  onArtifacts,
  resolved,
  runMark,
  show,
  source,
  sourceFromCandidate,
  type Run,
} from '../run.ts';

export async function backup(run: Run): Promise<void> {
  await evenIfLost(run, 'backup', backupOnce);
}

async function backupOnce(run: Run): Promise<void> {
  const { gathered } = run;
  const { world, plan } = resolved(run);
  const { tries } = phaseRow(run.status, 'backup');
  gathered.dump = null;
  gathered.dumpArtifact = null;
  gathered.sourceUnchanged = false;
  if (tries > 1) await quietAgain(run);
  const from = sourceFromCandidate(run);
  const { compression } = needed(gathered.candidate, 'the candidate');
  const estimateBytes = plan.facts.source.bytes;

  const [dump, fingerprintBefore, { settings }] = await all([
    act('dump', 'dump the source', { world, from, compression, estimateBytes, name: `dump-${tries}${runMark()}` }).then(
      (made) => {
        gathered.dump = made;
        show(run);
        return made;
      },
    ),
    fingerprint(run, `source-before-${tries}${runMark()}`),
    act('saveSettings', 'read the settings inside PGDATA', {
      world,
      source: source(run),
      sourceFacts: plan.facts.source,
    }),
  ]);
  run.settings = settings;

  const dumpName = `dump${again(tries)}.sql.${compression === 'zstd' ? 'zst' : 'gz'}`;
  gathered.quietAt = await act('nextTransaction', 'note the source’s next transaction', { server: source(run) });
  const [after, dumpArtifact, fingerprintArtifact] = await all([
    fingerprint(run, `source-after-${tries}${runMark()}`),
    keep(run, from.pod, dump, dumpName),
    keep(run, from.pod, fingerprintBefore, `fingerprint-source${again(tries)}.txt`),
  ]);
  if (after.sha512 !== fingerprintBefore.sha512) {
    throw ApplicationFailure.nonRetryable(
      'The source changed while it was dumped: its fingerprints before and after differ. Somebody still writes to it.',
      'SourceNotQuiet',
    );
  }
  gathered.dumpArtifact = dumpArtifact;
  gathered.sourceFingerprint = fingerprintBefore;
  gathered.sourceFingerprintArtifact = fingerprintArtifact;
  gathered.sourceUnchanged = true;
  await journalOld(run);
  note(
    run,
    'backup',
    `${dump.bytes} bytes, SHA-512 ${dump.sha512.slice(0, 16)}… here and in the artifact store; source unchanged`,
  );
}

export function fingerprint(run: Run, name: string): Promise<FingerprintFact> {
  const { world } = resolved(run);
  return act('fingerprint', `fingerprint of the source: ${name}`, { world, server: sourceFromCandidate(run), name });
}

/** `-2` for what is made a second time, and the run's mark after a reset, so that a file never changes under its name. */
export function again(tries: number): string {
  return `${tries > 1 ? `-${tries}` : ''}${runMark()}`;
}

/** Copies a file of a pod into the artifact store, verifies it there, and lists it. */
export async function keep(
  run: Run,
  pod: PodRef,
  file: { path: string; bytes: number; sha512: string },
  name: string,
): Promise<Artifact> {
  const { world } = resolved(run);
  const { path, bytes, sha512 } = file;
  const artifact = await onArtifacts(run, 'copyOut', `copy ${name} to the artifact store`, {
    world,
    pod,
    path,
    bytes,
    sha512,
    name,
  });
  if (artifact.sha512 !== sha512) {
    throw ApplicationFailure.nonRetryable(
      `${name} has SHA-512 ${artifact.sha512} in the artifact store but ${sha512} in the pod.`,
      'ChecksumMismatch',
    );
  }
  run.gathered.artifacts = [...run.gathered.artifacts.filter((known) => known.name !== name), artifact];
  return artifact;
}
