import type { ClaimFact, DatabaseFact, VolumeFact, World } from '../../domain/facts.ts';
import { poll, requireLeave } from '../context.ts';
import { fail, isFailure } from '../errors.ts';
import type { ClusterActivities, UndoActivities } from '../types.ts';
import type { Kube, ObjectName, Resource } from './client.ts';
import { checkCluster, getRecorded, getWorkload, isOurs, names, strange, upgradeLabel } from './identity.ts';
import { headOf } from './journal.ts';
import {
  findOldVolume,
  holdClaim,
  isKept,
  isProvisionedFor,
  keepOpenedVolume,
  keptVolume,
  oldVolumeOf,
  oldVolumeUnder,
  requireHeld,
  type VolumeProvider,
} from './old-volume.ts';
import { bytesOf } from './quantity.ts';
import { requireAtRest } from './rest.ts';
import { podsOf } from './workloads.ts';

type Claim = Resource<'PersistentVolumeClaim'>;

interface ClaimName {
  namespace: string;
  name: string;
}

const gib = 2 ** 30;
/** Linode makes no smaller volume. */
const smallestGib = 10;
const bindMs = 5 * 60_000;
const detachMs = 6 * 60_000;

export function createVolumeActivities(
  kube: Kube,
  provider: VolumeProvider,
): Pick<ClusterActivities, 'setReclaimPolicy' | 'createScratch' | 'replaceClaim'> &
  Pick<UndoActivities, 'restoreReclaimPolicy' | 'removeScratch' | 'rebindOriginal'> & {
    /**
     * The Kubernetes half of removeOriginal: the PV object only, under Retain its volume stays at the provider. `byDriver`:
     * under Delete, so that the CSI driver deletes both.
     */
    removeReleasedVolume: (arg: { world: World; database: DatabaseFact; byDriver: boolean }) => Promise<void>;
  } {
  /** Only as it was seen: `Delete` that comes late would destroy an original that another upgrade has set free since. */
  async function setPolicy(
    volume: VolumeFact,
    seen: Resource<'PersistentVolume'>,
    policy: VolumeFact['reclaimPolicy'],
  ): Promise<void> {
    await kube.patch(
      'PersistentVolume',
      { name: volume.pv },
      {
        metadata: { uid: volume.pvUid, resourceVersion: seen.metadata?.resourceVersion },
        spec: { persistentVolumeReclaimPolicy: policy },
      },
    );
    const { spec } = await getRecorded(kube, 'PersistentVolume', { name: volume.pv }, volume.pvUid);
    if (spec?.persistentVolumeReclaimPolicy !== policy) {
      throw fail('Conflict', `PersistentVolume ${volume.pv} did not keep the reclaim policy ${policy}`);
    }
  }

  /**
   * Removes a claim that pgleap made, and its volume at the provider too, whatever the storage class would keep. The original
   * carries a reference to the same name, and is never touched here. `going`: does not wait until the driver is done.
   */
  async function removeOwnClaim(
    world: World,
    at: ClaimName,
    until: 'gone' | 'going',
    original?: { pvUid: string },
  ): Promise<void> {
    const claim = await kube.find('PersistentVolumeClaim', at);
    if (claim !== undefined) {
      if (!isOurs(claim, world)) throw strange('PersistentVolumeClaim', at, 'is not one that this upgrade made');
      await deleteClaim(at, claim);
    }
    // By its reference, not by name: an earlier attempt may have removed the claim and stopped before its volume.
    const left = await poll(
      async () => {
        const volumes = await kube.list('PersistentVolume');
        const ours = volumes.filter(
          (volume) =>
            volume.metadata?.uid !== original?.pvUid &&
            (claim === undefined
              ? isProvisionedFor(at, volume, world)
              : volume.spec?.claimRef?.uid === claim.metadata?.uid && !isKept(volume)),
        );
        const kept = ours.filter(({ spec }) => spec?.persistentVolumeReclaimPolicy !== 'Delete');
        for (const { metadata } of kept) {
          const body = {
            metadata: { uid: metadata?.uid, resourceVersion: metadata?.resourceVersion },
            spec: { persistentVolumeReclaimPolicy: 'Delete' },
          };
          await kube.patch('PersistentVolume', { name: metadata?.name ?? '' }, body).catch((error: unknown) => {
            if (!isFailure(error, 'Conflict', 'NotFound')) throw error;
          });
        }
        return (until === 'gone' ? ours : kept).length === 0 ? true : undefined;
      },
      { timeoutMs: 120_000, startMs: 50 },
    );
    if (left === undefined) {
      throw fail(
        'NotStopped',
        `the volume of claim ${at.namespace}/${at.name} is not removed yet: the CSI driver is still at it`,
      );
    }
  }

  async function deleteClaim(at: ObjectName, claim: Claim, resourceVersion?: string): Promise<void> {
    await kube.remove('PersistentVolumeClaim', at, claim.metadata?.uid ?? '', { resourceVersion });
    const gone = await poll(
      async () => {
        const now = await kube.find('PersistentVolumeClaim', at);
        return now?.metadata?.uid === claim.metadata?.uid ? undefined : true;
      },
      { timeoutMs: 60_000, startMs: 50 },
    );
    if (gone === undefined) {
      throw fail('NotStopped', `claim ${at.namespace}/${at.name} is being deleted, but a pod still uses it`);
    }
  }

  /** A pod that was emptying the target's data would keep the claim, and is no part of the old world. */
  async function removeEraser(world: World): Promise<void> {
    const at = { namespace: world.namespace, name: names.eraser(world) };
    const pod = await kube.find('Pod', at);
    if (pod === undefined || !isOurs(pod, world)) return;
    await kube.remove('Pod', at, pod.metadata?.uid ?? '', { graceSeconds: 5 });
  }

  /** The volume, once no claim has it. Its phase follows a claim's deletion only after a while. */
  async function awaitFree(volume: { pv: string; pvUid: string }): Promise<Resource<'PersistentVolume'>> {
    const at = { name: volume.pv };
    const free = await poll(
      async () => {
        const found = await getRecorded(kube, 'PersistentVolume', at, volume.pvUid);
        if (found.status?.phase !== 'Bound') return found;
        const { namespace, name = '', uid } = found.spec?.claimRef ?? {};
        const holder = await kube.find('PersistentVolumeClaim', { namespace, name });
        if (holder !== undefined && holder.metadata?.uid === uid) {
          throw strange('PersistentVolume', at, `is bound to ${namespace}/${name}`);
        }
        return undefined;
      },
      { timeoutMs: 60_000, startMs: 50 },
    );
    if (free === undefined)
      throw fail('NotStopped', `PersistentVolume ${volume.pv} is still Bound to a claim that is gone`);
    return free;
  }

  async function awaitBound(at: ObjectName): Promise<Claim> {
    const bound = await poll(
      async () => {
        const claim = await kube.get('PersistentVolumeClaim', at);
        if (claim.status?.phase === 'Lost') throw strange('PersistentVolumeClaim', at, 'has lost its volume');
        return claim.status?.phase === 'Bound' ? claim : undefined;
      },
      { timeoutMs: bindMs, startMs: 50 },
    );
    if (bound === undefined) {
      throw fail(
        'NotReady',
        `claim ${at.namespace}/${at.name} was not bound in ${bindMs / 60_000} minutes: see its events`,
      );
    }
    return bound;
  }

  /** Throws unless the workload is at 0 and no pod of it is left: a claim is only taken from a stopped server. */
  async function requireStopped(world: World, database: DatabaseFact): Promise<void> {
    const workload = await getWorkload(kube, world, database.workload);
    const pods = await podsOf(kube, workload);
    if ((workload.spec?.replicas ?? 1) !== 0 || pods.length > 0) {
      throw fail(
        'NotStopped',
        `${database.workload.kind} ${database.workload.namespace}/${database.workload.name} still runs (replicas ${workload.spec?.replicas}, ${pods.length} pods)`,
      );
    }
  }

  return {
    async setReclaimPolicy({ world, volume, policy }) {
      await checkCluster(kube, world);
      const recorded = await getRecorded(kube, 'PersistentVolume', { name: volume.pv }, volume.pvUid);
      await setPolicy(volume, recorded, policy);
    },

    async restoreReclaimPolicy({ world, volume }) {
      await checkCluster(kube, world);
      const found = await kube.find('PersistentVolume', { name: volume.pv });
      if (found === undefined) return;
      // The database is on the clone: what is left of the original is for a person to look at.
      if ((await kube.find('PersistentVolume', { name: names.clone(world) })) !== undefined) return;
      const recorded = await getRecorded(kube, 'PersistentVolume', { name: volume.pv }, volume.pvUid);
      if (recorded.spec?.persistentVolumeReclaimPolicy === volume.reclaimPolicy) return;
      if (volume.reclaimPolicy === 'Delete') await requireHeld(kube, recorded);
      await setPolicy(volume, recorded, volume.reclaimPolicy);
    },

    async createScratch({ world, claim, bytes }) {
      await checkCluster(kube, world);
      const at = { namespace: world.namespace, name: names.scratch(world) };
      try {
        await kube.create('PersistentVolumeClaim', {
          metadata: { ...at, labels: { [upgradeLabel]: world.upgradeId, 'app.kubernetes.io/managed-by': 'pgleap' } },
          spec: {
            accessModes: ['ReadWriteOnce'],
            ...(claim.storageClass === '' ? {} : { storageClassName: claim.storageClass }),
            resources: { requests: { storage: `${Math.max(smallestGib, Math.ceil(bytes / gib))}Gi` } },
          },
        });
      } catch (error) {
        if (!isFailure(error, 'Conflict')) throw error;
        const existing = await kube.get('PersistentVolumeClaim', at);
        if (!isOurs(existing, world)) throw strange('PersistentVolumeClaim', at, 'exists, but is not of this upgrade');
      }
    },

    async removeScratch({ world }) {
      await checkCluster(kube, world);
      await removeOwnClaim(world, { namespace: world.namespace, name: names.scratch(world) }, 'gone');
    },

    async replaceClaim({ world, database, minBytes, atRest, approvedUntil = null }) {
      await requireAtRest(kube, world, atRest);
      await requireStopped(world, database);
      const { claim, volume, workload } = database;
      const at = { namespace: workload.namespace, name: claim.name };
      const original = await getRecorded(kube, 'PersistentVolume', { name: volume.pv }, volume.pvUid);
      if (original.spec?.persistentVolumeReclaimPolicy !== 'Retain') {
        throw strange(
          'PersistentVolume',
          { name: volume.pv },
          'is not under Retain: deleting its claim would destroy the data',
        );
      }
      if (original.spec.csi?.volumeHandle !== volume.handle) {
        throw strange('PersistentVolume', { name: volume.pv }, `has the handle ${original.spec.csi?.volumeHandle}`);
      }
      const current = await kube.find('PersistentVolumeClaim', at);
      if (current?.metadata?.uid === claim.uid) {
        // One that is being deleted already cannot be kept any more.
        if (current.metadata.deletionTimestamp === undefined) requireApproved(approvedUntil);
        // Where it was not deleted the way back leaves it as it is: the source may run on it again since.
        await requireLeave(true);
        await deleteClaim(at, current, current.metadata.resourceVersion);
      } else if (current !== undefined && !isOurs(current, world)) {
        throw strange('PersistentVolumeClaim', at, 'is neither the original one nor one of this upgrade');
      }
      await awaitDetached(kube, volume.pv);
      const released = await poll(
        async () => {
          const now = await getRecorded(kube, 'PersistentVolume', { name: volume.pv }, volume.pvUid);
          return now.status?.phase === 'Released' ? true : undefined;
        },
        { timeoutMs: 60_000, startMs: 50 },
      );
      if (released === undefined) throw fail('NotStopped', `PersistentVolume ${volume.pv} is not Released yet`);
      await createClaim(kube, at, claim, {
        bytes: Math.max(minBytes, claim.capacityBytes),
        labels: { ...claim.labels, [upgradeLabel]: world.upgradeId },
      });
      const bound = await awaitBound(at);
      if (!isOurs(bound, world)) throw strange('PersistentVolumeClaim', at, 'is not one of this upgrade');
      const pv = bound.spec?.volumeName ?? '';
      const made = await kube.get('PersistentVolume', { name: pv });
      const handle = made.spec?.csi?.volumeHandle ?? '';
      if (pv === volume.pv || handle === volume.handle || handle === '') {
        throw strange('PersistentVolumeClaim', at, `is bound to ${pv} (${handle}), which is no new volume`);
      }
      // What a person had set on the original outlives the class's default.
      if (made.spec?.persistentVolumeReclaimPolicy !== volume.reclaimPolicy) {
        await kube.patch(
          'PersistentVolume',
          { name: pv },
          {
            metadata: { uid: made.metadata?.uid, resourceVersion: made.metadata?.resourceVersion },
            spec: { persistentVolumeReclaimPolicy: volume.reclaimPolicy },
          },
        );
      }
      return { claimUid: bound.metadata?.uid ?? '', pv, handle };
    },

    async rebindOriginal({ world, database, volume: block, cloneLabel }) {
      const { claim, volume, workload } = database;
      const at = { namespace: workload.namespace, name: claim.name };
      await checkCluster(kube, world);
      const current = await kube.find('PersistentVolumeClaim', at);
      // A deleted claim still says Bound, and is gone as soon as the last pod lets go of it.
      const going = current?.metadata?.deletionTimestamp !== undefined;
      if (!going && oldVolumeOf(world, database, current?.spec?.volumeName) !== undefined) {
        const bound = await awaitBound(at);
        const which = await oldVolumeUnder(kube, world, database, bound);
        await holdClaim(kube, database, bound);
        return { volume: which, kept: await keptVolume(kube, world) };
      }
      await requireStopped(world, database);
      await removeEraser(world);
      const old = await findOldVolume(kube, provider, { world, database, block, cloneLabel });
      // Whether services ever wrote to it is the journal's to say: a workflow that was reset may not know.
      if ((await headOf(kube, world))?.committedAt) {
        await keepOpenedVolume(kube, world, at, volume, deleteClaim);
      } else {
        if (current !== undefined && going) await deleteClaim(at, current);
        await removeOwnClaim(world, at, 'going', volume);
      }
      const { metadata } = await awaitFree(old.volume);
      // Kept for the claim of this name, so that no other claim takes it meanwhile; the old claim's uid would block it.
      await kube.patch(
        'PersistentVolume',
        { name: old.volume.pv },
        {
          metadata: { resourceVersion: metadata?.resourceVersion },
          spec: {
            claimRef: { apiVersion: 'v1', kind: 'PersistentVolumeClaim', ...at, uid: null, resourceVersion: null },
          },
        },
      );
      await createClaim(kube, at, claim, { labels: claim.labels, volumeName: old.volume.pv });
      const which = await oldVolumeUnder(kube, world, database, await awaitBound(at));
      return { volume: which, kept: await keptVolume(kube, world) };
    },

    async removeReleasedVolume({ world, database, byDriver }) {
      await checkCluster(kube, world);
      const { volume } = database;
      const found = await kube.find('PersistentVolume', { name: volume.pv });
      if (found === undefined) return;
      const at = { name: volume.pv };
      const { metadata, spec, status } = await getRecorded(kube, 'PersistentVolume', at, volume.pvUid);
      if (spec?.csi?.volumeHandle !== volume.handle) {
        throw strange('PersistentVolume', at, `has the handle ${spec?.csi?.volumeHandle}`);
      }
      const policy = spec.persistentVolumeReclaimPolicy;
      // Failed: the driver was asked before, and has not managed it yet.
      if (status?.phase !== 'Released' && !(byDriver && policy === 'Delete' && status?.phase === 'Failed')) {
        throw fail(
          'Refused',
          `PersistentVolume ${volume.pv} is ${status?.phase}, not Released: something uses the original volume`,
        );
      }
      await awaitDetached(kube, volume.pv);
      if (!byDriver) await kube.remove('PersistentVolume', at, volume.pvUid);
      else if (policy !== 'Delete') {
        if (metadata?.annotations?.['pv.kubernetes.io/provisioned-by'] !== volume.driver) {
          throw fail(
            'Refused',
            `PersistentVolume ${volume.pv} was not made by a provisioner: the driver ${volume.driver} would not delete its volume ${volume.handle}. ` +
              'Delete both by hand (kubectl delete pv, then the volume at the provider), and retry',
          );
        }
        await kube.patch('PersistentVolume', at, {
          metadata: { uid: volume.pvUid, resourceVersion: metadata.resourceVersion },
          spec: { persistentVolumeReclaimPolicy: 'Delete' },
        });
      }
      const gone = await poll(
        async () => ((await kube.find('PersistentVolume', at)) === undefined ? true : undefined),
        { timeoutMs: byDriver ? 180_000 : 60_000 },
      );
      if (gone === undefined) {
        const where = byDriver ? `: see its events (kubectl describe pv ${volume.pv})` : '';
        throw fail('NotStopped', `PersistentVolume ${volume.pv} is being deleted, but not gone yet${where}`);
      }
    },
  };
}

/** Here, and not when the phase begins: it may have been parked for days, or its worker gone. */
function requireApproved(until: string | null): void {
  if (until === null || Date.now() < Date.parse(until)) return;
  throw fail('ApprovalLapsed', `the approval to replace the volume lapsed at ${until}: the claim is as it was`);
}

/** Only a deleted VolumeAttachment proves that the volume was unmounted and let go of. */
export async function awaitDetached(kube: Kube, pv: string): Promise<void> {
  const detached = await poll(
    async () => {
      const attachments = await kube.list('VolumeAttachment');
      return attachments.some(({ spec }) => spec?.source.persistentVolumeName === pv) ? undefined : true;
    },
    { timeoutMs: detachMs },
  );
  if (detached === undefined) {
    throw fail(
      'NotStopped',
      `PersistentVolume ${pv} is still attached to a node ${detachMs / 60_000} minutes after its pod ended`,
    );
  }
}

async function createClaim(
  kube: Kube,
  at: ClaimName,
  claim: ClaimFact,
  want: { bytes?: number; labels: Record<string, string>; volumeName?: string },
): Promise<void> {
  // A claim may ask for more than it got, while its volume waits to be expanded; bound to that volume it asks for what is there.
  const asked = (bytesOf(claim.requested) ?? 0) > claim.capacityBytes ? String(claim.capacityBytes) : claim.requested;
  const storage = want.bytes === undefined ? asked : `${Math.ceil(want.bytes / gib)}Gi`;
  try {
    await kube.create('PersistentVolumeClaim', {
      metadata: { ...at, labels: want.labels, annotations: claim.annotations },
      spec: {
        accessModes: claim.accessModes,
        volumeMode: claim.volumeMode,
        storageClassName: claim.storageClass,
        resources: { requests: { storage } },
        ...(want.volumeName === undefined ? {} : { volumeName: want.volumeName }),
      },
    });
  } catch (error) {
    // Made by an earlier attempt; the caller looks whose it is.
    if (!isFailure(error, 'Conflict')) throw error;
  }
}
