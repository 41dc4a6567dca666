import type { ServiceFact, World, WorkloadKind } from '../../domain/facts.ts';
import { lastDue } from '../../domain/cron.ts';
import { redact } from '../../domain/redact.ts';
import { poll } from '../context.ts';
import { fail, isFailure } from '../errors.ts';
import type { ClusterActivities, UndoActivities } from '../types.ts';
import type { Kube, Resource } from './client.ts';
import { checkCluster, getRecorded, getWorkload, strange } from './identity.ts';
import { headOf } from './journal.ts';
import {
  annotations,
  asSeen,
  awaitReady,
  isReady,
  marked,
  podsOf,
  replicasBefore,
  scale,
  stopAsSeen,
  unmarked,
  type Workload,
} from './workloads.ts';

/** How long one attempt waits for replicas to become ready; the activity is retried and waits on. */
const readyMs = 5 * 60_000;
/** A rollback does not fail because a service is slow, or was broken before. */
const restoredMs = 60_000;

const suspicious =
  /\b(error|fatal|panic|critical|exception|traceback|segfault|refused|cannot connect|could not connect|authentication failed|does not exist)\b/i;
const harmless = /\b(0 errors?|no errors?|errors?[=: ]+0|error_?log|level=(info|debug))\b/i;

export function createServiceActivities(
  kube: Kube,
): Pick<ClusterActivities, 'stopService' | 'startService' | 'suspendCronJob' | 'resumeCronJob' | 'observeService'> &
  Pick<UndoActivities, 'restoreService' | 'restoreCronJob'> {
  /**
   * Sets the count that the service had, if pgleap stopped it; what is not marked as stopped is left as it is. An HPA that
   * took over meanwhile keeps its own count.
   */
  async function bringBack(world: World, service: ServiceFact): Promise<{ kind: WorkloadKind; replicas: number }> {
    const kind = workloadKind(service);
    const ref = { ...service, kind };
    let replicas = 0;
    await asSeen(
      () => getWorkload(kube, world, ref),
      async (workload) => {
        replicas = workload.spec?.replicas ?? 1;
        if (marked(workload, world, annotations.stoppedAt) === undefined) return;
        if (service.hpa === null || replicas === 0) replicas = countBefore(workload, world, service);
        await scale(kube, ref, replicas, unmarked, {}, workload.metadata?.resourceVersion);
      },
    );
    return { kind, replicas };
  }

  /**
   * Whether the service of the plan is still there. What somebody deleted or made anew meanwhile is theirs: it must not keep all
   * else from being put back, and the comparison with the old world names it.
   */
  async function isThere(world: World, service: ServiceFact): Promise<boolean> {
    await checkCluster(kube, world);
    return (await kube.find(service.kind, service))?.metadata?.uid === service.uid;
  }

  /** Whether the upgrade goes back after its commit point: what changed since services were up again is no reason to stay. */
  async function goesBack(world: World): Promise<boolean> {
    return Boolean((await headOf(kube, world))?.backAt);
  }

  /**
   * What `get` finds; undefined when that is gone or made anew and the upgrade goes back after its commit point, which goes past
   * it: what is left of it finds the target fenced in a moment.
   */
  async function unlessPassedBy<T>(world: World, get: () => Promise<T>): Promise<T | undefined> {
    try {
      return await get();
    } catch (error) {
      if (!isFailure(error, 'NotFound', 'WrongWorld') || !(await goesBack(world))) throw error;
      return undefined;
    }
  }

  async function getCronJob(world: World, service: ServiceFact): Promise<Resource<'CronJob'>> {
    await checkCluster(kube, world);
    return await getRecorded(kube, 'CronJob', service, service.uid);
  }

  /** Puts `suspend` back and takes the marks off; says since when it was suspended by pgleap. */
  async function unsuspend(world: World, service: ServiceFact): Promise<{ cron: Resource<'CronJob'>; since?: string }> {
    const since = (cron: Resource<'CronJob'>) => marked(cron, world, annotations.stoppedAt);
    const cron = await asSeen(
      () => getCronJob(world, service),
      async (seen) => {
        if (since(seen) === undefined) return;
        await kube.patch('CronJob', service, {
          metadata: { resourceVersion: seen.metadata?.resourceVersion, annotations: unmarked },
          spec: { suspend: service.suspended ?? false },
        });
      },
    );
    const at = since(cron);
    return { cron, ...(at === undefined ? {} : { since: at }) };
  }

  /** Says which run it missed meanwhile, if any. */
  async function resumeCronJob({
    world,
    service,
  }: {
    world: World;
    service: ServiceFact;
  }): Promise<{ missed: string | null }> {
    const { cron, since } = await unsuspend(world, service);
    if (since === undefined || service.suspended === true || cron.spec === undefined) return { missed: null };
    const { schedule, timeZone, startingDeadlineSeconds } = cron.spec;
    const now = new Date();
    const due = lastDue(schedule, new Date(since), now, timeZone ?? 'UTC');
    if (due === undefined) return { missed: null };
    const late = (now.getTime() - due.getTime()) / 1000;
    const starts = startingDeadlineSeconds === undefined || late <= startingDeadlineSeconds;
    const name = `${service.namespace}/${service.name}`;
    return {
      missed: starts
        ? `${name} missed its run of ${due.toISOString()}; Kubernetes starts it now`
        : `${name} missed its run of ${due.toISOString()}, and it is too late for Kubernetes to start it: kubectl -n ${service.namespace} create job --from=cronjob/${service.name} ${service.name}-missed`,
    };
  }

  return {
    async stopService({ world, service }) {
      const kind = workloadKind(service);
      const isMarked = (workload: Workload) => marked(workload, world, annotations.stoppedAt) !== undefined;
      const look = async () => {
        const workload = await getWorkload(kube, world, { ...service, kind });
        const now = workload.spec?.replicas ?? 1;
        // Going back takes the count of today for what it was: it is the one that is put back.
        if (!isMarked(workload) && now !== service.replicas && service.hpa === null && !(await goesBack(world))) {
          throw strange(kind, service, `has ${now} replicas, planned were ${service.replicas}`);
        }
        return workload;
      };
      // One that was off before the upgrade stays off: there is nothing to put back.
      const wasOff = service.replicas === 0 && service.hpa === null;
      const seen = await unlessPassedBy(world, () =>
        stopAsSeen(kube, { ...service, kind }, look, (workload) => ({
          marks:
            isMarked(workload) || wasOff
              ? {}
              : {
                  [annotations.upgrade]: world.upgradeId,
                  [annotations.before]: `replicas=${workload.spec?.replicas ?? 1}`,
                  [annotations.stoppedAt]: new Date().toISOString(),
                },
        })),
      );
      return seen && { had: seen.spec?.replicas ?? 1 };
    },

    async startService({ world, service }) {
      const { kind, replicas } = await bringBack(world, service);
      if (replicas !== service.replicas && service.hpa === null) {
        throw strange(
          kind,
          service,
          `has ${replicas} replicas that pgleap did not set; planned were ${service.replicas}`,
        );
      }
      await awaitReady(kube, { ...service, kind }, readyMs);
      return { at: new Date().toISOString() };
    },

    async restoreService({ world, service }) {
      if (!(await isThere(world, service))) return;
      const { kind } = await bringBack(world, service);
      try {
        await awaitReady(kube, { ...service, kind }, restoredMs);
      } catch (error) {
        if (!isFailure(error, 'NotReady')) throw error;
      }
    },

    async suspendCronJob({ world, service }) {
      const isMarked = (cron: Resource<'CronJob'>) => marked(cron, world, annotations.stoppedAt) !== undefined;
      const look = async () => {
        const seen = await getCronJob(world, service);
        const suspended = seen.spec?.suspend ?? false;
        if (!isMarked(seen) && suspended !== (service.suspended ?? false) && !(await goesBack(world))) {
          throw strange('CronJob', service, `has suspend: ${suspended}, planned was ${service.suspended}`);
        }
        return seen;
      };
      const cron = await unlessPassedBy(world, () =>
        asSeen(look, async (seen) => {
          if (isMarked(seen) || seen.spec?.suspend === true) return;
          const marks =
            service.suspended === true
              ? {}
              : {
                  [annotations.upgrade]: world.upgradeId,
                  [annotations.before]: 'suspend=false',
                  [annotations.stoppedAt]: new Date().toISOString(),
                };
          const { resourceVersion } = seen.metadata ?? {};
          await kube.patch('CronJob', service, {
            metadata: { resourceVersion, annotations: marks },
            spec: { suspend: true },
          });
        }),
      );
      if (cron === undefined) return { runningJobs: 0, wasOn: false };
      const running = async () => {
        const jobs = await kube.list('Job', { namespace: service.namespace });
        return jobs.filter(
          (job) =>
            job.metadata?.ownerReferences?.some((one) => one.uid === service.uid) === true &&
            (job.status?.active ?? 0) > 0,
        );
      };
      let jobs = await running();
      const atFirst = jobs.length;
      const done = await poll(
        async () => {
          jobs = await running();
          return jobs.length === 0 ? true : undefined;
        },
        { timeoutMs: 15 * 60_000, maxMs: 1000 },
      );
      if (done === undefined) {
        const names = jobs.map((job) => job.metadata?.name).join(', ');
        throw fail('NotStopped', `Job ${names} of CronJob ${service.namespace}/${service.name} is still running`);
      }
      return { runningJobs: atFirst, wasOn: cron.spec?.suspend !== true };
    },

    resumeCronJob,

    async restoreCronJob({ world, service }) {
      return (await isThere(world, service)) ? await resumeCronJob({ world, service }) : { missed: null };
    },

    async observeService({ world, service, since }) {
      const kind = workloadKind(service);
      const workload: Workload = await getWorkload(kube, world, { ...service, kind });
      const pods = await podsOf(kube, workload);
      const restarts = pods.reduce((sum, pod) => sum + restartsSince(pod, since), 0);
      const problems = new Set<string>();
      for (const pod of pods.slice(0, 5)) {
        for (const { name } of pod.spec?.containers ?? []) {
          const at = { namespace: service.namespace, name: pod.metadata?.name ?? '' };
          const log = (await kube.log(at, { container: name, sinceTime: since, tailLines: 500 })) ?? '';
          for (const line of log.split('\n')) {
            if (suspicious.test(line) && !harmless.test(line))
              problems.add(`${at.name}: ${redact(line.trim()).slice(0, 200)}`);
          }
        }
      }
      const wanted = service.hpa === null ? (service.replicas ?? 1) : (workload.spec?.replicas ?? 1);
      return {
        ready: pods.filter(isReady).length >= wanted,
        restarts,
        logProblems: [...problems].slice(0, 5),
      };
    },
  };
}

/** Exact for pods younger than `since`; of older ones the status tells only whether there was one. */
function restartsSince(pod: Resource<'Pod'>, since: string): number {
  const young = Date.parse(pod.status?.startTime ?? '') >= Date.parse(since) - 1000;
  return (pod.status?.containerStatuses ?? []).reduce((sum, { restartCount, lastState }) => {
    if (young) return sum + restartCount;
    return sum + (Date.parse(lastState?.terminated?.finishedAt ?? '') >= Date.parse(since) ? 1 : 0);
  }, 0);
}

/** What pgleap found when it stopped the service: an autoscaler may have changed the count since the plan. */
function countBefore(workload: Workload, world: World, service: ServiceFact): number {
  return replicasBefore(marked(workload, world, annotations.before)) ?? service.replicas ?? 1;
}

function workloadKind(service: ServiceFact): WorkloadKind {
  if (service.kind === 'CronJob') throw fail('Refused', `CronJob ${service.namespace}/${service.name} has no replicas`);
  return service.kind;
}
