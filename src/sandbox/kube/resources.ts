import type { Kinds, Resource } from './objects.ts';
import type { Schema } from './prune.ts';
import type { Store } from './store.ts';

export interface ResourceInfo {
  /** Its name in the store. */
  resource: Resource;
  /** Its name in paths and messages. */
  plural: string;
  kind: string;
  group: string;
  version: string;
  namespaced: boolean;
  singular: string;
  shortNames: string[];
  /** Its status is written through /status only. */
  status: boolean;
  /** It has /scale. */
  scale: boolean;
  /** Of custom objects: what is not in it is taken off. */
  schema?: Schema;
}

function row(
  group: string,
  version: string,
  resource: Resource,
  kind: string,
  options: Partial<Pick<ResourceInfo, 'namespaced' | 'shortNames' | 'status' | 'scale'>> = {},
): ResourceInfo {
  return {
    resource,
    plural: resource,
    kind,
    group,
    version,
    singular: kind.toLowerCase(),
    namespaced: options.namespaced ?? true,
    shortNames: options.shortNames ?? [],
    status: options.status ?? true,
    scale: options.scale ?? false,
  };
}

const builtIn: ResourceInfo[] = [
  row('', 'v1', 'namespaces', 'Namespace', { namespaced: false, shortNames: ['ns'] }),
  row('', 'v1', 'nodes', 'Node', { namespaced: false, shortNames: ['no'] }),
  row('', 'v1', 'pods', 'Pod', { shortNames: ['po'] }),
  row('', 'v1', 'services', 'Service', { shortNames: ['svc'] }),
  row('', 'v1', 'serviceaccounts', 'ServiceAccount', { shortNames: ['sa'], status: false }),
  row('', 'v1', 'configmaps', 'ConfigMap', { shortNames: ['cm'], status: false }),
  row('', 'v1', 'secrets', 'Secret', { status: false }),
  row('', 'v1', 'persistentvolumeclaims', 'PersistentVolumeClaim', { shortNames: ['pvc'] }),
  row('', 'v1', 'persistentvolumes', 'PersistentVolume', { namespaced: false, shortNames: ['pv'] }),
  row('', 'v1', 'events', 'Event', { shortNames: ['ev'], status: false }),
  row('', 'v1', 'resourcequotas', 'ResourceQuota', { shortNames: ['quota'] }),
  row('', 'v1', 'limitranges', 'LimitRange', { shortNames: ['limits'], status: false }),
  row('apps', 'v1', 'deployments', 'Deployment', { shortNames: ['deploy'], scale: true }),
  row('apps', 'v1', 'replicasets', 'ReplicaSet', { shortNames: ['rs'], scale: true }),
  row('apps', 'v1', 'statefulsets', 'StatefulSet', { shortNames: ['sts'], scale: true }),
  row('batch', 'v1', 'jobs', 'Job'),
  row('batch', 'v1', 'cronjobs', 'CronJob', { shortNames: ['cj'] }),
  row('storage.k8s.io', 'v1', 'storageclasses', 'StorageClass', {
    namespaced: false,
    shortNames: ['sc'],
    status: false,
  }),
  row('storage.k8s.io', 'v1', 'volumeattachments', 'VolumeAttachment', { namespaced: false }),
  row('coordination.k8s.io', 'v1', 'leases', 'Lease', { status: false }),
  row('autoscaling', 'v2', 'horizontalpodautoscalers', 'HorizontalPodAutoscaler', { shortNames: ['hpa'] }),
  row('policy', 'v1', 'poddisruptionbudgets', 'PodDisruptionBudget', { shortNames: ['pdb'] }),
  row('networking.k8s.io', 'v1', 'networkpolicies', 'NetworkPolicy', { shortNames: ['netpol'], status: false }),
  row('rbac.authorization.k8s.io', 'v1', 'roles', 'Role', { status: false }),
  row('rbac.authorization.k8s.io', 'v1', 'rolebindings', 'RoleBinding', { status: false }),
  row('rbac.authorization.k8s.io', 'v1', 'clusterroles', 'ClusterRole', { namespaced: false, status: false }),
  row('rbac.authorization.k8s.io', 'v1', 'clusterrolebindings', 'ClusterRoleBinding', {
    namespaced: false,
    status: false,
  }),
  row('apiextensions.k8s.io', 'v1', 'customresourcedefinitions', 'CustomResourceDefinition', {
    namespaced: false,
    shortNames: ['crd', 'crds'],
  }),
];

export function groupVersion(info: { group: string; version: string }): string {
  return info.group === '' ? info.version : `${info.group}/${info.version}`;
}

/** All resources that there are now: those of the table, and one for each CustomResourceDefinition. */
export function resourcesIn(store: Store): ResourceInfo[] {
  return [...builtIn, ...store.list('customresourcedefinitions').flatMap(customResource)];
}

function customResource({ spec }: Kinds['customresourcedefinitions']): ResourceInfo[] {
  const { group, names, scope, versions } = spec;
  const version = versions.find((one) => one.storage);
  if (version === undefined) return [];
  const options = {
    namespaced: scope === 'Namespaced',
    shortNames: names.shortNames ?? [],
    status: version.subresources?.status !== undefined,
  };
  const info = row(group, version.name, `${names.plural}.${group}`, names.kind, options);
  return [{ ...info, plural: names.plural, schema: version.schema?.openAPIV3Schema ?? {} }];
}

/** The table's row of one resource. */
export function infoOf(resource: Resource): ResourceInfo {
  const info = builtIn.find((one) => one.resource === resource);
  if (info === undefined) throw new Error(`${resource} is in no row of the resource table`);
  return info;
}
