import type { ServiceFact, World } from '../../domain/facts.ts';
import { compared, comparedHash, unseen, type Compared, type OldWorld } from '../../domain/old-world.ts';
import { poll } from '../context.ts';
import { isFailure } from '../errors.ts';
import type { Kube, Resource } from './client.ts';
import { checkCluster } from './identity.ts';
import { newVolumeLeft } from './old-volume.ts';
import { containerOf, templateHash, whenScaledOf } from './template.ts';

/** How long replicas are waited for. */
const readyMs = 60_000;
/** How long the CSI driver is waited for. */
const removedMs = 120_000;

/** The cluster's part of the old world beside what is there now. What is gone is a difference, not an error. */
export async function compareOldWorld(kube: Kube, world: World, old: OldWorld): Promise<Compared[]> {
  await checkCluster(kube, world);
  const parts = await Promise.all([
    compareVolume(kube, old),
    compareNewVolume(kube, world, old),
    compareDatabase(kube, old),
    ...old.services.map(async (service) => {
      const what = `${service.kind} ${service.namespace}/${service.name}`;
      try {
        return await compareService(kube, service, what);
      } catch (error) {
        // A worker that may not look at one service must still tell about the others.
        if (!isFailure(error, 'AccessDenied', 'NotFound')) throw error;
        return [unseen('service', what, 'as it was', error.message)];
      }
    }),
  ]);
  return parts.flat();
}

async function compareVolume(kube: Kube, { database }: OldWorld): Promise<Compared[]> {
  const { claim, volume, workload } = database;
  const bound = await kube.find('PersistentVolumeClaim', { namespace: workload.namespace, name: claim.name });
  const pv =
    bound?.spec?.volumeName === undefined
      ? undefined
      : await kube.find('PersistentVolume', { name: bound.spec.volumeName });
  const handle = pv?.spec?.csi?.volumeHandle ?? 'no volume';
  // A deleted claim says Bound until the last pod lets go of it.
  const going = bound?.metadata?.deletionTimestamp === undefined ? '' : ', being deleted';
  const phase = bound === undefined ? 'no claim' : `${bound.status?.phase}${going}`;
  const what = `volume under claim ${workload.namespace}/${claim.name}`;
  return [
    compared('volume', what, `${volume.handle}, Bound`, `${handle}, ${phase}`),
    compared('volume', 'reclaim policy', volume.reclaimPolicy, pv?.spec?.persistentVolumeReclaimPolicy ?? 'none'),
  ];
}

/** That nothing is left of the new volume. The way back did not wait for its driver: the services did. */
async function compareNewVolume(kube: Kube, world: World, { database }: OldWorld): Promise<Compared[]> {
  let left: Resource<'PersistentVolume'> | undefined;
  const removed = await poll(
    async () => {
      const now = await newVolumeLeft(kube, world, database);
      left = now ?? left;
      return now === undefined ? 'removed' : undefined;
    },
    { timeoutMs: removedMs },
  );
  if (left === undefined) return [];
  const { metadata, status, spec } = left;
  const found = removed ?? `${status?.phase}, policy ${spec?.persistentVolumeReclaimPolicy}`;
  return [compared('volume', `new volume ${metadata?.name}`, 'removed', found)];
}

async function compareDatabase(kube: Kube, { database }: OldWorld): Promise<Compared[]> {
  const { workload } = database;
  const found = await kube.find(workload.kind, workload);
  const spec = found?.metadata?.uid === workload.uid ? found.spec : undefined;
  const what = `${workload.kind} ${workload.namespace}/${workload.name}`;
  if (spec === undefined) return [compared('database', what, 'there', 'gone')];
  return [
    compared(
      'database',
      `image of ${what}`,
      database.image,
      containerOf(spec, database.pod.container)?.image ?? 'none',
    ),
    comparedHash('database', `pod template of ${what}`, database.templateHash, templateHash(spec)),
    compared('database', `replicas of ${what}`, '1', String(spec.replicas ?? 1)),
    ...(workload.kind === 'StatefulSet'
      ? [compared('database', `whenScaled of ${what}`, database.whenScaled, whenScaledOf(spec))]
      : []),
  ];
}

async function compareService(kube: Kube, service: ServiceFact, what: string): Promise<Compared[]> {
  const { kind, uid, replicas, suspended, hpa } = service;
  if (kind === 'CronJob') {
    const found = await kube.find(kind, service);
    const is = lostAs(found, uid) ?? sayCron(found?.spec?.suspend ?? false);
    return [compared('service', what, sayCron(suspended ?? false), is)];
  }
  let found = await kube.find(kind, service);
  const lost = lostAs(found, uid);
  if (lost !== null) return [compared('service', what, 'there', lost)];
  // Pods that had lost their server are ready again only after their next probes.
  await poll(
    async () => {
      found = await kube.find(kind, service);
      return (found?.status?.readyReplicas ?? 0) >= (found?.spec?.replicas ?? 1) ? true : undefined;
    },
    { timeoutMs: readyMs },
  );
  const now = found?.spec?.replicas ?? 1;
  const ready = found?.status?.readyReplicas ?? 0;
  const wanted = replicas ?? 1;
  const says = `${wanted} replicas`;
  // An HPA owns the count: any that is not 0 is its business.
  const counted = now === wanted || (hpa !== null && now > 0) ? says : `${now} replicas`;
  return [compared('service', what, says, ready >= now ? counted : `${counted}, ${ready} of them ready`)];
}

/** What became of an object that is not there any more; null when it is. */
function lostAs(found: { metadata?: { uid?: string } } | undefined, uid: string): string | null {
  if (found === undefined) return 'gone';
  return found.metadata?.uid === uid ? null : 'another one of that name';
}

function sayCron(suspended: boolean): string {
  return suspended ? 'suspended' : 'on';
}
