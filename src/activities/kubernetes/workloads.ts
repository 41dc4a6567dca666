import type { PodRef, World, WorkloadRef } from '../../domain/facts.ts';
import { poll, requireLeave } from '../context.ts';
import { fail, isFailure } from '../errors.ts';
import type { Kube, Resource } from './client.ts';

/** What pgleap writes on a workload while it is stopped or changed; all of it is taken off again. */
export const annotations = {
  upgrade: 'pgleap.dev/upgrade',
  /** Replicas (or `suspended`) before, for people who must put it back without pgleap. */
  before: 'pgleap.dev/before',
  stoppedAt: 'pgleap.dev/stopped-at',
  originalSpec: 'pgleap.dev/original-spec',
  targetSpec: 'pgleap.dev/target-spec',
  /** fenced, opening or open. */
  stage: 'pgleap.dev/stage',
  pgdata: 'pgleap.dev/pgdata',
  /** uid of the target's pod whose data was emptied last. */
  emptied: 'pgleap.dev/emptied',
} as const;

/** The count in the annotation `before`; undefined when it holds none. */
export function replicasBefore(before: string | undefined): number | undefined {
  const count = /^replicas=(\d+)$/.exec(before ?? '')?.[1];
  return count === undefined ? undefined : Number(count);
}

export type Workload = Resource<'Deployment' | 'StatefulSet'>;
type Pod = Resource<'Pod'>;

function selectorText(workload: Workload): string {
  const { matchLabels = {}, matchExpressions = [] } = workload.spec?.selector ?? {};
  return [
    ...Object.entries(matchLabels).map(([key, value]) => `${key}=${value}`),
    ...matchExpressions.map(({ key, operator, values = [] }) => {
      if (operator === 'In') return `${key} in (${values.join(',')})`;
      if (operator === 'NotIn') return `${key} notin (${values.join(',')})`;
      return operator === 'Exists' ? key : `!${key}`;
    }),
  ].join(',');
}

/** Its pods that have not ended: what a Job left behind or a node evicted no longer runs. */
export async function podsOf(kube: Kube, workload: Workload): Promise<Pod[]> {
  const { namespace = '', name = '', uid } = workload.metadata ?? {};
  const pods = await kube.list('Pod', { namespace, labels: selectorText(workload) });
  return pods.filter((pod) => {
    const owner = pod.metadata?.ownerReferences?.find((one) => one.controller === true);
    const ours = owner?.uid === uid || (owner?.kind === 'ReplicaSet' && owner.name.startsWith(`${name}-`));
    return ours && pod.status?.phase !== 'Succeeded' && pod.status?.phase !== 'Failed';
  });
}

/**
 * Sets the count, changes annotations (null takes one off) and the rest of the spec in one write. With a `resourceVersion` only
 * if nobody changed the workload since: else Conflict.
 */
export async function scale(
  kube: Kube,
  ref: Pick<WorkloadRef, 'kind' | 'namespace' | 'name'>,
  replicas: number,
  changes: Record<string, string | null> = {},
  spec: object = {},
  resourceVersion?: string,
): Promise<Workload> {
  const metadata = { annotations: changes, ...(resourceVersion === undefined ? {} : { resourceVersion }) };
  return await kube.patch(ref.kind, ref, { metadata, spec: { ...spec, replicas } });
}

/**
 * Looks and changes what was seen, under its resourceVersion: a worker that was frozen in between, while another went on to the
 * end, must not change what is live since. Looks again where somebody was faster; mostly that is only its status.
 */
export async function asSeen<T>(look: () => Promise<T>, change: (seen: T) => Promise<unknown>): Promise<T> {
  for (let attempt = 1; ; attempt += 1) {
    const seen = await look();
    if (attempt > 1) await requireLeave(true);
    try {
      await change(seen);
      return seen;
    } catch (error) {
      if (!isFailure(error, 'Conflict') || attempt === 5) throw error;
    }
  }
}

/** Takes a workload that `look` finds fit for it to 0, if it is not there, and waits until its pods are gone. Returns what was seen. */
export async function stopAsSeen(
  kube: Kube,
  ref: Pick<WorkloadRef, 'kind' | 'namespace' | 'name'>,
  look: () => Promise<Workload>,
  changes: (seen: Workload) => { marks?: Record<string, string | null>; spec?: object },
): Promise<Workload> {
  const stopped = await asSeen(look, async (seen) => {
    if ((seen.spec?.replicas ?? 1) === 0) return;
    const { marks, spec } = changes(seen);
    await scale(kube, ref, 0, marks, spec, seen.metadata?.resourceVersion);
  });
  await awaitNoPods(kube, stopped);
  return stopped;
}

export interface ManagedField {
  manager?: string | undefined;
  time?: string | undefined;
  subresource?: string | undefined;
  fieldsV1?: object | undefined;
}

/**
 * Who wrote one of these fields last beside pgleap, as the API server noted: ` by <manager> at <time>`, or nothing where it
 * did not. What notes no fields at all may have written any.
 */
export function changedBy(object: { metadata?: { managedFields?: ManagedField[] } }, ...fields: string[]): string {
  const last = (object.metadata?.managedFields ?? [])
    .filter(({ manager, subresource, fieldsV1 = {} }) => {
      if (manager === 'pgleap' || subresource === 'status') return false;
      const text = JSON.stringify(fieldsV1);
      return text === '{}' || fields.some((field) => text.includes(`"f:${field}"`));
    })
    .toSorted((a, b) => (a.time ?? '').localeCompare(b.time ?? ''))
    .at(-1);
  return last?.manager === undefined ? '' : ` by ${last.manager} at ${last.time}`;
}

/** Waits until no pod is left, for the longest grace period and 10 s; then throws NotStopped naming the pods. Kills nothing. */
export async function awaitNoPods(kube: Kube, workload: Workload): Promise<void> {
  const { namespace = '', name = '' } = workload.metadata ?? {};
  const kind = workload.kind === 'StatefulSet' ? 'StatefulSet' : 'Deployment';
  let left = await podsOf(kube, workload);
  if (left.length === 0) return;
  const grace = Math.max(...left.map((pod) => pod.spec?.terminationGracePeriodSeconds ?? 30));
  const gone = await poll(
    async () => {
      left = await podsOf(kube, workload);
      if (left.length === 0) return true;
      const now = await kube.get(kind, { namespace, name });
      const { replicas } = now.spec ?? {};
      if (replicas === 0) return undefined;
      const who = changedBy(now, 'replicas');
      throw fail(
        'NotStopped',
        `${kind} ${namespace}/${name} was set back to ${replicas}${who}: stop whatever does that`,
      );
    },
    { timeoutMs: (grace + 10) * 1000, maxMs: 500 },
  );
  if (gone === true) return;
  const names = left.map((pod) => pod.metadata?.name).join(', ');
  throw fail(
    'NotStopped',
    `pod ${namespace}/${names} of ${kind} ${name} did not end within its grace period of ${grace} s and 10 s more. pgleap kills nothing: see what holds it, or end it yourself`,
  );
}

/** Why a pod is not ready, in one line; undefined when it says nothing. */
export function troubleOf(pod: Pod): { reason: string; text: string } | undefined {
  for (const status of [...(pod.status?.initContainerStatuses ?? []), ...(pod.status?.containerStatuses ?? [])]) {
    const waiting = status.state?.waiting;
    if (
      waiting?.reason !== undefined &&
      waiting.reason !== 'ContainerCreating' &&
      waiting.reason !== 'PodInitializing'
    ) {
      return {
        reason: waiting.reason,
        text: `${status.name}: ${waiting.reason}${waiting.message ? `: ${waiting.message}` : ''}`,
      };
    }
    const ended = status.state?.terminated;
    if (ended !== undefined && ended.exitCode !== 0) {
      return { reason: 'Error', text: `${status.name} ended with ${ended.exitCode}` };
    }
  }
  const scheduled = pod.status?.conditions?.find((one) => one.type === 'PodScheduled');
  if (scheduled?.status === 'False') {
    return { reason: scheduled.reason ?? 'Unschedulable', text: scheduled.message ?? 'no node takes it' };
  }
  return undefined;
}

export function isReady(pod: Pod): boolean {
  return (
    pod.metadata?.deletionTimestamp === undefined &&
    pod.status?.conditions?.some((one) => one.type === 'Ready' && one.status === 'True') === true
  );
}

/** Waits until every replica of the newest template is ready; NotReady says which pod is not, and why. */
export async function awaitReady(
  kube: Kube,
  ref: Pick<WorkloadRef, 'kind' | 'namespace' | 'name'>,
  timeoutMs: number,
): Promise<void> {
  let last: Workload | undefined;
  const ready = await poll(
    async () => {
      last = await kube.get(ref.kind, ref);
      const { spec, status, metadata } = last;
      const wanted = spec?.replicas ?? 1;
      const seen = (status?.observedGeneration ?? 0) >= (metadata?.generation ?? 0);
      // A StatefulSet that starts from 0 starts its newest template anyway.
      const current = ref.kind === 'StatefulSet' || wanted === 0 || (status?.updatedReplicas ?? 0) >= wanted;
      return seen && current && (status?.readyReplicas ?? 0) >= wanted ? true : undefined;
    },
    { timeoutMs, maxMs: 500 },
  );
  if (ready === true || last === undefined) return;
  const bad = (await podsOf(kube, last)).filter((pod) => !isReady(pod));
  const reasons = bad.map(
    (pod) => `${pod.metadata?.name}: ${troubleOf(pod)?.text ?? 'its readiness probe does not pass'}`,
  );
  throw fail(
    'NotReady',
    `${ref.kind} ${ref.namespace}/${ref.name} has ${last.status?.readyReplicas ?? 0} of ${last.spec?.replicas} replicas ready` +
      (reasons.length === 0 ? '' : ` (${reasons.slice(0, 3).join('; ')})`),
  );
}

export function podRef(pod: Pod, container: string): PodRef {
  const { namespace = '', name = '', uid = '' } = pod.metadata ?? {};
  return { namespace, name, uid, container };
}

/** The annotation's value when it was written in this upgrade. */
export function marked(
  workload: { metadata?: { annotations?: Record<string, string> } },
  world: World,
  key: string,
): string | undefined {
  const found = workload.metadata?.annotations;
  return found?.[annotations.upgrade] === world.upgradeId ? found[key] : undefined;
}

/** Changes that take every mark off again. */
export const unmarked: Record<string, null> = Object.fromEntries(Object.values(annotations).map((key) => [key, null]));

/** Takes the marks of this upgrade off, once nothing can be put back with them any more. */
export async function unmark(
  kube: Kube,
  world: World,
  ref: Pick<WorkloadRef, 'kind' | 'namespace' | 'name'>,
): Promise<void> {
  const workload = await kube.find(ref.kind, ref);
  if (workload === undefined || marked(workload, world, annotations.upgrade) === undefined) return;
  await kube.patch(ref.kind, ref, { metadata: { annotations: unmarked } });
}
