import { isDeepStrictEqual } from 'node:util';
import { applyDefaults } from '../defaults.ts';
import {
  controllerOf,
  isReady,
  keyOf,
  ownerReference,
  splitKey,
  type Claim,
  type Pod,
  type StatefulSet,
} from '../objects.ts';
import type { Store, Unstamped } from '../store.ts';
import { feed, startQueue, type Context, type Controller, type Queue } from './loop.ts';
import { adopt, createPod, podsOf, templateHash } from './pods.ts';
import { availableIn } from './replicaset.ts';

const revisionLabel = 'controller-revision-hash';

/** Keeps each StatefulSet's numbered pods and their claims, one after the other unless it says Parallel. */
export function startStatefulSets(context: Context): Controller {
  const { store } = context;
  const queue = startQueue('statefulset', context, (key, own) => reconcile(context, key, own));
  return feed(store, queue, {
    statefulsets: ({ object }) => [keyOf(object)],
    pods({ object }) {
      const owner = controllerOf(object);
      return owner?.kind === 'StatefulSet' ? [`${object.metadata.namespace}/${owner.name}`] : [];
    },
  });
}

function reconcile(context: Context, key: string, queue: Queue): void {
  const { store } = context;
  const { namespace, name } = splitKey(key);
  const set = store.get('statefulsets', namespace, name);
  if (set === undefined) return;
  if (set.metadata.deletionTimestamp === undefined) {
    adopt(store, 'pods', set);
    step(context, set, queue);
  }
  writeStatus(store, set);
}

/** Owners of the claims as the retention policy wants them: with their last owner the garbage collector removes them. */
function ownClaims({ store }: Context, set: StatefulSet, pod: Pod, condemned: boolean): void {
  const { whenScaled = 'Retain', whenDeleted = 'Retain' } = set.spec.persistentVolumeClaimRetentionPolicy ?? {};
  const { namespace = '', name } = pod.metadata;
  const owner =
    whenScaled === 'Delete' && condemned
      ? ownerReference({ ...pod, apiVersion: 'v1', kind: 'Pod' })
      : whenDeleted === 'Delete'
        ? ownerReference(set)
        : undefined;
  for (const template of set.spec.volumeClaimTemplates ?? []) {
    const claim = store.get('persistentvolumeclaims', namespace, `${template.metadata?.name}-${name}`);
    const others = (claim?.metadata.ownerReferences ?? []).filter(
      ({ uid, kind }) => uid !== set.metadata.uid && !(kind === 'Pod' && uid === pod.metadata.uid),
    );
    const wanted = owner === undefined ? others : [...others, owner];
    if (claim === undefined || isDeepStrictEqual(claim.metadata.ownerReferences ?? [], wanted)) continue;
    store.mutate('persistentvolumeclaims', namespace, claim.metadata.name, (draft) => {
      draft.metadata.ownerReferences = wanted;
    });
  }
}

/** The next changes that the order of the set allows. */
function step(context: Context, set: StatefulSet, queue: Queue): void {
  const { store, recorder } = context;
  const { replicas = 1, podManagementPolicy, updateStrategy, minReadySeconds = 0 } = set.spec;
  const { namespace = '', name } = set.metadata;
  const first = set.spec.ordinals?.start ?? 0;
  const revision = `${name}-${templateHash(set.spec.template)}`;
  const pods = new Map(podsOf(store, set).map((pod) => [ordinalOf(pod), pod]));
  const ordered = podManagementPolicy !== 'Parallel';
  const settled = (pod: Pod | undefined): boolean => {
    if (pod === undefined || pod.metadata.deletionTimestamp !== undefined || !isReady(pod)) return false;
    const wait = availableIn(pod, minReadySeconds);
    if (wait > 0) queue.add(keyOf(set), wait);
    return wait <= 0;
  };

  for (let ordinal = first; ordinal < first + replicas; ordinal += 1) {
    let pod = pods.get(ordinal);
    if (pod?.status?.phase === 'Failed' || pod?.status?.phase === 'Succeeded') {
      store.remove('pods', namespace, pod.metadata.name);
      pod = undefined;
    }
    if (pod === undefined && store.get('pods', namespace, `${name}-${ordinal}`) === undefined) {
      pod = createOrdinal(context, set, ordinal, revision);
    }
    if (pod !== undefined) ownClaims(context, set, pod, false);
    if (ordered && !settled(pod)) return;
  }
  const extra = [...pods.keys()]
    .filter((ordinal) => ordinal < first || ordinal >= first + replicas)
    .sort((a, b) => b - a);
  for (const ordinal of extra) {
    const pod = pods.get(ordinal);
    if (pod === undefined) continue;
    ownClaims(context, set, pod, true);
    if (pod.metadata.deletionTimestamp === undefined) {
      store.remove('pods', namespace, pod.metadata.name);
      const message = `delete Pod ${pod.metadata.name} in StatefulSet ${name} successful`;
      recorder('statefulset-controller', set, 'Normal', 'SuccessfulDelete', message);
    }
    if (ordered) return;
  }
  if (updateStrategy?.type === 'OnDelete') return;
  const partition = updateStrategy?.rollingUpdate?.partition ?? 0;
  for (let ordinal = first + replicas - 1; ordinal >= first + partition; ordinal -= 1) {
    const pod = store.get('pods', namespace, `${name}-${ordinal}`);
    if (pod !== undefined && pod.metadata.labels?.[revisionLabel] !== revision) {
      store.remove('pods', namespace, pod.metadata.name);
      return;
    }
    if (!settled(pod)) return;
  }
}

function ordinalOf(pod: Pod): number {
  return Number(/-(\d+)$/.exec(pod.metadata.name)?.[1]);
}

function createOrdinal({ store, recorder }: Context, set: StatefulSet, ordinal: number, revision: string): Pod {
  const { namespace = '', name } = set.metadata;
  const podName = `${name}-${ordinal}`;
  const templates = set.spec.volumeClaimTemplates ?? [];
  const claimName = (template: { metadata?: { name?: string } }) => `${template.metadata?.name}-${podName}`;
  for (const template of templates) {
    if (store.get('persistentvolumeclaims', namespace, claimName(template)) !== undefined) continue;
    const labels = { ...set.spec.selector.matchLabels, ...template.metadata?.labels };
    const standard = store
      .list('storageclasses')
      .find((one) => one.metadata.annotations?.['storageclass.kubernetes.io/is-default-class'] === 'true');
    const claim: Unstamped<'persistentvolumeclaims'> = {
      apiVersion: 'v1',
      kind: 'PersistentVolumeClaim',
      metadata: { name: claimName(template), namespace, labels },
      spec: structuredClone(template.spec ?? {}),
    };
    if (standard !== undefined) claim.spec.storageClassName ??= standard.metadata.name;
    applyDefaults('persistentvolumeclaims', claim as Claim);
    store.insert('persistentvolumeclaims', claim);
  }
  const pod = createPod(store, set, set.spec.template, {
    name: podName,
    labels: {
      'statefulset.kubernetes.io/pod-name': podName,
      'apps.kubernetes.io/pod-index': String(ordinal),
      [revisionLabel]: revision,
    },
    change(spec) {
      spec.hostname = podName;
      if (set.spec.serviceName !== undefined) spec.subdomain = set.spec.serviceName;
      const own = (spec.volumes ?? []).filter((volume) => !templates.some((one) => one.metadata?.name === volume.name));
      const claimed = templates.map((template) => ({
        name: template.metadata?.name ?? '',
        persistentVolumeClaim: { claimName: claimName(template) },
      }));
      if (own.length + claimed.length > 0) spec.volumes = [...own, ...claimed];
    },
  });
  const message = `create Pod ${podName} in StatefulSet ${name} successful`;
  recorder('statefulset-controller', set, 'Normal', 'SuccessfulCreate', message);
  return pod;
}

function writeStatus(store: Store, set: StatefulSet): void {
  const { namespace = '', name, generation } = set.metadata;
  const revision = `${name}-${templateHash(set.spec.template)}`;
  const pods = podsOf(store, set);
  const ready = pods.filter(isReady);
  const live = pods.filter((pod) => pod.metadata.deletionTimestamp === undefined);
  const updated = live.filter((pod) => pod.metadata.labels?.[revisionLabel] === revision).length;
  store.mutate('statefulsets', namespace, name, (draft) => {
    const before = draft.status?.currentRevision;
    const done = updated === (set.spec.replicas ?? 1) && pods.length === updated;
    const currentRevision = done || before === undefined ? revision : before;
    draft.status = {
      observedGeneration: generation,
      // Like the real one, it counts pods on their way out too.
      replicas: pods.length,
      readyReplicas: ready.length,
      availableReplicas: ready.filter((pod) => availableIn(pod, set.spec.minReadySeconds ?? 0) <= 0).length,
      currentReplicas: live.filter((pod) => pod.metadata.labels?.[revisionLabel] === currentRevision).length,
      updatedReplicas: updated,
      currentRevision,
      updateRevision: revision,
      collisionCount: 0,
    };
  });
}
