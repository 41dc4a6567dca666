/**
 * report: what was done, for people and programs.
 *
 * 1. The candidate removed: it is needed no more. Its scratch volume stays until gate cleanup.
 * 2. The result, and the report as HTML and JSON in the artifact store.
 *
 * Undone by: nothing.
 * Killed here: the report is written again.
 */
import { act } from '../activities.ts';
import { makeResult } from '../result.ts';
import { note, onArtifacts, resolved, type Run } from '../run.ts';

export async function report(run: Run): Promise<void> {
  const { world } = resolved(run);
  await act('removeCandidate', 'remove the candidate', { world });
  run.status.result = makeResult(run, 'upgraded');
  const files = await onArtifacts(run, 'writeReport', 'write the report', { world, state: run.status });
  const names = new Set(files.map(({ name }) => name));
  run.gathered.artifacts = [...run.gathered.artifacts.filter(({ name }) => !names.has(name)), ...files];
  note(run, 'report', files.map(({ name }) => name).join(', '));
  run.status.result = makeResult(run, 'upgraded');
}
