/**
 * Watches the downtime that the spec accepts, beside whatever is done or waited for: gates, parks and work. It says so as soon
 * as the time left does not cover what is expected to come, and reminds of it, or goes back by itself where policy asks for it.
 */
import { condition } from '@temporalio/workflow';
import { budgetAt, insufficientAt, insufficientText } from '../domain/budget.ts';
import { milliseconds } from '../domain/duration.ts';
import { recordAttempt, type UpgradeStatus } from '../domain/state.ts';
import { now, resolved, show, stop, tell, type Run } from './run.ts';

/** Between reminders: a quarter of `maxDowntime` at first but at most five minutes, each time twice as long, up to an hour. */
const firstSilence = 5 * 60_000;
const longestSilence = 3_600_000;

/** Returns when services are up again or the upgrade stops; at once when the spec accepts any downtime. */
export async function watchDowntime(run: Run): Promise<void> {
  const { status } = run;
  const isDown = () => status.downtime.from !== null && status.downtime.to === null;
  await condition(() => isDown() || over(status));
  const longest = status.spec?.maxDowntime;
  if (longest === undefined) return;

  let silence = Math.max(Math.min(firstSilence, milliseconds(longest) / 4), 1);
  let remindAt = 0;
  while (isDown() && !over(status)) {
    status.budget = budgetAt(status, now());
    show(run);
    const { budget } = status;
    if (!budget) return;
    const short = insufficientAt(status, budget, now());
    // What was measured since may have shown that the time does suffice.
    if (short > Date.now()) budget.exceeded = null;
    const due = budget.exceeded === null ? short : remindAt;
    if (due > Date.now()) {
      const seen = course(status);
      const summary = budget.exceeded === null ? 'longest downtime' : 'longest downtime: remind';
      await condition(() => !isDown() || over(status) || course(status) !== seen, Math.ceil(due - Date.now()), {
        summary,
      });
      continue;
    }
    const why = insufficientText(budget, now());
    if (budget.exceeded === null) {
      budget.exceeded = { at: now(), why };
      if (goesBack(run)) {
        recordAttempt(status, {
          at: now(),
          how: 'policy',
          message: 'rollback',
          by: 'policy',
          gate: null,
          accepted: true,
          says: `Rolling back by the spec’s policy. ${why}`,
          note: null,
        });
        tell(run, 'remind', `${status.workflowId} goes back by itself. ${why}`);
        stop(run, { how: 'rollback', why, by: 'policy', type: null });
        return;
      }
    } else budget.reminders += 1;
    tell(run, 'remind', `${status.workflowId}: ${why}${status.committedAt === null ? ' To go back: rollback.' : ''}`);
    remindAt = Date.now() + silence;
    silence = Math.min(silence * 2, longestSilence);
  }
  if (!isDown()) {
    status.budget = null;
    show(run);
  }
}

function over({ ending, stage }: UpgradeStatus): boolean {
  return ending !== null || stage === 'ended';
}

function goesBack(run: Run): boolean {
  return resolved(run).spec.onDowntimeExceeded === 'rollback' && run.status.committedAt === null;
}

/** Changes whenever something happened that the expectation depends on. */
function course({ phases, gathered }: UpgradeStatus): string {
  const rows = phases.map(({ state, tries }) => `${state[0] ?? ''}${tries}`).join();
  return `${rows} ${gathered.dump === null} ${gathered.trial === null}`;
}
