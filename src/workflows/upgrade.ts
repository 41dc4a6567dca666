/**
 * `upgradePostgres`: the order of phases and gates, and how an upgrade ends.
 *
 * It ends in one of these ways, the same everywhere:
 * - upgraded: completed, `{ok: true, outcome: 'upgraded'}`;
 * - rolled back, whoever asked (a no at a gate, `rollback`, `resolve`, cancel, policy): completed,
 *   `{ok: false, outcome: 'rolled-back'}`, with the old world as it was;
 * - refused by preflight or prepare: failed with that check's or failure's type, nothing changed;
 * - aborted: failed with type Aborted; the journal stays.
 */
import {
  ApplicationFailure,
  CancellationScope,
  allHandlersFinished,
  condition,
  isCancellation,
  log,
  sleep,
} from '@temporalio/workflow';
import { whyNoRollback } from '../domain/decide.ts';
import { milliseconds } from '../domain/duration.ts';
import { phaseRow, recordAttempt, type UpgradeResult } from '../domain/state.ts';
import { placeOf } from '../domain/text.ts';
import { act } from './activities.ts';
import { watchDowntime } from './budget.ts';
import { gate, stillApproved } from './gates.ts';
import { registerMessages } from './messages.ts';
import { backup } from './phases/backup.ts';
import { cleanup } from './phases/cleanup.ts';
import { clone } from './phases/clone.ts';
import { deploy } from './phases/deploy.ts';
import { halt } from './phases/halt.ts';
import { maintain } from './phases/maintain.ts';
import { observe } from './phases/observe.ts';
import { preflight } from './phases/preflight.ts';
import { prepare } from './phases/prepare.ts';
import { quiesce } from './phases/quiesce.ts';
import { rehearse } from './phases/rehearse.ts';
import { reopen } from './phases/reopen.ts';
import { replace } from './phases/replace.ts';
import { report } from './phases/report.ts';
import { restore } from './phases/restore.ts';
import { resume } from './phases/resume.ts';
import { trial } from './phases/trial.ts';
import { unmaintain } from './phases/unmaintain.ts';
import { verify } from './phases/verify.ts';
import { failureOf, insist } from './park.ts';
import { phase } from './phase.ts';
import { planStillHolds } from './recheck.ts';
import { makeResult } from './result.ts';
import { rollBack } from './rollback.ts';
import { all, isDone, newRun, now, onArtifacts, resolved, show, stop, tell, wasReset, type Run } from './run.ts';
import type { FailureType } from '../domain/failures.ts';

export async function upgradePostgres(input: unknown): Promise<UpgradeResult> {
  const run = newRun();
  registerMessages(run);
  heedCancel(run);
  show(run);
  return CancellationScope.nonCancellable(async () => {
    void watchDowntime(run);
    try {
      await run.forward.run(() => runbook(run, input));
    } catch (error) {
      if (!isCancellation(error) || !run.status.ending) throw error;
    }
    return finish(run);
  });
}

/** Strategy `runbook`. What stands in one `all` runs at the same time. */
async function runbook(run: Run, input: unknown): Promise<void> {
  await phase(run, 'preflight', preflight(input));
  await phase(run, 'prepare', prepare);
  if (resolved(run).spec.rehearse) await phase(run, 'rehearse', rehearse);
  else skip(run, 'rehearse');

  do await gate(run, 'begin');
  while (!(await planStillHolds(run)) || !stillApproved(run, 'begin'));
  await all([phase(run, 'maintain', maintain), phase(run, 'quiesce', quiesce)]);
  // The trial is the candidate's own: the original volume can come to rest and be cloned meanwhile.
  const backedUp = phase(run, 'backup', backup);
  const tried = phase(run, 'trial', trial);
  await all([
    backedUp,
    tried,
    backedUp.then(() => keepOriginal(run)),
    all([tried, condition(() => isOriginalKept(run))]).then(() => gate(run, 'replace')),
  ]);
  // A clone that had to be begun anew is another one than was approved; one that took long may outlast an approval.
  while (!stillApproved(run, 'replace')) await gate(run, 'replace');
  await phase(run, 'replace', replace);
  await phase(run, 'deploy', deploy);
  await phase(run, 'restore', restore);
  await phase(run, 'verify', verify);

  await gate(run, 'reopen');
  await phase(run, 'reopen', reopen);
  await phase(run, 'resume', resume);
  await phase(run, 'observe', observe);
  await phase(run, 'unmaintain', unmaintain);
  await phase(run, 'report', report);

  await retain(run);
  if (await gate(run, 'cleanup')) await phase(run, 'cleanup', cleanup);
  else skip(run, 'cleanup');
}

async function keepOriginal(run: Run): Promise<void> {
  await phase(run, 'halt', halt);
  if (resolved(run).spec.clone === 'none') skip(run, 'clone');
  else await phase(run, 'clone', clone);
}

/** At rest, with a clone begun where there is to be one. */
function isOriginalKept(run: Run): boolean {
  return run.gathered.clone !== null || (resolved(run).spec.clone === 'none' && isDone(run, 'halt'));
}

function skip(run: Run, name: 'rehearse' | 'clone' | 'cleanup'): void {
  phaseRow(run.status, name).state = 'skipped';
}

/** The way back stays for the retention time, whatever anybody says. */
async function retain(run: Run): Promise<void> {
  const time = Math.max(milliseconds(resolved(run).spec.retention), 1);
  run.status.retentionEndsAt = new Date(Date.now() + time).toISOString();
  show(run);
  tell(run, 'end', `${run.status.workflowId} is upgraded. The old volume is kept until ${run.status.retentionEndsAt}.`);
  await sleep(time, { summary: 'retention of the old volume' });
  run.status.retentionEndsAt = null;
}

/** Temporal's cancel is a rollback before the commit point, and is refused after it. */
function heedCancel(run: Run): void {
  CancellationScope.current().cancelRequested.catch(() => {
    const refused = whyNoRollback(run.status, false);
    recordAttempt(run.status, {
      at: now(),
      how: 'cancel',
      message: 'cancel',
      by: null,
      gate: null,
      accepted: refused === null,
      says: refused ?? 'Rolling back, because the workflow was cancelled.',
      note: null,
    });
    if (refused === null) stop(run, { how: 'rollback', why: 'The workflow was cancelled.', by: null, type: null });
    else log.warn('cancel was refused', { refused });
    show(run);
  });
}

async function finish(run: Run): Promise<UpgradeResult> {
  const { ending } = run.status;
  if (ending && run.resolved === null && wasReset()) return leftAsItStands(run, ending.why);
  if (ending?.how === 'abort') return aborted(run, ending.why);
  if (ending) {
    show(run);
    if (!(await rollBack(run))) return aborted(run, 'Going back was aborted');
  }
  const outcome = ending ? 'rolled-back' : 'upgraded';
  if (!(await close(run, ending?.how === 'refused' ? 'refused' : outcome))) return aborted(run, 'The end was aborted');
  if (ending?.how === 'refused') return failed(run, ending.type ?? 'PreflightRefused', ending.why);

  run.status.result = makeResult(run, outcome);
  if (ending && run.journalBegun) await reportRollback(run);
  await end(run, `${run.status.workflowId}: ${outcome}.`);
  return run.status.result;
}

/** Lets go of Lease and journal. False when a person answered a failure with `abort`. */
async function close(run: Run, outcome: string): Promise<boolean> {
  if (!run.journalTried) return true;
  const { world, plan } = resolved(run);
  try {
    await insist(run, 'end', async () => {
      const lease = run.status.undo.find(({ activity, done }) => activity === 'releaseLease' && !done);
      if (lease) {
        await act('releaseLease', lease.says, { world, workload: plan.facts.cluster.database.workload });
        lease.done = true;
      }
      await act('closeJournal', `journal: ${outcome}`, { world, outcome });
    });
    return true;
  } catch (error) {
    if (isCancellation(error)) return false;
    throw error;
  }
}

/** The old world stands again; a report that cannot be written must not keep the upgrade from ending. */
async function reportRollback(run: Run): Promise<void> {
  try {
    const files = await onArtifacts(run, 'writeReport', 'write the report', {
      world: resolved(run).world,
      state: run.status,
    });
    run.status.result = { ...makeResult(run, 'rolled-back'), artifacts: [...run.gathered.artifacts, ...files] };
  } catch (error) {
    run.status.notes.push(`The report could not be written: ${failureOf(run, error).message}`);
  }
}

/** A run that was reset to before its plan can put nothing back: what the run before it changed, only the journal knows. */
async function leftAsItStands(run: Run, why: string): Promise<never> {
  const text =
    'This workflow was reset to before its plan, so it puts nothing back. What it had changed before, if anything, stands, with its ' +
    `journal and Lease; to put the old world back, or to finish reopening: pgleap recover ${placeOf(run.status.workflowId)}`;
  return failed(run, 'Refused', `${why}\n${text}`);
}

async function aborted(run: Run, why: string): Promise<never> {
  // The Lease comes before the journal, and its answer may be lost.
  const after =
    run.status.undo.length > 0 || run.journalTried
      ? `What there is of journal and Lease stays; to put the old world back, or to finish reopening: pgleap recover ${placeOf(run.status.workflowId)}`
      : 'Nothing was changed';
  return failed(run, 'Aborted', `${why}. Nothing more is changed. ${after}`);
}

async function failed(run: Run, type: FailureType, message: string): Promise<never> {
  await end(run, `${run.status.workflowId} stopped: ${message}`);
  throw ApplicationFailure.nonRetryable(message, type);
}

async function end(run: Run, text: string): Promise<void> {
  if (run.resolved) tell(run, 'end', text);
  run.status.stage = 'ended';
  run.status.endedAt = now();
  show(run);
  await condition(() => allHandlersFinished() && run.untold === 0);
}
