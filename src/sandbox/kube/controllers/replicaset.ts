import { controllerOf, isActive, isReady, keyOf, splitKey, type Pod, type ReplicaSet } from '../objects.ts';
import type { Store } from '../store.ts';
import { feed, startQueue, type Context, type Controller, type Queue } from './loop.ts';
import { adopt, createPod, podsOf, randomSuffix } from './pods.ts';

/** Keeps as many pods as each ReplicaSet asks for. */
export function startReplicaSets(context: Context): Controller {
  const { store } = context;
  const queue = startQueue('replicaset', context, (key, own) => reconcile(context, key, own));
  return feed(store, queue, {
    replicasets: ({ object }) => [keyOf(object)],
    pods({ type, object }) {
      const owner = controllerOf(object);
      if (owner !== undefined) return owner.kind === 'ReplicaSet' ? [`${object.metadata.namespace}/${owner.name}`] : [];
      // Whose selector matches it will adopt it.
      return type === 'DELETED' ? [] : store.list('replicasets', object.metadata.namespace ?? '').map(keyOf);
    },
  });
}

function reconcile({ store, recorder }: Context, key: string, queue: Queue): void {
  const { namespace, name } = splitKey(key);
  const set = store.get('replicasets', namespace, name);
  const template = set?.spec.template;
  if (set === undefined || template === undefined) return;
  if (set.metadata.deletionTimestamp === undefined) adopt(store, 'pods', set);
  const active = podsOf(store, set).filter(isActive);
  const wanted = set.spec.replicas ?? 0;
  if (set.metadata.deletionTimestamp === undefined) {
    for (let count = active.length; count < wanted; count += 1) {
      const pod = createPod(store, set, template, { name: `${name}-${randomSuffix()}` });
      recorder('replicaset-controller', set, 'Normal', 'SuccessfulCreate', `Created pod: ${pod.metadata.name}`);
      active.push(pod);
    }
    for (const pod of active.toSorted(leastMissed).slice(0, Math.max(0, active.length - wanted))) {
      store.remove('pods', namespace, pod.metadata.name);
      recorder('replicaset-controller', set, 'Normal', 'SuccessfulDelete', `Deleted pod: ${pod.metadata.name}`);
    }
  }
  writeStatus(store, set, queue);
}

/** Whom to delete first: what isn't ready, then the youngest. */
function leastMissed(a: Pod, b: Pod): number {
  const readiness = Number(isReady(a)) - Number(isReady(b));
  return readiness === 0 ? Number(b.metadata.resourceVersion) - Number(a.metadata.resourceVersion) : readiness;
}

function writeStatus(store: Store, set: ReplicaSet, queue: Queue): void {
  const { namespace = '', name, generation } = set.metadata;
  const active = podsOf(store, set).filter(isActive);
  const ready = active.filter(isReady);
  const waits = ready.map((pod) => availableIn(pod, set.spec.minReadySeconds ?? 0));
  const next = Math.min(...waits.filter((ms) => ms > 0));
  if (Number.isFinite(next)) queue.add(keyOf(set), next);
  store.mutate('replicasets', namespace, name, (draft) => {
    const { conditions } = draft.status ?? {};
    draft.status = {
      replicas: active.length,
      fullyLabeledReplicas: active.length,
      readyReplicas: ready.length,
      availableReplicas: waits.filter((ms) => ms <= 0).length,
      observedGeneration: generation,
      ...(conditions === undefined ? {} : { conditions }),
    };
  });
}

/** Milliseconds until a ready pod counts as available. */
export function availableIn(pod: Pod, minReadySeconds: number): number {
  if (minReadySeconds === 0) return 0;
  const since = pod.status?.conditions?.find((one) => one.type === 'Ready')?.lastTransitionTime;
  return Date.parse(since ?? '') + minReadySeconds * 1000 - Date.now();
}
