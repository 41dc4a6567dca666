import { isDeepStrictEqual } from 'node:util';
import type { AtRest, ReconcilerFact, ServiceFact, World } from '../../domain/facts.ts';
import { poll } from '../context.ts';
import { fail } from '../errors.ts';
import type { ClusterActivities, UndoActivities } from '../types.ts';
import type { Kube } from './client.ts';
import { customPath, pausing, reconcilerText, type CustomObject } from './custom.ts';
import { checkCluster, getRecorded, getWorkload } from './identity.ts';
import { annotations, changedBy, marked, podsOf, unmarked } from './workloads.ts';

/** A controller that acts on its object at all does so within seconds; a sync under way takes some minutes. */
const settleMs = 5 * 60_000;

/*
 * Services stay at rest: what would start them again is paused, and before each destructive call all of it is looked at once
 * more.
 */

export function createRestActivities(
  kube: Kube,
): Pick<ClusterActivities, 'pauseReconciler' | 'seeAtRest'> & Pick<UndoActivities, 'resumeReconciler'> {
  async function find(reconciler: ReconcilerFact): Promise<CustomObject | undefined> {
    const found = await kube.read(customPath(reconciler));
    return typeof found === 'object' && found !== null ? found : undefined;
  }

  async function getPlanned(reconciler: ReconcilerFact): Promise<CustomObject> {
    const found = await find(reconciler);
    if (found?.metadata?.uid === reconciler.uid) return found;
    throw changed(reconciler, found === undefined ? 'is gone' : `has uid ${found.metadata?.uid}`);
  }

  return {
    async pauseReconciler({ world, reconciler }) {
      await checkCluster(kube, world);
      const { value, isPaused, isSettled, paused, patch } = pausing[reconciler.kind];
      const object = await getPlanned(reconciler);
      const mine = marked(object, world, annotations.stoppedAt) !== undefined;
      if (!mine && !isDeepStrictEqual(value(object), before(reconciler) ?? undefined)) {
        throw changed(reconciler, 'is set otherwise than when it was planned');
      }
      if (!mine || !isPaused(object)) {
        const { resourceVersion } = object.metadata ?? {};
        const marks = {
          [annotations.upgrade]: world.upgradeId,
          [annotations.before]: reconciler.before ?? 'absent',
          [annotations.stoppedAt]: new Date().toISOString(),
        };
        await kube.change(customPath(reconciler), together(patch(paused), { resourceVersion, annotations: marks }));
      }
      let now = object;
      const settled = await poll(
        async () => {
          now = await getPlanned(reconciler);
          return isSettled(now) || !isPaused(now) ? true : undefined;
        },
        { timeoutMs: settleMs },
      );
      if (settled === undefined) {
        throw fail(
          'NotStopped',
          `${reconcilerText(reconciler)} is asked to pause, but does not rest after ${settleMs / 60_000} minutes: look whether its controller runs, and at its status`,
        );
      }
      requirePaused(reconciler, now);
    },

    async resumeReconciler({ world, reconciler }) {
      await checkCluster(kube, world);
      const { isPaused, patch } = pausing[reconciler.kind];
      const object = await find(reconciler);
      if (object?.metadata?.uid !== reconciler.uid) return;
      if (marked(object, world, annotations.stoppedAt) === undefined) return;
      const { resourceVersion } = object.metadata;
      // Whoever switched it on meanwhile meant what it is now.
      const body = isPaused(object) ? patch(before(reconciler)) : {};
      await kube.change(customPath(reconciler), together(body, { resourceVersion, annotations: unmarked }));
    },

    async seeAtRest({ world, atRest }) {
      await checkCluster(kube, world);
      await requireAtRest(kube, world, atRest);
    },
  };
}

/**
 * Throws NotStopped naming the service that runs again, or what may start it, and who did that: nothing is destroyed while a
 * service may still write. Services that have been at 0 count as well.
 */
export async function requireAtRest(kube: Kube, world: World, { services, reconcilers }: AtRest): Promise<void> {
  for (const reconciler of reconcilers) {
    const object = (await kube.read(customPath(reconciler))) as CustomObject | undefined;
    if (object?.metadata?.uid === reconciler.uid) requirePaused(reconciler, object);
  }
  for (const service of services) {
    if (!service.readOnly) await requireStopped(kube, world, service);
  }
}

async function requireStopped(kube: Kube, world: World, service: ServiceFact): Promise<void> {
  const { kind, namespace, name } = service;
  const says = `${kind} ${namespace}/${name}`;
  const remedy = 'Stop whatever does that';
  if (kind === 'CronJob') {
    const cron = await getRecorded(kube, 'CronJob', service, service.uid);
    if (cron.spec?.suspend === true) return;
    const command = `kubectl -n ${namespace} patch cronjob ${name} -p '{"spec":{"suspend":true}}'`;
    throw fail(
      'NotStopped',
      `${says} is not suspended any more${changedBy(cron, 'suspend')}. ${remedy}, then: ${command}`,
    );
  }
  const workload = await getWorkload(kube, world, { ...service, kind });
  const replicas = workload.spec?.replicas ?? 1;
  const command = `kubectl -n ${namespace} scale ${kind.toLowerCase()} ${name} --replicas=0`;
  if (replicas !== 0) {
    const who = changedBy(workload, 'replicas');
    throw fail('NotStopped', `${says} was set back to ${replicas}${who}. ${remedy}, then: ${command}`);
  }
  const pods = await podsOf(kube, workload);
  if (pods.length === 0) return;
  const names = pods.map(({ metadata }) => metadata?.name).join(', ');
  throw fail('NotStopped', `${says} is at 0, but still has the pod ${names}: wait for its end, or end it yourself`);
}

function requirePaused(reconciler: ReconcilerFact, object: CustomObject): void {
  if (pausing[reconciler.kind].isPaused(object)) return;
  throw fail(
    'NotStopped',
    `${reconcilerText(reconciler)} was switched on again${changedBy(object, 'spec', 'annotations')}, and would start ${reconciler.keeps.join(', ')}. Stop whatever does that, and pause it`,
  );
}

function before({ before: value }: ReconcilerFact): unknown {
  return value === null ? null : JSON.parse(value);
}

/** One merge patch of what pauses and of its marks, so that neither is ever there alone. */
function together(
  patch: { metadata?: { annotations?: object }; spec?: object },
  metadata: { resourceVersion: string | undefined; annotations: object },
): object {
  return {
    ...patch,
    metadata: { ...metadata, annotations: { ...patch.metadata?.annotations, ...metadata.annotations } },
  };
}

function changed(reconciler: ReconcilerFact, why: string): Error {
  return fail(
    'WrongWorld',
    `${reconcilerText(reconciler)} ${why}; somebody changed it since the plan: look at it and plan again`,
  );
}
