import { claimsOf, isEnded, keyOf, splitKey, timestamp, type Kinds, type Pod } from '../objects.ts';
import { matches } from '../selectors.ts';
import type { Store } from '../store.ts';
import { volumesOf } from './attach.ts';
import { feed, startQueue, type Context, type Controller } from './loop.ts';
import { setCondition } from './pods.ts';

/** Gives each pod the node, once its claims are bound and nobody else holds them alone. */
export function startScheduler(context: Context): Controller {
  const { store } = context;
  const queue = startQueue('schedule', context, (key) => reconcile(context, key));
  const waiting = () =>
    store
      .list('pods')
      .filter((pod) => pod.spec.nodeName === undefined)
      .map(keyOf);
  return feed(store, queue, {
    pods: ({ type, object }) => (type === 'ADDED' ? [keyOf(object)] : waiting()),
    persistentvolumeclaims: waiting,
    persistentvolumes: waiting,
    nodes: waiting,
  });
}

function reconcile({ store, recorder }: Context, key: string): void {
  const { namespace, name } = splitKey(key);
  const pod = store.get('pods', namespace, name);
  const node = store.list('nodes')[0];
  if (pod === undefined || node === undefined || pod.spec.nodeName !== undefined) return;
  if (pod.metadata.deletionTimestamp !== undefined || isEnded(pod)) return;
  const obstacle = whyNot(store, pod, node);
  if (obstacle !== undefined) {
    recorder('default-scheduler', pod, 'Warning', 'FailedScheduling', obstacle);
    store.mutate('pods', namespace, name, (draft) => {
      const condition = { type: 'PodScheduled', status: 'False', reason: 'Unschedulable', message: obstacle };
      const conditions = setCondition(draft.status?.conditions ?? [], {
        ...condition,
        lastTransitionTime: timestamp(),
      });
      draft.status = { ...draft.status, phase: 'Pending', conditions };
    });
    return;
  }
  store.mutate('pods', namespace, name, (draft) => {
    draft.spec.nodeName = node.metadata.name;
    const condition = { type: 'PodScheduled', status: 'True', lastTransitionTime: timestamp() };
    draft.status = { ...draft.status, conditions: setCondition(draft.status?.conditions ?? [], condition) };
  });
  const message = `Successfully assigned ${key} to ${node.metadata.name}`;
  recorder('default-scheduler', pod, 'Normal', 'Scheduled', message);
}

function whyNot(store: Store, pod: Pod, node: Kinds['nodes']): string | undefined {
  const none = '0/1 nodes are available: ';
  const namespace = pod.metadata.namespace ?? '';
  for (const name of claimsOf(pod)) {
    const claim = store.get('persistentvolumeclaims', namespace, name);
    if (claim === undefined) return `${none}persistentvolumeclaim "${name}" not found`;
    if (claim.metadata.deletionTimestamp !== undefined)
      return `${none}persistentvolumeclaim "${name}" is being deleted`;
    if (claim.status?.phase === 'Lost') return `${none}persistentvolumeclaim "${name}" bound to non-existent volume`;
    if (claim.status?.phase !== 'Bound') return `${none}pod has unbound immediate PersistentVolumeClaims`;
    const alone = claim.spec.accessModes?.includes('ReadWriteOncePod');
    const others = store.list('pods', namespace).filter((other) => other.metadata.uid !== pod.metadata.uid);
    if (alone && others.some((other) => other.spec.nodeName && !isEnded(other) && claimsOf(other).includes(name))) {
      return `${none}1 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode`;
    }
  }
  if (!matches({ matchLabels: pod.spec.nodeSelector ?? {} }, node.metadata.labels)) {
    return `${none}1 node(s) didn't match Pod's node affinity/selector`;
  }
  if (node.spec?.unschedulable === true) return `${none}1 node(s) were unschedulable`;
  for (const volume of volumesOf(store, pod)) {
    const terms = volume.spec.nodeAffinity?.required?.nodeSelectorTerms;
    const fits = terms?.some((term) =>
      matches({ matchExpressions: term.matchExpressions ?? [] }, node.metadata.labels),
    );
    if (fits === false) return `${none}1 node(s) had volume node affinity conflict`;
  }
  return undefined;
}
