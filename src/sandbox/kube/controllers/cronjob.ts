import { applyDefaults } from '../defaults.ts';
import { controllerOf, keyOf, ownerReference, splitKey, timestamp, type CronJob, type Job } from '../objects.ts';
import type { Store, Unstamped } from '../store.ts';
import { lastDue, nextDue, parseCron } from './cron.ts';
import { isFinished } from './job.ts';
import { feed, startQueue, type Context, type Controller, type Queue } from './loop.ts';
import { randomUUID } from 'node:crypto';

/** Starts a Job when a CronJob is due, and the last one missed when a suspended one goes on, as the real controller. */
export function startCronJobs(context: Context): Controller {
  const { store } = context;
  const queue = startQueue('cronjob', context, (key, own) => reconcile(context, key, own));
  return feed(store, queue, {
    cronjobs: ({ object }) => [keyOf(object)],
    jobs({ object }) {
      const owner = controllerOf(object);
      return owner?.kind === 'CronJob' ? [`${object.metadata.namespace}/${owner.name}`] : [];
    },
  });
}

function reconcile(context: Context, key: string, queue: Queue): void {
  const { store } = context;
  const { namespace, name } = splitKey(key);
  const cron = store.get('cronjobs', namespace, name);
  if (cron === undefined || cron.metadata.deletionTimestamp !== undefined) return;
  const jobs = store.list('jobs', namespace).filter((job) => controllerOf(job)?.uid === cron.metadata.uid);
  removeHistory(store, cron, jobs);
  let active = jobs.filter((job) => !isFinished(job));
  let lastScheduleTime = cron.status?.lastScheduleTime;
  if (cron.spec.suspend !== true) {
    const due = dueAt(cron, Date.now());
    if (due !== undefined) {
      const policy = cron.spec.concurrencyPolicy;
      if (policy === 'Forbid' && active.length > 0) {
        const message = 'Not starting job because prior execution is running and concurrency policy is Forbid';
        context.recorder('cronjob-controller', cron, 'Normal', 'JobAlreadyActive', message);
      } else {
        if (policy === 'Replace') for (const job of active) store.remove('jobs', namespace, job.metadata.name);
        const started = startJob(context, cron, due);
        active = [...(policy === 'Replace' ? [] : active), ...(started === undefined ? [] : [started])];
        lastScheduleTime = timestamp(due);
      }
    }
    queue.add(key, nextDue(parseCron(cron.spec.schedule), Date.now()) - Date.now() + 1);
  }
  const done = jobs.flatMap((job) => job.status?.completionTime ?? []).sort();
  const lastSuccessfulTime = done.at(-1) ?? cron.status?.lastSuccessfulTime;
  store.mutate('cronjobs', namespace, name, (draft) => {
    draft.status = {
      ...(active.length === 0
        ? {}
        : {
            active: active.map(({ metadata }) => ({
              apiVersion: 'batch/v1',
              kind: 'Job',
              name: metadata.name,
              namespace,
              uid: metadata.uid,
              resourceVersion: metadata.resourceVersion,
            })),
          }),
      ...(lastScheduleTime === undefined ? {} : { lastScheduleTime }),
      ...(lastSuccessfulTime === undefined ? {} : { lastSuccessfulTime }),
    };
  });
}

/** The run that is due and hasn't been started, in ms. */
function dueAt(cron: CronJob, now: number): number | undefined {
  const { schedule, startingDeadlineSeconds } = cron.spec;
  const last = Date.parse(cron.status?.lastScheduleTime ?? cron.metadata.creationTimestamp);
  const earliest = startingDeadlineSeconds === undefined ? last : Math.max(last, now - startingDeadlineSeconds * 1000);
  return lastDue(parseCron(schedule), earliest, now);
}

function startJob({ store, recorder }: Context, cron: CronJob, due: number): Job | undefined {
  const { namespace = '', name } = cron.metadata;
  const { metadata, spec } = cron.spec.jobTemplate;
  // The minute in the name makes a second start of the same run impossible.
  const jobName = `${name}-${Math.floor(due / 60_000)}`;
  if (store.get('jobs', namespace, jobName) !== undefined) return undefined;
  const annotations = { ...metadata?.annotations, 'batch.kubernetes.io/cronjob-scheduled-timestamp': timestamp(due) };
  const job: Unstamped<'jobs'> = {
    apiVersion: 'batch/v1',
    kind: 'Job',
    metadata: {
      name: jobName,
      namespace,
      uid: randomUUID(),
      ...(metadata?.labels === undefined ? {} : { labels: metadata.labels }),
      annotations,
      ownerReferences: [ownerReference(cron)],
    },
    spec: structuredClone(spec) as Job['spec'],
  };
  applyDefaults('jobs', job as Job);
  recorder('cronjob-controller', cron, 'Normal', 'SuccessfulCreate', `Created job ${jobName}`);
  return store.insert('jobs', job);
}

function removeHistory(store: Store, cron: CronJob, jobs: Job[]): void {
  for (const [type, limit] of [
    ['Complete', cron.spec.successfulJobsHistoryLimit ?? 3],
    ['Failed', cron.spec.failedJobsHistoryLimit ?? 1],
  ] as const) {
    const finished = jobs
      .filter((job) => job.status?.conditions?.some((one) => one.type === type && one.status === 'True'))
      .sort((a, b) => (a.metadata.creationTimestamp < b.metadata.creationTimestamp ? -1 : 1));
    for (const job of finished.slice(0, Math.max(0, finished.length - limit))) {
      store.remove('jobs', cron.metadata.namespace ?? '', job.metadata.name);
    }
  }
}
