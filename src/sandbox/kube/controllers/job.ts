import { controllerOf, isActive, isReady, keyOf, splitKey, timestamp, type Job, type Pod } from '../objects.ts';
import { feed, startQueue, type Context, type Controller, type Queue } from './loop.ts';
import { createPod, podsOf, randomSuffix } from './pods.ts';

const backoffMs = { first: 1000, max: 60_000 };

/** Runs each Job's pods until enough have succeeded or too many have failed. */
export function startJobs(context: Context): Controller {
  const { store } = context;
  const queue = startQueue('job', context, (key, own) => reconcile(context, key, own));
  return feed(store, queue, {
    jobs: ({ object }) => [keyOf(object)],
    pods({ object }) {
      const owner = controllerOf(object);
      return owner?.kind === 'Job' ? [`${object.metadata.namespace}/${owner.name}`] : [];
    },
  });
}

export function isFinished(job: Job): boolean {
  return (job.status?.conditions ?? []).some(
    (one) => (one.type === 'Complete' || one.type === 'Failed') && one.status === 'True',
  );
}

function reconcile(context: Context, key: string, queue: Queue): void {
  const { store, recorder } = context;
  const { namespace, name } = splitKey(key);
  const job = store.get('jobs', namespace, name);
  if (job === undefined || job.metadata.deletionTimestamp !== undefined) return;
  if (isFinished(job)) return expire(context, job, queue);
  const pods = podsOf(store, job);
  const active = pods.filter(isActive);
  const succeeded = pods.filter((pod) => pod.status?.phase === 'Succeeded').length;
  const failed = pods.filter((pod) => pod.status?.phase === 'Failed');
  const { completions = 1, parallelism = 1, backoffLimit = 6, suspend, activeDeadlineSeconds } = job.spec;
  const restarts = active.reduce((sum, pod) => sum + restartsOf(pod), 0);
  const now = timestamp();
  const startTime = suspend === true ? undefined : (job.status?.startTime ?? now);
  const deadline = Date.parse(startTime ?? '') + (activeDeadlineSeconds ?? Number.NaN) * 1000;
  if (deadline > Date.now()) queue.add(key, deadline - Date.now());
  const outcome = outcomeOf(succeeded >= completions, failed.length + restarts > backoffLimit, deadline <= Date.now());

  if (outcome !== undefined || suspend === true) {
    for (const pod of active) store.remove('pods', namespace, pod.metadata.name);
  } else {
    const wait = nextStart(failed) - Date.now();
    const missing = Math.min(parallelism, completions - succeeded) - active.length;
    if (missing > 0 && wait > 0) queue.add(key, wait);
    for (let count = wait > 0 ? missing : 0; count < missing; count += 1) {
      const pod = createPod(store, job, job.spec.template, { name: `${name}-${randomSuffix()}` });
      recorder('job-controller', job, 'Normal', 'SuccessfulCreate', `Created pod: ${pod.metadata.name}`);
      active.push(pod);
    }
  }
  if (outcome !== undefined) {
    const type = outcome.type === 'Complete' ? 'Normal' : 'Warning';
    recorder('job-controller', job, type, outcome.type === 'Complete' ? 'Completed' : outcome.reason, outcome.message);
  }
  store.mutate('jobs', namespace, name, (draft) => {
    const others = (draft.status?.conditions ?? []).filter((one) => one.type !== 'Suspended');
    const conditions = [...others];
    if (outcome !== undefined)
      conditions.push({ ...outcome, status: 'True', lastTransitionTime: now, lastProbeTime: now });
    if (suspend === true) conditions.push({ type: 'Suspended', status: 'True', reason: 'JobSuspended' });
    draft.status = {
      active: outcome === undefined && suspend !== true ? active.length : 0,
      ready: outcome === undefined ? active.filter(isReady).length : 0,
      succeeded,
      failed: failed.length,
      terminating: pods.filter((pod) => pod.metadata.deletionTimestamp !== undefined).length,
      ...(startTime === undefined ? {} : { startTime }),
      ...(outcome?.type === 'Complete' ? { completionTime: now } : {}),
      ...(conditions.length === 0 ? {} : { conditions }),
    };
  });
}

function outcomeOf(complete: boolean, exhausted: boolean, late: boolean) {
  if (complete)
    return { type: 'Complete', reason: 'CompletionsReached', message: 'Reached expected number of succeeded pods' };
  if (exhausted) {
    return { type: 'Failed', reason: 'BackoffLimitExceeded', message: 'Job has reached the specified backoff limit' };
  }
  if (late)
    return { type: 'Failed', reason: 'DeadlineExceeded', message: 'Job was active longer than specified deadline' };
  return undefined;
}

function restartsOf(pod: Pod): number {
  return pod.status?.containerStatuses?.[0]?.restartCount ?? 0;
}

/** When the next pod may start after failures, in ms: each failure doubles the wait. */
function nextStart(failed: Pod[]): number {
  if (failed.length === 0) return 0;
  const ends = failed.map((pod) =>
    Date.parse(pod.status?.containerStatuses?.[0]?.state?.terminated?.finishedAt ?? pod.metadata.creationTimestamp),
  );
  return Math.max(...ends) + Math.min(backoffMs.first * 2 ** (failed.length - 1), backoffMs.max);
}

function expire({ store }: Context, job: Job, queue: Queue): void {
  const { ttlSecondsAfterFinished } = job.spec;
  if (ttlSecondsAfterFinished === undefined) return;
  const finished = job.status?.conditions?.find((one) => one.type === 'Complete' || one.type === 'Failed');
  const left = Date.parse(finished?.lastTransitionTime ?? '') + ttlSecondsAfterFinished * 1000 - Date.now();
  if (left > 0) queue.add(keyOf(job), left);
  else store.remove('jobs', job.metadata.namespace ?? '', job.metadata.name);
}
