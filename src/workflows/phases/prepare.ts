/**
 * prepare: what can be made ready while services are up.
 *
 * 1. Take the Lease: one upgrade of a database at a time, whoever runs it.
 * 2. Begin the journal. The Lease's undo was registered before it, and is written first.
 * 3. The original volume under Retain, read back.
 * 4. Scratch claim and candidate: a throw-away pod of the target image.
 * 5. The checks that need the target image. A FAILED one refuses the upgrade.
 *
 * Undone by: candidate, scratch and Lease removed, reclaim policy as it was; the journal is closed.
 * Killed here: every step finds what this upgrade made, by its id, and goes on.
 */
import type { CandidateFact } from '../../domain/facts.ts';
import { scratchBytes, versionCheck } from '../../domain/plan.ts';
import { majorOf, versionText } from '../../domain/versions.ts';
import { act } from '../activities.ts';
import { evenIfLost } from '../lost.ts';
import { journalOld } from '../old-world.ts';
import { refusal } from '../plan.ts';
import {
  candidate,
  database,
  journal,
  needed,
  note,
  resolved,
  runMark,
  sourceFromCandidate,
  willUndo,
  type Run,
} from '../run.ts';

export async function prepare(run: Run): Promise<void> {
  await evenIfLost(run, 'prepare', prepareOnce);
}

async function prepareOnce(run: Run): Promise<void> {
  const { world, plan } = resolved(run);
  const { workload, claim, volume } = database(run);

  await willUndo(run, {
    id: 'prepare/lease',
    phase: 'prepare',
    says: `release the Lease of ${workload.name}`,
    activity: 'releaseLease',
    args: { world, workload },
    last: true,
  });
  await act('takeLease', `take the Lease of ${workload.name}`, { world, workload, workflowId: run.status.workflowId });

  const summary = `${run.status.workflowId}: ${versionText(plan.facts.source.versionNum)} to ${plan.facts.targetMajor ?? 'a newer version'}`;
  run.journalTried = true;
  await act('beginJournal', 'begin the journal', {
    world,
    workflowId: run.status.workflowId,
    planHash: plan.hash,
    summary,
  });
  run.journalBegun = true;
  await journal(
    run,
    run.status.undo.map(({ done: _done, ...undo }) => undo),
  );
  await journalOld(run);

  await willUndo(run, {
    id: 'prepare/retain',
    phase: 'prepare',
    says: `reclaim policy of ${volume.pv} back to ${volume.reclaimPolicy}`,
    activity: 'restoreReclaimPolicy',
    args: { world, volume },
    last: false,
  });
  await act('setReclaimPolicy', `keep ${volume.pv}: reclaim policy Retain`, { world, volume, policy: 'Retain' });

  await willUndo(
    run,
    {
      id: 'prepare/scratch',
      phase: 'prepare',
      says: 'remove the scratch volume',
      activity: 'removeScratch',
      args: { world },
      last: true,
    },
    {
      id: 'prepare/candidate',
      phase: 'prepare',
      says: 'remove the candidate',
      activity: 'removeCandidate',
      args: { world },
      last: true,
    },
  );
  const bytes = scratchBytes(plan.facts.source.bytes, claim.capacityBytes);
  await act('createScratch', 'create the scratch volume', { world, claim, bytes });
  const { versionNum } = await candidateUp(run);

  const checks = await act('checkCandidate', 'checks that need the target image', {
    world,
    source: sourceFromCandidate(run),
    candidate: candidate(run),
    candidateIp: needed(run.gathered.candidate, 'the candidate').podIp,
    facts: plan.facts.source,
  });
  run.gathered.candidateChecks = [...checks, versionCheck(plan.facts.source.major, majorOf(versionNum))];
  const refused = refusal(run.gathered.candidateChecks, 'what was prepared is put back');
  if (refused) throw refused;
  note(run, 'prepare', `target image is PostgreSQL ${versionText(versionNum)}; original volume under Retain`);
}

/** The candidate of the current generation, made anew when its pod was lost. Its address may have changed: see fenceSource. */
export async function candidateUp(run: Run): Promise<CandidateFact> {
  const { world, spec, plan } = resolved(run);
  const { generation } = run.gathered;
  run.gathered.candidate = await act('createCandidate', `candidate of ${spec.target.image}`, {
    world,
    spec,
    database: database(run),
    source: plan.facts.source,
    generation: `${generation}${runMark()}`,
  });
  return needed(run.gathered.candidate, 'the candidate');
}

/** The candidate's server, empty again; dumps on the scratch volume stay. */
export async function freshCandidate(run: Run): Promise<void> {
  run.gathered.generation += 1;
  await candidateUp(run);
}
