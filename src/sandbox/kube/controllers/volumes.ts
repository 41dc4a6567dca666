import { claimsOf, isEnded, keyOf, splitKey, timestamp, type Claim, type PersistentVolume } from '../objects.ts';
import { bytesOf } from '../quantities.ts';
import { matches } from '../selectors.ts';
import type { Store } from '../store.ts';
import type { Volumes } from '../volumes.ts';
import { feed, startQueue, type Context, type Controller, type Queue } from './loop.ts';

export const csiDriver = 'linodebs.csi.linode.com';
/** Handles of the drivers that are emulated: Linode's, and one that nobody but its own provider knows anything of. */
const handles = new Map([
  [csiDriver, /^(\d+)-.+$/],
  ['disk.csi.example.com', /^vol-(\d+)$/],
]);
const provisionerFinalizer = 'external-provisioner.volume.kubernetes.io/finalizer';
const mebibyte = 2 ** 20;
const gibibyte = 2 ** 30;
/** The provider's smallest volume. */
const minimumBytes = 10 * gibibyte;

export interface VolumeContext extends Context {
  volumes: Volumes;
  region: string;
}

/** The provider's volume id of a PV, undefined when the PV isn't of a known driver or its handle is ill-formed. */
export function volumeIdOf(volume: PersistentVolume): number | undefined {
  const { driver = '', volumeHandle = '' } = volume.spec.csi ?? {};
  const found = handles.get(driver)?.exec(volumeHandle);
  return found ? Number(found[1]) : undefined;
}

/** Binds claims, provisions, reclaims, and keeps the finalizers that protect claims and volumes. */
export function startVolumes(context: VolumeContext): Controller {
  const { store } = context;
  const volumeQueue = startQueue('volume', context, (key) => syncVolume(context, splitKey(key).name, claimQueue));
  const claimQueue: Queue = startQueue('claim', context, (key) => syncClaim(context, key));
  const claims = feed(store, claimQueue, {
    persistentvolumeclaims: ({ object }) => [keyOf(object)],
    // A claim may wait for any volume; a pod that ends may free its claims.
    persistentvolumes: () => store.list('persistentvolumeclaims').map(keyOf),
    pods: ({ object }) => claimsOf(object).map((name) => `${object.metadata.namespace}/${name}`),
    storageclasses: () => store.list('persistentvolumeclaims').map(keyOf),
  });
  const volumes = feed(store, volumeQueue, {
    persistentvolumes: ({ object }) => [keyOf(object)],
    persistentvolumeclaims: () => store.list('persistentvolumes').map(keyOf),
    volumeattachments: ({ object }) => [`/${object.spec.source.persistentVolumeName ?? ''}`],
  });
  return {
    async close() {
      await Promise.all([claims.close(), volumes.close()]);
    },
  };
}

async function syncClaim(context: VolumeContext, key: string): Promise<void> {
  const { store } = context;
  const { namespace, name } = splitKey(key);
  const claim = store.get('persistentvolumeclaims', namespace, name);
  if (claim === undefined) return;
  if (claim.metadata.deletionTimestamp !== undefined && !isClaimUsed(store, claim)) {
    store.mutate('persistentvolumeclaims', namespace, name, (draft) =>
      dropFinalizer(draft, 'kubernetes.io/pvc-protection'),
    );
    return;
  }
  if (claim.status?.phase === 'Bound' || claim.status?.phase === 'Lost') return checkBound(context, claim);
  if (claim.metadata.deletionTimestamp !== undefined) return;
  const volume = findVolume(context, claim);
  if (volume !== undefined) bind(store, volume, claim);
  else if (claim.spec.volumeName === undefined) await provision(context, claim);
}

function isClaimUsed(store: Store, claim: Claim): boolean {
  return store
    .list('pods', claim.metadata.namespace ?? '')
    .some((pod) => pod.spec.nodeName !== undefined && !isEnded(pod) && claimsOf(pod).includes(claim.metadata.name));
}

function dropFinalizer(draft: { metadata: { finalizers?: string[] } }, finalizer: string): void {
  draft.metadata.finalizers = (draft.metadata.finalizers ?? []).filter((one) => one !== finalizer);
}

async function checkBound(context: VolumeContext, claim: Claim): Promise<void> {
  const { store, recorder } = context;
  const volume = store.get('persistentvolumes', '', claim.spec.volumeName ?? '');
  if (volume !== undefined && volume.spec.claimRef?.uid === claim.metadata.uid) return grow(context, claim, volume);
  if (claim.status?.phase === 'Lost') return;
  const { namespace = '', name } = claim.metadata;
  store.mutate('persistentvolumeclaims', namespace, name, (draft) => {
    draft.status = { phase: 'Lost' };
  });
  const message = 'Bound claim has lost its PersistentVolume. Any data on the volume is lost!';
  recorder('persistentvolume-controller', claim, 'Warning', 'ClaimLost', message);
}

/** What a claim asks beyond its volume's size; there is no file system to grow, so that nothing waits for a pod. */
async function grow({ store, volumes }: VolumeContext, claim: Claim, volume: PersistentVolume): Promise<void> {
  const bytes = bytesOf(claim.spec.resources?.requests?.['storage']) ?? 0;
  const id = volumeIdOf(volume);
  if (bytes <= sizeOf(volume) || id === undefined) return;
  await volumes.resize(id, Math.floor(bytes / gibibyte));
  const capacity = { storage: binary(bytes) };
  store.mutate('persistentvolumes', '', volume.metadata.name, (draft) => {
    draft.spec.capacity = capacity;
  });
  const { namespace = '', name } = claim.metadata;
  store.mutate('persistentvolumeclaims', namespace, name, (draft) => {
    draft.status = { ...draft.status, capacity };
  });
}

/** The volume to bind to: the one the claim names, one that names the claim, or the smallest free one that fits. */
function findVolume({ store, recorder }: Context, claim: Claim): PersistentVolume | undefined {
  const say = (reason: string, message: string) =>
    recorder('persistentvolume-controller', claim, 'Warning', reason, message);
  const { volumeName } = claim.spec;
  if (volumeName !== undefined) {
    const volume = store.get('persistentvolumes', '', volumeName);
    if (volume === undefined) return undefined;
    if (volume.spec.claimRef !== undefined && !refersTo(volume, claim)) {
      say('FailedBinding', `volume "${volumeName}" already bound to a different claim.`);
      return undefined;
    }
    const mismatch = whyNot(volume, claim);
    if (mismatch === undefined) return volume;
    say('VolumeMismatch', `Cannot bind to requested volume "${volumeName}": ${mismatch}`);
    return undefined;
  }
  const usable = store
    .list('persistentvolumes')
    .filter((volume) => volume.metadata.deletionTimestamp === undefined && whyNot(volume, claim) === undefined);
  const prebound = usable.find((volume) => refersTo(volume, claim));
  if (prebound !== undefined) return prebound;
  return usable
    .filter((volume) => volume.spec.claimRef === undefined && volume.status?.phase === 'Available')
    .toSorted((a, b) => sizeOf(a) - sizeOf(b))[0];
}

function refersTo(volume: PersistentVolume, claim: Claim): boolean {
  const ref = volume.spec.claimRef;
  const { namespace, name, uid } = claim.metadata;
  return ref?.namespace === namespace && ref?.name === name && (!ref?.uid || ref.uid === uid);
}

function sizeOf(volume: PersistentVolume): number {
  return bytesOf(volume.spec.capacity?.['storage']) ?? 0;
}

function whyNot(volume: PersistentVolume, claim: Claim): string | undefined {
  const { spec } = claim;
  if (sizeOf(volume) < (bytesOf(spec.resources?.requests?.['storage']) ?? 0)) return 'requested PV is too small';
  if ((volume.spec.storageClassName ?? '') !== (spec.storageClassName ?? '')) return 'storageClassName does not match';
  if (volume.spec.volumeMode !== spec.volumeMode) return 'incompatible volumeMode';
  if (!(spec.accessModes ?? []).every((mode) => volume.spec.accessModes?.includes(mode)))
    return 'incompatible accessMode';
  if (spec.selector !== undefined && !matches(spec.selector, volume.metadata.labels)) return 'selector does not match';
  return undefined;
}

function bind(store: Store, volume: PersistentVolume, claim: Claim): void {
  const { namespace = '', name, uid, resourceVersion } = claim.metadata;
  store.mutate('persistentvolumes', '', volume.metadata.name, (draft) => {
    if (draft.spec.claimRef === undefined) {
      draft.metadata.annotations = { ...draft.metadata.annotations, 'pv.kubernetes.io/bound-by-controller': 'yes' };
    }
    if (draft.spec.claimRef?.uid !== uid) {
      draft.spec.claimRef = { apiVersion: 'v1', kind: 'PersistentVolumeClaim', namespace, name, uid, resourceVersion };
    }
    draft.status = { phase: 'Bound', lastPhaseTransitionTime: timestamp() };
  });
  store.mutate('persistentvolumeclaims', namespace, name, (draft) => {
    draft.metadata.annotations = { ...draft.metadata.annotations, 'pv.kubernetes.io/bind-completed': 'yes' };
    if (draft.spec.volumeName === undefined) {
      draft.metadata.annotations['pv.kubernetes.io/bound-by-controller'] = 'yes';
    }
    draft.spec.volumeName = volume.metadata.name;
    const { accessModes = [], capacity = {} } = volume.spec;
    draft.status = { phase: 'Bound', accessModes, capacity };
  });
}

async function provision({ store, recorder, volumes, region }: VolumeContext, claim: Claim): Promise<void> {
  const { namespace = '', name, uid } = claim.metadata;
  const className = claim.spec.storageClassName;
  const say = (type: 'Normal' | 'Warning', reason: string, message: string) =>
    recorder(`${csiDriver}_sandbox`, claim, type, reason, message);
  const storageClass = className ? store.get('storageclasses', '', className) : undefined;
  if (storageClass === undefined) {
    if (className) say('Warning', 'ProvisioningFailed', `storageclass.storage.k8s.io "${className}" not found`);
    else say('Normal', 'FailedBinding', 'no persistent volumes available for this claim and no storage class is set');
    return;
  }
  const driver = storageClass.provisioner;
  if (!handles.has(driver)) return;
  const modes = claim.spec.accessModes ?? [];
  if (!modes.every((mode) => mode === 'ReadWriteOnce' || mode === 'ReadWriteOncePod')) {
    say('Warning', 'ProvisioningFailed', `unsupported access mode: ${modes.join(', ')}`);
    return;
  }
  say('Normal', 'Provisioning', `External provisioner is provisioning volume for claim "${namespace}/${name}"`);
  const bytes = Math.max(minimumBytes, bytesOf(claim.spec.resources?.requests?.['storage']) ?? 0);
  // One name for PV and volume, as Linode has the provisioner make it (--volume-name-uuid-length=16).
  const label = `pvc-${uid.replaceAll('-', '').slice(0, 16)}`;
  // Linode's driver rounds down, and tells Kubernetes the size that was asked for.
  const made = await volumes.create({ label, sizeGb: Math.floor(bytes / gibibyte), region });
  const latest = store.get('persistentvolumeclaims', namespace, name);
  if (latest?.metadata.uid !== uid) return volumes.delete(made.id);
  const policy = storageClass.reclaimPolicy ?? 'Delete';
  const volume = store.insert('persistentvolumes', {
    apiVersion: 'v1',
    kind: 'PersistentVolume',
    metadata: {
      name: label,
      annotations: {
        'pv.kubernetes.io/provisioned-by': driver,
        'volume.kubernetes.io/provisioner-deletion-secret-name': '',
        'volume.kubernetes.io/provisioner-deletion-secret-namespace': '',
      },
      finalizers: ['kubernetes.io/pv-protection', ...(policy === 'Delete' ? [provisionerFinalizer] : [])],
    },
    spec: {
      accessModes: modes,
      capacity: { storage: binary(bytes) },
      claimRef: { apiVersion: 'v1', kind: 'PersistentVolumeClaim', namespace, name, uid },
      csi: {
        driver,
        fsType: 'ext4',
        volumeHandle: driver === csiDriver ? `${made.id}-${made.label}` : `vol-${made.id}`,
        volumeAttributes: {
          'storage.kubernetes.io/csiProvisionerIdentity': `sandbox-${driver}`,
          'topology.linode.com/region': region,
        },
      },
      nodeAffinity: {
        required: {
          nodeSelectorTerms: [
            { matchExpressions: [{ key: 'topology.linode.com/region', operator: 'In', values: [region] }] },
          ],
        },
      },
      persistentVolumeReclaimPolicy: policy,
      storageClassName: className ?? '',
      volumeMode: claim.spec.volumeMode ?? 'Filesystem',
    },
    status: { phase: 'Pending' },
  });
  say('Normal', 'ProvisioningSucceeded', `Successfully provisioned volume ${volume.metadata.name}`);
  store.mutate('persistentvolumeclaims', namespace, name, (draft) => {
    draft.metadata.annotations = {
      ...draft.metadata.annotations,
      'volume.kubernetes.io/storage-provisioner': driver,
      'volume.beta.kubernetes.io/storage-provisioner': driver,
    };
  });
  bind(store, volume, latest);
}

/** Bytes in the largest binary unit of Kubernetes that says them exactly. */
function binary(bytes: number): string {
  if (bytes % gibibyte === 0) return `${bytes / gibibyte}Gi`;
  return bytes % mebibyte === 0 ? `${bytes / mebibyte}Mi` : String(bytes);
}

async function syncVolume(context: VolumeContext, name: string, claims: Queue): Promise<void> {
  const { store } = context;
  const volume = store.get('persistentvolumes', '', name);
  if (volume === undefined) return;
  const phase = phaseOf(store, volume, claims);
  store.mutate('persistentvolumes', '', name, (draft) => {
    if (draft.status?.phase !== phase) draft.status = { phase, lastPhaseTransitionTime: timestamp() };
    if (draft.metadata.deletionTimestamp !== undefined || volumeIdOf(draft) === undefined) return;
    const finalizers = (draft.metadata.finalizers ?? []).filter((one) => one !== provisionerFinalizer);
    if (draft.spec.persistentVolumeReclaimPolicy === 'Delete') finalizers.push(provisionerFinalizer);
    draft.metadata.finalizers = finalizers;
  });
  if (phase === 'Released' && volume.spec.persistentVolumeReclaimPolicy === 'Delete') return reclaim(context, volume);
  if (volume.metadata.deletionTimestamp !== undefined && phase !== 'Bound') {
    store.mutate('persistentvolumes', '', name, (draft) => {
      dropFinalizer(draft, 'kubernetes.io/pv-protection');
      dropFinalizer(draft, provisionerFinalizer);
    });
  }
}

function phaseOf(store: Store, volume: PersistentVolume, claims: Queue): 'Available' | 'Bound' | 'Released' {
  const ref = volume.spec.claimRef;
  if (ref === undefined) return 'Available';
  const claim = store.get('persistentvolumeclaims', ref.namespace ?? '', ref.name ?? '');
  if (!ref.uid) return 'Available';
  if (claim?.metadata.uid !== ref.uid) return 'Released';
  if (claim.spec.volumeName === volume.metadata.name && claim.status?.phase === 'Bound') return 'Bound';
  claims.add(keyOf(claim));
  return volume.status?.phase === 'Bound' ? 'Bound' : 'Available';
}

async function reclaim({ store, volumes, recorder }: VolumeContext, volume: PersistentVolume): Promise<void> {
  const { name } = volume.metadata;
  const id = volumeIdOf(volume);
  const attached = store.list('volumeattachments').some((one) => one.spec.source.persistentVolumeName === name);
  // The end of the attachment brings us here again.
  if (attached) return;
  try {
    if (id !== undefined) await volumes.delete(id);
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    // The volume stays Released, as the external provisioner leaves it, and is tried again.
    recorder(`${csiDriver}_sandbox`, volume, 'Warning', 'VolumeFailedDelete', message);
    throw error;
  }
  store.remove('persistentvolumes', '', name);
  store.mutate('persistentvolumes', '', name, (draft) => {
    dropFinalizer(draft, provisionerFinalizer);
    dropFinalizer(draft, 'kubernetes.io/pv-protection');
  });
}
