import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { RunningContainer, Runtime } from '../runtime/types.ts';
import { uniqueVolumeName, volumesOf } from './controllers/attach.ts';
import type { Context } from './controllers/loop.ts';
import { keyOf, type Pod } from './objects.ts';
import { startPod, type PodWorker } from './podworker.ts';
import type { Change } from './store.ts';
import type { Volumes } from './volumes.ts';

export interface KubeletOptions extends Context {
  nodeName: string;
  runtime: Runtime;
  volumes: Volumes;
  /** Holds emptyDirs, projected files and logs, by pod. */
  podsDir: string;
}

export interface Kubelet {
  /** The running container of a pod, undefined while there is none. */
  containerOf(pod: Pod): RunningContainer | undefined;
  /** The log file of the current run of a pod's container or of the one before; undefined when there was none. */
  logOf(pod: Pod, previous: boolean): PodLog | undefined;
  close(): Promise<void>;
}

export interface PodLog {
  path: string;
  /** Byte offsets up to which the file had grown, with the time in ms. */
  marks: { at: number; size: number }[];
  /** Settles when nothing is written any more. */
  ended: Promise<unknown>;
}

/** Runs the pods of its node. */
export function startKubelet(options: KubeletOptions): Kubelet {
  const { store, nodeName } = options;
  const workers = new Map<string, PodWorker>();
  let closing = false;

  function publishVolumes(): void {
    const used = [...workers.values()].flatMap((worker) => worker.volumes());
    store.mutate('nodes', '', nodeName, (draft) => {
      const names = [...new Set(used)].sort();
      if (draft.status !== undefined && names.join() !== (draft.status.volumesInUse ?? []).join()) {
        draft.status.volumesInUse = names;
        draft.status.volumesAttached = names.map((name) => ({ name, devicePath: '' }));
      }
    });
  }

  function take({ type, object: pod }: Pick<Change<'pods'>, 'type' | 'object'>): void {
    if (pod.spec.nodeName !== nodeName || closing) return;
    const { uid } = pod.metadata;
    const worker = workers.get(uid);
    if (worker === undefined) {
      if (type !== 'DELETED' && !isOver(pod)) setImmediate(admit, keyOf(pod), uid);
    } else if (type === 'DELETED') worker.terminate(0);
    else if (pod.metadata.deletionTimestamp !== undefined) {
      worker.terminate((pod.metadata.deletionGracePeriodSeconds ?? 30) * 1000);
    }
  }

  function admit(key: string, uid: string): void {
    if (workers.has(uid) || closing) return;
    const [namespace = '', name = ''] = key.split('/');
    const pod = store.get('pods', namespace, name);
    if (pod?.metadata.uid !== uid) return;
    const used = volumesOf(store, pod).map(uniqueVolumeName);
    const worker = startPod(options, pod, join(options.podsDir, uid), used, publishVolumes);
    workers.set(uid, worker);
    publishVolumes();
    if (pod.metadata.deletionTimestamp !== undefined) {
      worker.terminate((pod.metadata.deletionGracePeriodSeconds ?? 30) * 1000);
    }
  }

  async function forget(uid: string): Promise<void> {
    workers.delete(uid);
    publishVolumes();
    await rm(join(options.podsDir, uid), { recursive: true, force: true }).catch((error: unknown) =>
      options.onError(`pod ${uid}`, error),
    );
  }

  for (const object of store.list('pods')) take({ type: 'ADDED', object });
  const stop = store.subscribe((change) => {
    if (change.resource === 'configmaps' || change.resource === 'secrets') {
      if (change.type === 'MODIFIED') for (const worker of workers.values()) worker.refresh(change.object);
    }
    if (change.resource !== 'pods') return;
    take(change as unknown as Change<'pods'>);
    const { uid } = change.object.metadata;
    if (change.type === 'DELETED') void workers.get(uid)?.done.then(() => forget(uid));
  });

  return {
    containerOf: (pod) => workers.get(pod.metadata.uid)?.container(),
    logOf: (pod, previous) => workers.get(pod.metadata.uid)?.log(previous),
    async close() {
      closing = true;
      stop();
      const all = [...workers.values()];
      for (const worker of all) worker.terminate(1000);
      await Promise.all(all.map((worker) => worker.done));
    },
  };
}

function isOver(pod: Pod): boolean {
  return pod.status?.phase === 'Succeeded' || pod.status?.phase === 'Failed';
}
