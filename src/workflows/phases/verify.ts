/**
 * verify: the target equals the source.
 *
 * 1. Begun again: the target in its pod of now.
 * 2. Its fingerprint, kept in the artifact store and compared with the source's; beside it ANALYZE, which changes no content.
 * 3. Nobody else is connected.
 *
 * Undone by: nothing of its own: but for statistics it only reads.
 * Killed here: the detached fingerprint is found again.
 */
import { ApplicationFailure } from '@temporalio/workflow';
import { phaseRow } from '../../domain/state.ts';
import { act } from '../activities.ts';
import { evenIfLost } from '../lost.ts';
import { again, keep } from './backup.ts';
import { fencedTarget } from './deploy.ts';
import { all, needed, note, onArtifacts, resolved, runMark, type Run } from '../run.ts';

export async function verify(run: Run): Promise<void> {
  await evenIfLost(run, 'verify', verifyOnce);
}

async function verifyOnce(run: Run): Promise<void> {
  const { world } = resolved(run);
  const { tries } = phaseRow(run.status, 'verify');
  const server = tries > 1 ? await fencedTarget(run) : needed(run.gathered.target, 'the target');

  const [fingerprint] = await all([
    act('fingerprint', 'fingerprint of the target', {
      world,
      server,
      name: `target-${tries}-${server.pod.uid.slice(0, 8)}${runMark()}`,
    }),
    act('analyze', 'ANALYZE', { world, server }),
  ]);
  const before = run.gathered.artifacts.filter(({ name }) => name.startsWith('fingerprint-target')).length;
  const b = await keep(run, server.pod, fingerprint, `fingerprint-target${again(before + 1)}.txt`);
  const a = needed(run.gathered.sourceFingerprintArtifact, 'the source’s fingerprint');
  const comparison = await onArtifacts(run, 'compareFingerprints', 'compare target and source', { world, a, b });
  if (!comparison.equal) {
    throw ApplicationFailure.nonRetryable(
      `The target does not equal the source in ${comparison.differing} lines: ${comparison.differences.join('; ')}`,
      'FingerprintDiffers',
    );
  }
  const others = await act('otherSessions', 'see that nobody else is connected', { server });
  if (others.length > 0) {
    throw ApplicationFailure.nonRetryable(
      `Somebody is connected to the fenced target: ${others.join(', ')}`,
      'SourceNotQuiet',
    );
  }
  run.gathered.verified = { fingerprint, equal: comparison.equal };
  run.verified = server;
  note(
    run,
    'verify',
    `equal: ${fingerprint.rows} rows in ${fingerprint.tables} tables of ${fingerprint.databases} databases`,
  );
}
