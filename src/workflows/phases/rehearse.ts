/**
 * rehearse (only when the spec asks): with services up, dump and import once, and time it.
 *
 * 1. An empty candidate, when this phase was begun before.
 * 2. Dump the source as it is, import the dump into the candidate.
 * 3. The candidate empty again for the trial; the downtime predicted from what was measured.
 *
 * Undone by: what prepare registered: the candidate and its volume are removed.
 * Killed here: the detached dump and import are found again.
 */
import { phaseRow } from '../../domain/state.ts';
import { act } from '../activities.ts';
import { evenIfLost } from '../lost.ts';
import { failOnImportErrors } from './trial.ts';
import { freshCandidate } from './prepare.ts';
import { candidate, needed, note, resolved, runMark, sourceFromCandidate, type Run } from '../run.ts';

export async function rehearse(run: Run): Promise<void> {
  await evenIfLost(run, 'rehearse', rehearseOnce);
}

async function rehearseOnce(run: Run): Promise<void> {
  const { world, plan } = resolved(run);
  const { tries } = phaseRow(run.status, 'rehearse');
  if (tries > 1) await freshCandidate(run);
  const { compression } = needed(run.gathered.candidate, 'the candidate');

  const dump = await act('dump', 'rehearse: dump the source', {
    world,
    from: sourceFromCandidate(run),
    compression,
    estimateBytes: plan.facts.source.bytes,
    name: `rehearsal-${tries}${runMark()}`,
  });
  const imported = await act('importDump', 'rehearse: import into the candidate', {
    world,
    server: candidate(run),
    path: dump.path,
    compression,
    sha512: dump.sha512,
    name: `rehearsal-${tries}${runMark()}`,
  });
  failOnImportErrors(imported, 'the candidate');
  await freshCandidate(run);

  run.gathered.rehearsal = { dump, importSeconds: imported.seconds };
  // The dump, then twice the import: once in the trial, once for good. What else takes time was not measured and is not in it.
  plan.forecast.downtimeSeconds = Math.round(dump.seconds + 2 * imported.seconds);
  note(run, 'rehearse', `dump ${Math.round(dump.seconds)} s, import ${Math.round(imported.seconds)} s`);
}
