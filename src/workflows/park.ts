/** Failures that retries did not mend: told as people read them, and parked until somebody, or the spec's policy, answers. */
import {
  ActivityFailure,
  ApplicationFailure,
  CancelledFailure,
  TimeoutFailure,
  condition,
  isCancellation,
} from '@temporalio/workflow';
import { headline } from '../domain/details.ts';
import { milliseconds } from '../domain/duration.ts';
import { failures, type FailureType } from '../domain/failures.ts';
import { failureCode, failurePolicy, parkOptions, policyText, prospects, worldNow } from '../domain/parks.ts';
import { redact } from '../domain/redact.ts';
import { recordAttempt, type FailedCall, type Park, type ParkAction } from '../domain/state.ts';
import { summaryOf } from './activities.ts';
import { answerPark, artifactQueue, now, show, stop, tell, type Run } from './run.ts';

interface Named {
  type: FailureType;
  message: string;
}

export interface Failure extends Named {
  failed: FailedCall;
}

/** A failure as people read it. Rethrows what is no failure but a defect, so that Temporal retries the workflow task. */
export function failureOf(run: Run, error: unknown): Failure {
  const { type, message } = reading(run, error);
  const inner = error instanceof ActivityFailure ? error.cause : error;
  const details: unknown = inner instanceof ApplicationFailure ? inner.details?.[0] : undefined;
  const httpStatus = typeof details === 'object' && details !== null && 'code' in details ? details.code : undefined;
  return {
    type,
    message: redact(message),
    failed: {
      activity: error instanceof ActivityFailure ? error.activityType : null,
      doing: summaryOf(error),
      code: failureCode(message, httpStatus),
    },
  };
}

function reading(run: Run, error: unknown): Named {
  if (error instanceof ApplicationFailure) return typed(error);
  if (error instanceof ActivityFailure) {
    if (error.cause instanceof ApplicationFailure) return typed(error.cause);
    if (error.cause instanceof TimeoutFailure) return timedOut(run, error, error.cause);
    return { type: 'Unreachable', message: `${error.activityType}: ${error.cause?.message ?? error.message}` };
  }
  // Nobody of this upgrade cancelled it, so it is a failure like any other.
  if (error instanceof CancelledFailure) return { type: 'Unreachable', message: error.message };
  throw error;
}

function typed(failure: ApplicationFailure): Named {
  const type = failure.type ?? '';
  if (Object.hasOwn(failures, type)) return { type: type as FailureType, message: failure.message };
  return { type: 'CommandFailed', message: `${type === '' ? 'Error' : type}: ${failure.message}` };
}

function timedOut(run: Run, error: ActivityFailure, cause: TimeoutFailure): Named {
  if (cause.timeoutType === 'SCHEDULE_TO_START') {
    const { queue, folder } = artifactQueue(run);
    return {
      type: 'Unreachable',
      message:
        `No worker serves the artifact folder ${folder} (task queue ${queue}), which ${error.activityType} needs. ` +
        `Start pgleap worker with that folder again, then retry.`,
    };
  }
  return { type: 'Unreachable', message: `${error.activityType} did not finish in its time (${cause.timeoutType}).` };
}

/** Until the first reminder of a park; each one comes after twice the time. */
const firstSilence = 5 * 60_000;
const longestSilence = 86_400_000;

/** Stops and asks what to do about a failure. Returns when the answer is `retry`; cancelled when it is another. */
export async function park(run: Run, where: Park['phase'], { type, message, failed }: Failure): Promise<ParkAction> {
  const { status } = run;
  // One question at a time; a phase that failed beside another waits for its turn.
  while (status.park !== null) await condition(() => status.park === null);
  const options = parkOptions(status, where);
  const policy = failurePolicy(status, where, options);
  const mine: Park = {
    id: `park-${status.parked.length + 1}`,
    phase: where,
    type,
    message,
    failed,
    options,
    world: worldNow(status),
    prospects: prospects(status, where, options),
    policy: policy && {
      answer: policy.answer,
      at: new Date(Date.now() + Math.max(milliseconds(policy.after), 1)).toISOString(),
    },
    since: now(),
    action: null,
    by: null,
    note: null,
  };
  status.park = mine;
  show(run);
  tell(run, 'park', question(run, mine));
  try {
    await waitForAnswer(run, mine);
    return mine.action ?? 'abort';
  } finally {
    status.parked.push(mine);
    status.park = null;
    show(run);
  }
}

/** Chat rooms cut messages off at some 2000 characters. */
const longestQuestion = 1900;

function question({ status }: Run, { type, message, world, options, policy, id }: Park): string {
  return [
    `${status.workflowId}: ${headline(status)}`,
    `${type}: ${message}`,
    ...world,
    `${id} takes ${options.join(', ')}; status says what each would do. ${policyText(policy) ?? ''}`.trim(),
  ]
    .join('\n')
    .slice(0, longestQuestion);
}

async function waitForAnswer(run: Run, mine: Park): Promise<void> {
  const { policy, id } = mine;
  const answerAt = policy === null ? Infinity : Date.parse(policy.at);
  let silence = firstSilence;
  let remindAt = Date.now() + silence;
  for (;;) {
    const summary = `${id}: ${policy !== null && answerAt <= remindAt ? policy.answer : 'remind'}`;
    await condition(() => mine.action !== null, Math.max(Math.min(answerAt, remindAt) - Date.now(), 1), { summary });
    // A person's answer that came in the same moment goes first.
    if (mine.action !== null) return;
    if (policy !== null && Date.now() >= answerAt) {
      answerByPolicy(run, mine, policy.answer);
      return;
    }
    if (Date.now() < remindAt) continue;
    tell(run, 'remind', `${run.status.workflowId}: ${id} still waits for an answer. ${headline(run.status)}`);
    silence = Math.min(silence * 2, longestSilence);
    remindAt = Date.now() + silence;
  }
}

function answerByPolicy(run: Run, { id, phase, type, since }: Park, answer: 'retry' | 'rollback'): void {
  const why = `Phase ${phase} failed (${type}), and nobody answered since ${since.slice(11, 19)} UTC: ${answer} by the spec’s policy.`;
  recordAttempt(run.status, {
    at: now(),
    how: 'policy',
    message: 'resolve',
    by: 'policy',
    gate: null,
    accepted: true,
    says: `${id}: ${answer}. ${why}`,
    note: null,
  });
  tell(run, 'remind', `${run.status.workflowId}: ${why}`);
  if (answer === 'retry') answerPark(run, 'retry', 'policy', null);
  else stop(run, { how: 'rollback', why, by: 'policy', type: null });
}

/** Does something until it works: a failure is parked. Cancelled when the answer is another than `retry`. */
export async function insist<T>(run: Run, where: Park['phase'], body: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await body();
    } catch (error) {
      if (isCancellation(error) && run.forward.consideredCancelled) throw error;
      const failure = failureOf(run, error);
      if ((await park(run, where, failure)) !== 'retry') throw new CancelledFailure(failure.message);
    }
  }
}
