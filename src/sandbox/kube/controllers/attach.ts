import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { claimsOf, isEnded, splitKey, timestamp, type PersistentVolume, type Pod } from '../objects.ts';
import type { Store } from '../store.ts';
import { feed, startQueue, type Controller } from './loop.ts';
import { volumeIdOf, type VolumeContext } from './volumes.ts';

/** Far less than the provider's seconds, but long enough that nobody can rely on it being at once. */
const hotplugMs = 30;

export interface AttachContext extends VolumeContext {
  nodeName: string;
  linodeId: number;
}

function driverOf(volume: PersistentVolume): string {
  return volume.spec.csi?.driver ?? '';
}

function attacherFinalizer(volume: PersistentVolume): string {
  return `external-attacher/${driverOf(volume).replaceAll('.', '-')}`;
}

/** The name under which a node's status lists a volume. */
export function uniqueVolumeName(volume: PersistentVolume): string {
  return `kubernetes.io/csi/${driverOf(volume)}^${volume.spec.csi?.volumeHandle ?? ''}`;
}

/** The persistent volumes behind a pod's claims, as far as they are bound. */
export function volumesOf(store: Store, pod: Pod): PersistentVolume[] {
  return claimsOf(pod).flatMap((name) => {
    const claim = store.get('persistentvolumeclaims', pod.metadata.namespace ?? '', name);
    return store.get('persistentvolumes', '', claim?.spec.volumeName ?? '') ?? [];
  });
}

export function isAttached(store: Store, volume: PersistentVolume): boolean {
  const found = store
    .list('volumeattachments')
    .find((one) => one.spec.source.persistentVolumeName === volume.metadata.name);
  return found?.status?.attached === true && found.metadata.deletionTimestamp === undefined;
}

/** Attaches what scheduled pods use, detaches what none uses and the kubelet has let go of. */
export function startAttacher(context: AttachContext): Controller {
  const { store } = context;
  const queue = startQueue('attach', context, (key) => reconcile(context, splitKey(key).name));
  const all = () => store.list('persistentvolumes').map((volume) => `/${volume.metadata.name}`);
  return feed(store, queue, {
    pods: ({ object }) => volumesOf(store, object).map((volume) => `/${volume.metadata.name}`),
    nodes: all,
    persistentvolumes: ({ object }) => [`/${object.metadata.name}`],
    volumeattachments: ({ object }) => [`/${object.spec.source.persistentVolumeName ?? ''}`],
  });
}

async function reconcile(context: AttachContext, name: string): Promise<void> {
  const { store, nodeName } = context;
  const volume = store.get('persistentvolumes', '', name);
  const attachment = store.list('volumeattachments').find((one) => one.spec.source.persistentVolumeName === name);
  const wanted =
    volume !== undefined &&
    store
      .list('pods')
      .some((pod) => pod.spec.nodeName === nodeName && !isEnded(pod) && volumesOf(store, pod).includes(volume));
  if (attachment === undefined) {
    if (wanted) await attach(context, volume);
    else if (volume?.metadata.deletionTimestamp !== undefined) letGo(store, volume);
    return;
  }
  const inUse = store.get('nodes', '', nodeName)?.status?.volumesInUse ?? [];
  const deleting = attachment.metadata.deletionTimestamp !== undefined;
  if (wanted && !deleting) {
    if (attachment.status?.attached !== true) await attach(context, volume);
  } else if (deleting || volume === undefined || !inUse.includes(uniqueVolumeName(volume))) {
    await detach(context, attachment.metadata.name, volume);
  }
}

async function attach(context: AttachContext, volume: PersistentVolume): Promise<void> {
  const { store, volumes, nodeName, linodeId, recorder } = context;
  const id = volumeIdOf(volume);
  if (id === undefined) throw new Error(`${volume.metadata.name} has no handle of a known driver`);
  const { volumeHandle = '' } = volume.spec.csi ?? {};
  const name = `csi-${createHash('sha256')
    .update(`${volumeHandle}${driverOf(volume)}${nodeName}`)
    .digest('hex')}`;
  if (store.get('volumeattachments', '', name) === undefined) {
    store.insert('volumeattachments', {
      apiVersion: 'storage.k8s.io/v1',
      kind: 'VolumeAttachment',
      metadata: { name, finalizers: [attacherFinalizer(volume)] },
      spec: { attacher: driverOf(volume), nodeName, source: { persistentVolumeName: volume.metadata.name } },
      status: { attached: false },
    });
  }
  store.mutate('persistentvolumes', '', volume.metadata.name, (draft) => {
    const finalizers = draft.metadata.finalizers ?? [];
    if (draft.metadata.deletionTimestamp === undefined && !finalizers.includes(attacherFinalizer(volume))) {
      draft.metadata.finalizers = [...finalizers, attacherFinalizer(volume)];
    }
  });
  try {
    await sleep(hotplugMs);
    await volumes.attach(id, linodeId);
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    store.mutate('volumeattachments', '', name, (draft) => {
      draft.status = { attached: false, attachError: { message, time: timestamp() } };
    });
    for (const pod of store.list('pods').filter((one) => volumesOf(store, one).includes(volume))) {
      const what = `AttachVolume.Attach failed for volume "${volume.metadata.name}" : ${message}`;
      recorder('attachdetach-controller', pod, 'Warning', 'FailedAttachVolume', what);
    }
    throw error;
  }
  const label = volumeHandle.slice(volumeHandle.indexOf('-') + 1);
  store.mutate('volumeattachments', '', name, (draft) => {
    const devicePath = `/dev/disk/by-id/scsi-0Linode_Volume_${label}`;
    draft.status = { attached: true, attachmentMetadata: { devicePath } };
  });
}

async function detach(context: AttachContext, name: string, volume: PersistentVolume | undefined): Promise<void> {
  const { store, volumes } = context;
  store.remove('volumeattachments', '', name);
  const id = volume === undefined ? undefined : volumeIdOf(volume);
  await sleep(hotplugMs);
  if (id !== undefined) await volumes.detach(id);
  store.mutate('volumeattachments', '', name, (draft) => {
    draft.metadata.finalizers = [];
  });
}

/** The external attacher holds a volume's object from its first attachment until it is deleted and attached nowhere. */
function letGo(store: Store, volume: PersistentVolume): void {
  store.mutate('persistentvolumes', '', volume.metadata.name, (draft) => {
    draft.metadata.finalizers = (draft.metadata.finalizers ?? []).filter((one) => one !== attacherFinalizer(volume));
  });
}
