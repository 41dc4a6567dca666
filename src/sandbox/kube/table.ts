import type { AnyObject, Kinds, Pod, Resource } from './objects.ts';
import type { ResourceInfo } from './resources.ts';

type Cell = string | number | boolean;
/** Heading and value of a column; headings that start with `+` show with `-o wide` only. */
type Columns<R extends Resource> = Record<string, (object: Kinds[R]) => Cell | undefined>;

/** Whether the client asks for rows to print instead of objects, as kubectl does. */
export function wantsTable(accept: string | undefined): boolean {
  return /application\/json;as=Table;v=v1;g=meta\.k8s\.io/.test(accept ?? '');
}

/** Objects as a table with the columns that kubectl users know. */
export function tableOf(
  info: ResourceInfo,
  objects: AnyObject[],
  metadata: Record<string, unknown>,
  wholeObjects: boolean,
): unknown {
  const own = Object.entries((columns[info.resource] ?? {}) as Columns<Resource>);
  const all: [string, (object: never) => Cell | undefined][] = [['Name', ({ metadata: meta }: AnyObject) => meta.name]];
  const wide = own.filter(([name]) => name.startsWith('+'));
  all.push(...own.filter(([name]) => !name.startsWith('+')), ['Age', age], ...wide);
  return {
    kind: 'Table',
    apiVersion: 'meta.k8s.io/v1',
    metadata,
    columnDefinitions: all.map(([name]) => ({
      name: name.replace('+', ''),
      type: 'string',
      format: name === 'Name' ? 'name' : '',
      description: '',
      priority: name.startsWith('+') ? 1 : 0,
    })),
    rows: objects.map((object) => ({
      cells: all.map(([, value]) => value(object as never) ?? '<none>'),
      object: wholeObjects
        ? object
        : { kind: 'PartialObjectMetadata', apiVersion: 'meta.k8s.io/v1', metadata: object.metadata },
    })),
  };
}

function age(object: AnyObject): string {
  return ago(object.metadata.creationTimestamp) ?? '<unknown>';
}

function ago(time: string | undefined): string | undefined {
  const seconds = Math.max(0, Math.round((Date.now() - Date.parse(time ?? '')) / 1000));
  if (Number.isNaN(seconds)) return undefined;
  if (seconds < 120) return `${seconds}s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)}m`;
  return seconds < 172_800 ? `${Math.floor(seconds / 3600)}h` : `${Math.floor(seconds / 86_400)}d`;
}

function podStatus(pod: Pod): string {
  if (pod.metadata.deletionTimestamp !== undefined) return 'Terminating';
  const state = pod.status?.containerStatuses?.[0]?.state;
  if (state?.waiting?.reason !== undefined) return state.waiting.reason;
  return state?.terminated?.reason ?? pod.status?.phase ?? 'Pending';
}

/** Kubernetes' short names of access modes. */
const modeNames: Record<string, string> = { ReadWriteOnce: 'RWO', ReadWriteOncePod: 'RWOP', ReadOnlyMany: 'ROX' };

function modes(list: string[] | undefined): string {
  return (list ?? []).map((mode) => modeNames[mode] ?? mode).join(',');
}

function labels(selector: Record<string, string> | undefined): string | undefined {
  const pairs = Object.entries(selector ?? {}).map(([key, value]) => `${key}=${value}`);
  return pairs.length === 0 ? undefined : pairs.join(',');
}

const columns: { [R in Resource]?: Columns<R> } = {
  namespaces: { Status: ({ status }) => status?.phase },
  nodes: {
    Status: ({ status }) =>
      status?.conditions?.some((one) => one.type === 'Ready' && one.status === 'True') === true ? 'Ready' : 'NotReady',
    '+Provider-ID': ({ spec }) => spec?.providerID,
  },
  pods: {
    Ready: ({ status }) => `${status?.containerStatuses?.[0]?.ready === true ? 1 : 0}/1`,
    Status: podStatus,
    Restarts: ({ status }) => status?.containerStatuses?.[0]?.restartCount ?? 0,
    '+IP': ({ status }) => status?.podIP,
    '+Node': ({ spec }) => spec.nodeName,
  },
  services: {
    Type: ({ spec }) => spec.type,
    'Cluster-IP': ({ spec }) => spec.clusterIP,
    Ports: ({ spec }) => spec.ports?.map((port) => `${port.port}/${port.protocol}`).join(','),
    '+Selector': ({ spec }) => labels(spec.selector),
  },
  configmaps: { Data: ({ data, binaryData }) => Object.keys({ ...data, ...binaryData }).length },
  secrets: { Type: ({ type }) => type, Data: ({ data }) => Object.keys(data ?? {}).length },
  persistentvolumeclaims: {
    Status: ({ status, metadata }) => (metadata.deletionTimestamp === undefined ? status?.phase : 'Terminating'),
    Volume: ({ spec }) => spec.volumeName ?? '',
    Capacity: ({ status }) => status?.capacity?.['storage'] ?? '',
    'Access Modes': ({ status }) => modes(status?.accessModes),
    StorageClass: ({ spec }) => spec.storageClassName ?? '',
  },
  persistentvolumes: {
    Capacity: ({ spec }) => spec.capacity?.['storage'],
    'Access Modes': ({ spec }) => modes(spec.accessModes),
    'Reclaim Policy': ({ spec }) => spec.persistentVolumeReclaimPolicy,
    Status: ({ status, metadata }) => (metadata.deletionTimestamp === undefined ? status?.phase : 'Terminating'),
    Claim: ({ spec: { claimRef } }) => (claimRef === undefined ? '' : `${claimRef.namespace}/${claimRef.name}`),
    StorageClass: ({ spec }) => spec.storageClassName ?? '',
    '+Volume-Handle': ({ spec }) => spec.csi?.volumeHandle,
  },
  events: {
    'Last Seen': ({ lastTimestamp }) => ago(lastTimestamp),
    Type: ({ type }) => type,
    Reason: ({ reason }) => reason,
    Object: ({ involvedObject }) => `${involvedObject.kind?.toLowerCase()}/${involvedObject.name}`,
    Message: ({ message }) => message,
  },
  deployments: {
    Ready: ({ status, spec }) => `${status?.readyReplicas ?? 0}/${spec.replicas ?? 0}`,
    'Up-to-date': ({ status }) => status?.updatedReplicas ?? 0,
    Available: ({ status }) => status?.availableReplicas ?? 0,
    '+Images': ({ spec }) => spec.template.spec?.containers.map((container) => container.image).join(','),
    '+Selector': ({ spec }) => labels(spec.selector.matchLabels),
  },
  replicasets: {
    Desired: ({ spec }) => spec.replicas ?? 0,
    Current: ({ status }) => status?.replicas ?? 0,
    Ready: ({ status }) => status?.readyReplicas ?? 0,
  },
  statefulsets: { Ready: ({ status, spec }) => `${status?.readyReplicas ?? 0}/${spec.replicas ?? 0}` },
  jobs: {
    Status: ({ status }) =>
      status?.conditions?.find((one) => one.status === 'True')?.type ??
      ((status?.active ?? 0) > 0 ? 'Running' : 'Pending'),
    Completions: ({ status, spec }) => `${status?.succeeded ?? 0}/${spec.completions ?? 1}`,
  },
  cronjobs: {
    Schedule: ({ spec }) => spec.schedule,
    Suspend: ({ spec }) => (spec.suspend === true ? 'True' : 'False'),
    Active: ({ status }) => status?.active?.length ?? 0,
    'Last Schedule': ({ status }) => ago(status?.lastScheduleTime),
  },
  storageclasses: {
    Provisioner: ({ provisioner }) => provisioner,
    ReclaimPolicy: ({ reclaimPolicy }) => reclaimPolicy,
    VolumeBindingMode: ({ volumeBindingMode }) => volumeBindingMode,
    AllowVolumeExpansion: ({ allowVolumeExpansion }) => allowVolumeExpansion ?? false,
  },
  volumeattachments: {
    Attacher: ({ spec }) => spec.attacher,
    PV: ({ spec }) => spec.source.persistentVolumeName,
    Node: ({ spec }) => spec.nodeName,
    Attached: ({ status }) => status?.attached ?? false,
  },
  leases: { Holder: ({ spec }) => spec?.holderIdentity ?? '' },
};
