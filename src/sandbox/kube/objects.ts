import type * as k8s from '@kubernetes/client-node';

/** A client model as it stands on the wire: JSON has no Date. */
export type Wire<T> = T extends Date
  ? string
  : T extends (infer Item)[]
    ? Wire<Item>[]
    : T extends object
      ? { [Key in keyof T]: Wire<T[Key]> }
      : T;

export type Meta = Omit<
  Wire<k8s.V1ObjectMeta>,
  'name' | 'uid' | 'resourceVersion' | 'creationTimestamp' | 'generation'
> & {
  name: string;
  uid: string;
  resourceVersion: string;
  creationTimestamp: string;
  generation: number;
};

type Stored<T> = Omit<Wire<T>, 'apiVersion' | 'kind' | 'metadata'> & {
  apiVersion: string;
  kind: string;
  metadata: Meta;
};
type WithSpec<T extends { spec?: unknown }> = Stored<T> & { spec: NonNullable<Wire<T>['spec']> };

/** What is stored only: nothing in the sandbox acts on its content. */
interface PlainObject {
  apiVersion: string;
  kind: string;
  metadata: Meta;
  spec?: unknown;
  status?: unknown;
}

export type Pod = WithSpec<k8s.V1Pod>;
export type Deployment = WithSpec<k8s.V1Deployment>;
export type ReplicaSet = WithSpec<k8s.V1ReplicaSet>;
export type StatefulSet = WithSpec<k8s.V1StatefulSet>;
export type Job = WithSpec<k8s.V1Job>;
export type CronJob = WithSpec<k8s.V1CronJob>;
export type Service = WithSpec<k8s.V1Service>;
export type Claim = WithSpec<k8s.V1PersistentVolumeClaim>;
export type PersistentVolume = WithSpec<k8s.V1PersistentVolume>;
type VolumeAttachment = WithSpec<k8s.V1VolumeAttachment>;
export type PodTemplate = Wire<k8s.V1PodTemplateSpec>;
export type Container = Wire<k8s.V1Container>;
export type PodVolume = Wire<k8s.V1Volume>;
export type OwnerReference = Wire<k8s.V1OwnerReference>;
export type LabelSelector = Wire<k8s.V1LabelSelector>;

/** Resource (plural) to the type of its objects. */
export interface Kinds {
  namespaces: Stored<k8s.V1Namespace>;
  nodes: Stored<k8s.V1Node>;
  pods: Pod;
  services: Service;
  serviceaccounts: PlainObject;
  configmaps: Stored<k8s.V1ConfigMap>;
  secrets: Stored<k8s.V1Secret>;
  persistentvolumeclaims: Claim;
  persistentvolumes: PersistentVolume;
  events: Stored<k8s.CoreV1Event>;
  resourcequotas: Stored<k8s.V1ResourceQuota>;
  limitranges: Stored<k8s.V1LimitRange>;
  deployments: Deployment;
  replicasets: ReplicaSet;
  statefulsets: StatefulSet;
  jobs: Job;
  cronjobs: CronJob;
  storageclasses: Stored<k8s.V1StorageClass>;
  volumeattachments: VolumeAttachment;
  leases: Stored<k8s.V1Lease>;
  horizontalpodautoscalers: PlainObject;
  poddisruptionbudgets: PlainObject;
  networkpolicies: PlainObject;
  roles: Stored<k8s.V1Role>;
  rolebindings: Stored<k8s.V1RoleBinding>;
  clusterroles: Stored<k8s.V1ClusterRole>;
  clusterrolebindings: Stored<k8s.V1ClusterRoleBinding>;
  customresourcedefinitions: Stored<k8s.V1CustomResourceDefinition>;
  /** Objects of a CustomResourceDefinition, by its name: `scaledobjects.keda.sh`. */
  [custom: `${string}.${string}`]: PlainObject;
}
export type Resource = keyof Kinds;
/** Any stored object, where only what all have in common matters. */
export type AnyObject = Kinds[Resource];

/** Times on the wire have whole seconds, as the real API server writes them. */
export function timestamp(at: number = Date.now()): string {
  return `${new Date(at).toISOString().slice(0, 19)}Z`;
}

/** Namespace and name in one string, the key of every work queue. */
export function keyOf(object: { metadata: { namespace?: string; name: string } }): string {
  return `${object.metadata.namespace ?? ''}/${object.metadata.name}`;
}

export function splitKey(key: string): { namespace: string; name: string } {
  const slash = key.indexOf('/');
  return { namespace: key.slice(0, slash), name: key.slice(slash + 1) };
}

export function controllerOf(object: { metadata: Meta }): OwnerReference | undefined {
  return object.metadata.ownerReferences?.find((owner) => owner.controller === true);
}

export function ownerReference(owner: { apiVersion: string; kind: string; metadata: Meta }): OwnerReference {
  const { apiVersion, kind, metadata } = owner;
  return { apiVersion, kind, name: metadata.name, uid: metadata.uid, controller: true, blockOwnerDeletion: true };
}

/** A pod that still counts for its controller: not ended and not on its way out. */
export function isActive(pod: Pod): boolean {
  return pod.metadata.deletionTimestamp === undefined && !isEnded(pod);
}

export function isEnded(pod: Pod): boolean {
  return pod.status?.phase === 'Succeeded' || pod.status?.phase === 'Failed';
}

export function isReady(pod: Pod): boolean {
  return pod.status?.conditions?.some((one) => one.type === 'Ready' && one.status === 'True') ?? false;
}

/** The names of the claims a pod mounts. */
export function claimsOf(pod: Pod): string[] {
  return (pod.spec.volumes ?? []).flatMap((volume) => volume.persistentVolumeClaim?.claimName ?? []);
}
