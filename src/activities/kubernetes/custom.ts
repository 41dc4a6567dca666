import type { ReconcilerFact } from '../../domain/facts.ts';
import type { Kube } from './client.ts';
import type { ManagedField } from './workloads.ts';

/*
 * The custom resources that keep workloads as they are, as far as pgleap reads and changes them: each has one field or
 * annotation that pauses it.
 */

interface Condition {
  type?: string;
  status?: string;
}

export interface CustomObject {
  apiVersion?: string;
  kind?: string;
  metadata?: {
    name?: string;
    namespace?: string;
    uid?: string;
    resourceVersion?: string;
    labels?: Record<string, string>;
    annotations?: Record<string, string>;
    ownerReferences?: { apiVersion: string; kind: string; name: string; uid: string }[];
    managedFields?: ManagedField[];
  };
  spec?: {
    suspend?: boolean;
    syncPolicy?: { automated?: { enabled?: boolean } };
    scaleTargetRef?: { kind?: string; name?: string };
  };
  /** Argo CD's sync that is asked for, and the one under way. */
  operation?: unknown;
  status?: { operationState?: { phase?: string }; conditions?: Condition[] };
}

/** How objects of one kind are paused. Values are those of its one field or annotation; undefined: absent. */
interface Pausing {
  group: string;
  /** Newest first; the first that the cluster serves is used. */
  versions: readonly string[];
  plural: string;
  /** As in messages: `Argo CD’s Application`. */
  says: string;
  value: (object: CustomObject) => unknown;
  isPaused: (object: CustomObject) => boolean;
  paused: unknown;
  /** A merge patch that sets the value; null takes it off. */
  patch: (value: unknown) => object;
  /** Whether its controller has stopped acting, as far as the object tells. */
  isSettled: (object: CustomObject) => boolean;
}

const suspended: Pick<Pausing, 'value' | 'isPaused' | 'paused' | 'patch' | 'isSettled'> = {
  value: ({ spec }) => spec?.suspend,
  isPaused: ({ spec }) => spec?.suspend === true,
  paused: true,
  patch: (suspend) => ({ spec: { suspend } }),
  // Flux does not say when the reconciliation under way ends; services are looked at again before it could matter.
  isSettled: () => true,
};

const pausedByKeda = 'autoscaling.keda.sh/paused';

export const pausing: Record<ReconcilerFact['kind'], Pausing> = {
  Application: {
    group: 'argoproj.io',
    versions: ['v1alpha1'],
    plural: 'applications',
    says: 'Argo CD’s Application',
    // Removed rather than `enabled: false`: releases before 3.0 drop that field unseen and go on.
    value: ({ spec }) => spec?.syncPolicy?.automated,
    isPaused: ({ spec }) => spec?.syncPolicy?.automated === undefined || spec.syncPolicy.automated.enabled === false,
    paused: null,
    patch: (automated) => ({ spec: { syncPolicy: { automated } } }),
    isSettled: ({ operation, status }) =>
      operation === undefined && !['Running', 'Terminating'].includes(status?.operationState?.phase ?? ''),
  },
  Kustomization: {
    group: 'kustomize.toolkit.fluxcd.io',
    versions: ['v1', 'v1beta2'],
    plural: 'kustomizations',
    says: 'Flux’s Kustomization',
    ...suspended,
  },
  HelmRelease: {
    group: 'helm.toolkit.fluxcd.io',
    versions: ['v2', 'v2beta2', 'v2beta1'],
    plural: 'helmreleases',
    says: 'Flux’s HelmRelease',
    ...suspended,
  },
  ScaledObject: {
    group: 'keda.sh',
    versions: ['v1alpha1'],
    plural: 'scaledobjects',
    says: 'KEDA’s ScaledObject',
    // Not `paused-replicas: 0`, with which KEDA would set a service that is started again back to 0.
    value: ({ metadata }) => metadata?.annotations?.[pausedByKeda],
    isPaused: ({ metadata }) => isTrue(metadata?.annotations?.[pausedByKeda]),
    paused: 'true',
    patch: (value) => ({ metadata: { annotations: { [pausedByKeda]: value } } }),
    isSettled: ({ status }) =>
      status?.conditions?.some((one) => one.type === 'Paused' && one.status === 'True') === true,
  },
};

/** As KEDA reads it: what is no boolean means yes. */
function isTrue(value: string | undefined): boolean {
  return value !== undefined && !/^(0|f|F|FALSE|false|False)$/.test(value);
}

/** All objects of a kind, of one namespace if given; undefined when the cluster does not have the kind. */
export async function listCustom(
  kube: Kube,
  kind: ReconcilerFact['kind'],
  namespace?: string,
): Promise<CustomObject[] | undefined> {
  const { group, versions, plural } = pausing[kind];
  const where = namespace === undefined ? '' : `/namespaces/${namespace}`;
  for (const version of versions) {
    const list = await kube.read(`/apis/${group}/${version}${where}/${plural}`);
    if (typeof list !== 'object' || list === null || !('items' in list) || !Array.isArray(list.items)) continue;
    // Items of a list do not say their kind.
    return list.items.map((item: CustomObject) => ({ ...item, apiVersion: `${group}/${version}`, kind }));
  }
  return undefined;
}

export function customPath({ kind, apiVersion, namespace, name }: ReconcilerFact): string {
  return `/apis/${apiVersion}/namespaces/${namespace}/${pausing[kind].plural}/${name}`;
}

/** The object as it is recorded in the plan. */
export function reconcilerFact(kind: ReconcilerFact['kind'], object: CustomObject): ReconcilerFact {
  const { namespace = '', name = '', uid = '' } = object.metadata ?? {};
  const value = pausing[kind].value(object);
  const before = value === undefined ? null : JSON.stringify(value);
  return { kind, namespace, name, uid, apiVersion: object.apiVersion ?? '', before, keeps: [] };
}

/** As in messages: `Flux’s Kustomization flux-system/apps`. */
export function reconcilerText({ kind, namespace, name }: ReconcilerFact): string {
  return `${pausing[kind].says} ${namespace}/${name}`;
}
