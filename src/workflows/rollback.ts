/** The workflow's way back: a failure parks it, with retry and abort; nothing cancels it. */
import { CancellationScope, patched } from '@temporalio/workflow';
import type { SharedActivities } from '../activities/types.ts';
import { cloneKeptText, differencesText, switchedOffText, writesText } from '../domain/old-world.ts';
import { downtimeSeconds } from '../domain/state.ts';
import { placeOf } from '../domain/text.ts';
import type { RegisteredUndo } from '../domain/undo.ts';
import { act, actOnce } from './activities.ts';
import { goBack, type Way } from './go-back.ts';
import { oldWorldOf } from './old-world.ts';
import { failureOf, park } from './park.ts';
import { all, now, resolved, show, wasReset, type Run } from './run.ts';

class GaveUp extends Error {}

/** Undoes everything registered. False when a person answered a failure with `abort`. */
export async function rollBack(run: Run): Promise<boolean> {
  const { status } = run;
  // A run that was reset may have begun nothing yet of what the run before it did.
  const asks = run.journalTried || (wasReset() && patched('a-reset-asks-its-journal'));
  if (status.undo.length === 0 && !asks) return true;
  return CancellationScope.nonCancellable(async () => {
    try {
      const opened = status.committedAt !== null;
      if (asks && !opened) await askJournal(run);
      if (opened) {
        status.notes.push(
          `Before it went back, the upgrade itself took ${downtimeSeconds(status, now()) ?? 0} s of downtime.`,
        );
        status.downtime = { from: now(), to: null };
      }
      const { world } = resolved(run);
      status.back = await goBack(wayOf(run), { world, undos: status.undo, old: oldWorldOf(run), opened, lost: null });
    } catch (error) {
      if (error instanceof GaveUp) return false;
      throw error;
    }
    tellBack(run);
    return true;
  });
}

/**
 * A workflow that was reset knows less than its journal: of a target that was opened, which parks; of changes that must be
 * undone, too.
 */
async function askJournal(run: Run): Promise<void> {
  const { world } = resolved(run);
  for (;;) {
    const head = await wayOf(run).call('readJournal', 'see that the target was never opened', { world });
    // An upgrade that is over has left nothing to undo, and this run has begun nothing.
    if (!run.journalTried && head?.outcome) return;
    // To be closed at the end.
    if (head) run.journalTried = true;
    if (!head?.committedAt) return learnUndos(run, head?.undos ?? []);
    const message =
      `The journal says that the target has been open since ${head.committedAt}, which this workflow, reset to before that, does not know: ` +
      `going back would lose what was written since. Abort, and finish with: pgleap recover ${placeOf(run.status.workflowId)}`;
    const failed = { activity: null, doing: 'see that the target was never opened', code: null };
    if ((await park(run, 'rollback', { type: 'Refused', message, failed })) === 'abort') throw new GaveUp();
  }
}

/** The journal's undos in their order, after those from before it was begun. */
function learnUndos({ status }: Run, undos: RegisteredUndo[]): void {
  const known = new Set(status.undo.map(({ id }) => id));
  const news = undos.filter(({ id }) => !known.has(id));
  if (news.length > 0) {
    status.notes.push(
      `The journal knows of ${news.length} changes that this workflow, reset to before them, does not: they are undone, too.`,
    );
  }
  const journalled = new Set(undos.map(({ id }) => id));
  status.undo = [...status.undo.filter(({ id }) => !journalled.has(id)), ...undos];
}

function wayOf(run: Run): Way {
  type Call = (name: keyof SharedActivities, summary: string, arg: unknown) => Promise<never>;
  return {
    async call(name, says, arg) {
      for (;;) {
        try {
          return await (act as Call)(name, says, arg);
        } catch (error) {
          const failure = failureOf(run, error);
          const answer = await park(run, 'rollback', { ...failure, message: `${says}: ${failure.message}` });
          if (answer === 'abort') throw new GaveUp(failure.message);
        }
      }
    },
    async look(name, says, arg) {
      try {
        return { answer: await (actOnce as Call)(name, says, arg) };
      } catch (error) {
        return { failed: failureOf(run, error).message };
      }
    },
    patched,
    undone(undo) {
      if (undo.activity === 'restoreService') run.status.downtime.to = now();
      show(run);
    },
    all: (promises) => all(promises),
  };
}

/** What people must know of how it ended, in the upgrade's notes. */
function tellBack({ status }: Run): void {
  if (!status.back) return;
  const { volume, kept, cloneKept, lostWrites, compared, switchedOff, missedRuns } = status.back;
  const { plan } = status;
  const label = plan?.facts?.volume?.label ?? plan?.facts?.cluster.database.volume.handle ?? 'the original volume';
  if (volume === 'original-static') {
    status.notes.push(`The PV of ${label} was gone: the database is on that volume by a new PV, under Retain.`);
  }
  if (volume === 'clone') {
    status.notes.push(
      `Volume ${label} was gone at the provider: the database is on its clone, which is kept, under Retain.`,
    );
  }
  if (kept) status.notes.push(`What was written is kept on volume ${kept.handle} (PV ${kept.pv}, under Retain).`);
  if (cloneKept) status.notes.push(cloneKeptText(cloneKept));
  if (lostWrites) status.notes.push(`Lost with the way back: ${writesText(lostWrites)}`);
  if (switchedOff.length > 0) status.notes.push(switchedOffText(switchedOff));
  for (const missed of missedRuns) status.notes.push(`A CronJob missed a run: ${missed}`);
  for (const difference of differencesText(compared)) status.notes.push(`Not as before: ${difference}`);
}
