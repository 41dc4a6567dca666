import { isDeepStrictEqual } from 'node:util';
import { controllerOf, isEnded, keyOf, ownerReference, splitKey, timestamp } from '../objects.ts';
import type { Deployment, PodTemplate, ReplicaSet } from '../objects.ts';
import type { Store } from '../store.ts';
import { feed, startQueue, type Context, type Controller, type Queue } from './loop.ts';
import { adopt, podsOf, setCondition, templateHash } from './pods.ts';

const hashLabel = 'pod-template-hash';
const revisionKey = 'deployment.kubernetes.io/revision';

/** Rolls out each Deployment through ReplicaSets, one for each template it had. */
export function startDeployments(context: Context): Controller {
  const { store } = context;
  const queue = startQueue('deployment', context, (key, own) => reconcile(context, key, own));
  return feed(store, queue, {
    deployments: ({ object }) => [keyOf(object)],
    replicasets({ object }) {
      const owner = controllerOf(object);
      return owner?.kind === 'Deployment' ? [`${object.metadata.namespace}/${owner.name}`] : [];
    },
    // Recreate waits for the last old pod to be gone, which no ReplicaSet's status shows.
    pods({ type, object }) {
      const owner = controllerOf(object);
      const set = store.get('replicasets', object.metadata.namespace ?? '', owner?.name ?? '');
      const above = type === 'DELETED' && set !== undefined ? controllerOf(set) : undefined;
      return above?.kind === 'Deployment' ? [`${object.metadata.namespace}/${above.name}`] : [];
    },
  });
}

function reconcile(context: Context, key: string, queue: Queue): void {
  const { store } = context;
  const { namespace, name } = splitKey(key);
  const deployment = store.get('deployments', namespace, name);
  if (deployment === undefined || deployment.metadata.deletionTimestamp !== undefined) return;
  adopt(store, 'replicasets', deployment);
  const sets = store
    .list('replicasets', namespace)
    .filter(
      (set) => controllerOf(set)?.uid === deployment.metadata.uid && set.metadata.deletionTimestamp === undefined,
    );
  let current = sets.find((set) => sameTemplate(set.spec.template, deployment.spec.template));
  const old = sets.filter((set) => set !== current);
  const { replicas = 1, strategy, paused } = deployment.spec;

  if (paused === true) {
    if (current !== undefined) scale(context, deployment, current, replicas);
  } else if (strategy?.type === 'Recreate') {
    for (const set of old) scale(context, deployment, set, 0);
    if (old.some((set) => podsOf(store, set).some((pod) => !isEnded(pod)))) {
      return writeStatus(context, deployment, current, old, queue);
    }
    current ??= createSet(context, deployment, sets, replicas);
    scale(context, deployment, current, replicas);
  } else {
    current ??= createSet(context, deployment, sets, 0);
    roll(context, deployment, current, old);
  }
  if (current !== undefined) {
    const revision = Math.max(0, ...old.map(revisionOf));
    if (old.length > 0 && revisionOf(current) <= revision) setRevision(store, current, revision + 1);
    const latest = store.get('replicasets', namespace, current.metadata.name);
    setRevision(store, deployment, latest === undefined ? 1 : revisionOf(latest));
  }
  removeHistory(store, deployment, old);
  writeStatus(context, deployment, current, old, queue);
}

function sameTemplate(a: PodTemplate | undefined, b: PodTemplate): boolean {
  if (a === undefined) return false;
  const copy = structuredClone(a);
  if (copy.metadata?.labels !== undefined) delete copy.metadata.labels[hashLabel];
  return isDeepStrictEqual(copy, b);
}

function createSet(
  { store, recorder }: Context,
  deployment: Deployment,
  sets: ReplicaSet[],
  replicas: number,
): ReplicaSet {
  const { template, selector, minReadySeconds } = deployment.spec;
  const hash = templateHash(template);
  const labels = { ...template.metadata?.labels, [hashLabel]: hash };
  const revision = Math.max(0, ...sets.map(revisionOf)) + 1;
  const set = store.insert('replicasets', {
    apiVersion: 'apps/v1',
    kind: 'ReplicaSet',
    metadata: {
      name: `${deployment.metadata.name}-${hash}`,
      namespace: deployment.metadata.namespace ?? '',
      labels,
      annotations: { [revisionKey]: String(revision) },
      ownerReferences: [ownerReference(deployment)],
    },
    spec: {
      replicas,
      selector: { ...selector, matchLabels: { ...selector.matchLabels, [hashLabel]: hash } },
      template: { ...template, metadata: { ...template.metadata, labels } },
      ...(minReadySeconds === undefined ? {} : { minReadySeconds }),
    },
  });
  const message = `Scaled up replica set ${set.metadata.name} from 0 to ${replicas}`;
  if (replicas > 0) recorder('deployment-controller', deployment, 'Normal', 'ScalingReplicaSet', message);
  return set;
}

function scale({ store, recorder }: Context, deployment: Deployment, set: ReplicaSet, replicas: number): void {
  const { namespace = '', name } = set.metadata;
  const before = store.get('replicasets', namespace, name)?.spec.replicas ?? 0;
  if (before === replicas) return;
  const message = `Scaled ${before < replicas ? 'up' : 'down'} replica set ${name} from ${before} to ${replicas}`;
  recorder('deployment-controller', deployment, 'Normal', 'ScalingReplicaSet', message);
  store.mutate('replicasets', namespace, name, (draft) => {
    draft.spec.replicas = replicas;
  });
}

/** One step of a rolling update: as many new pods as the surge allows, as few old ones as availability allows. */
function roll(context: Context, deployment: Deployment, current: ReplicaSet, old: ReplicaSet[]): void {
  const { replicas = 1, strategy } = deployment.spec;
  let surge = share(strategy?.rollingUpdate?.maxSurge, replicas, Math.ceil);
  let unavailable = share(strategy?.rollingUpdate?.maxUnavailable, replicas, Math.floor);
  if (surge === 0 && unavailable === 0) unavailable = 1;
  if (old.every((set) => (set.spec.replicas ?? 0) === 0)) return scale(context, deployment, current, replicas);
  const have = current.spec.replicas ?? 0;
  const oldTotal = old.reduce((sum, set) => sum + (set.spec.replicas ?? 0), 0);
  surge = Math.max(0, replicas + surge - oldTotal - have);
  const next = Math.min(replicas, have + surge);
  scale(context, deployment, current, have > replicas ? replicas : next);
  const available = [current, ...old].reduce((sum, set) => sum + (set.status?.availableReplicas ?? 0), 0);
  const starting = Math.max(0, next - (current.status?.availableReplicas ?? 0));
  let budget = Math.max(0, oldTotal + next - (replicas - unavailable) - starting);
  let spare = available - (replicas - unavailable);
  for (const set of old) {
    const size = set.spec.replicas ?? 0;
    // Old pods that aren't available are no loss.
    const broken = Math.max(0, size - (set.status?.availableReplicas ?? 0));
    const down = Math.min(size, broken + Math.max(0, spare), Math.max(budget, broken));
    spare -= Math.max(0, down - broken);
    budget -= down;
    scale(context, deployment, set, size - down);
  }
}

function share(value: number | string | undefined, replicas: number, round: (value: number) => number): number {
  if (typeof value === 'number') return value;
  return round((Number.parseInt(value ?? '25%', 10) / 100) * replicas);
}

function revisionOf(object: { metadata: { annotations?: Record<string, string> } }): number {
  return Number(object.metadata.annotations?.[revisionKey] ?? 0);
}

function setRevision(store: Store, object: Deployment | ReplicaSet, revision: number): void {
  const { namespace = '', name } = object.metadata;
  const resource = object.kind === 'Deployment' ? 'deployments' : 'replicasets';
  store.mutate(resource, namespace, name, (draft) => {
    draft.metadata.annotations = { ...draft.metadata.annotations, [revisionKey]: String(revision) };
  });
}

function removeHistory(store: Store, deployment: Deployment, old: ReplicaSet[]): void {
  const empty = old.filter((set) => set.spec.replicas === 0 && (set.status?.replicas ?? 0) === 0);
  const extra = empty.length - (deployment.spec.revisionHistoryLimit ?? 10);
  for (const set of empty.toSorted((a, b) => revisionOf(a) - revisionOf(b)).slice(0, Math.max(0, extra))) {
    store.remove('replicasets', set.metadata.namespace ?? '', set.metadata.name);
  }
}

function writeStatus(
  { store }: Context,
  deployment: Deployment,
  current: ReplicaSet | undefined,
  old: ReplicaSet[],
  queue: Queue,
): void {
  const { namespace = '', name, generation } = deployment.metadata;
  const all = [...old, ...(current === undefined ? [] : [current])].map(
    (set) => store.get('replicasets', namespace, set.metadata.name)?.status,
  );
  const sum = (field: 'replicas' | 'readyReplicas' | 'availableReplicas') =>
    all.reduce((total, status) => total + (status?.[field] ?? 0), 0);
  const wanted = deployment.spec.replicas ?? 1;
  const updated = current === undefined ? 0 : (all.at(-1)?.replicas ?? 0);
  const available = sum('availableReplicas');
  const unavailable = share(deployment.spec.strategy?.rollingUpdate?.maxUnavailable, wanted, Math.floor);
  const minimum = deployment.spec.strategy?.type === 'Recreate' ? wanted : wanted - unavailable;
  const isAvailable = available >= minimum;
  const complete = updated === wanted && sum('replicas') === wanted && available >= wanted;
  const now = timestamp();
  const progress = progressOf(deployment, complete, [updated, sum('readyReplicas'), available].join('/'), queue);

  store.mutate('deployments', namespace, name, (draft) => {
    let conditions = draft.status?.conditions ?? [];
    conditions = setCondition(conditions, {
      type: 'Available',
      status: isAvailable ? 'True' : 'False',
      reason: isAvailable ? 'MinimumReplicasAvailable' : 'MinimumReplicasUnavailable',
      message: `Deployment ${isAvailable ? 'has' : 'does not have'} minimum availability.`,
      lastTransitionTime: now,
      lastUpdateTime: now,
    });
    const set = current === undefined ? name : current.metadata.name;
    conditions = setCondition(conditions, {
      type: 'Progressing',
      status: progress === 'ProgressDeadlineExceeded' ? 'False' : 'True',
      reason: progress,
      message: progressMessages[progress](set),
      lastTransitionTime: now,
      lastUpdateTime: now,
    });
    const before = draft.status?.conditions ?? [];
    for (const condition of conditions) {
      const same = before.find((one) => one.type === condition.type && one.reason === condition.reason);
      if (same?.lastUpdateTime !== undefined) condition.lastUpdateTime = same.lastUpdateTime;
    }
    draft.status = {
      observedGeneration: generation,
      replicas: sum('replicas'),
      updatedReplicas: updated,
      readyReplicas: sum('readyReplicas'),
      availableReplicas: available,
      unavailableReplicas: Math.max(0, Math.max(wanted, sum('replicas')) - available),
      conditions,
    };
  });
}

const progressMessages = {
  NewReplicaSetAvailable: (set: string) => `ReplicaSet "${set}" has successfully progressed.`,
  ReplicaSetUpdated: (set: string) => `ReplicaSet "${set}" is progressing.`,
  ProgressDeadlineExceeded: (set: string) => `ReplicaSet "${set}" has timed out progressing.`,
};

/** Since when a rollout stands at the same counts, by the Deployment's uid. */
const standing = new Map<string, { state: string; since: number }>();

function progressOf(
  deployment: Deployment,
  complete: boolean,
  counts: string,
  queue: Queue,
): keyof typeof progressMessages {
  const { uid, generation } = deployment.metadata;
  if (complete) {
    standing.delete(uid);
    return 'NewReplicaSetAvailable';
  }
  const state = `${generation} ${counts}`;
  const before = standing.get(uid);
  const since = before?.state === state ? before.since : Date.now();
  standing.set(uid, { state, since });
  const left = since + (deployment.spec.progressDeadlineSeconds ?? 600) * 1000 - Date.now();
  if (left <= 0) return 'ProgressDeadlineExceeded';
  queue.add(keyOf(deployment), left);
  return 'ReplicaSetUpdated';
}
