import type { BlockVolumeFact, CloneFact, DatabaseFact, VolumeFact, World } from '../../domain/facts.ts';
import type { Rebound, VolumeUsed } from '../../domain/old-world.ts';
import { poll } from '../context.ts';
import { fail, isFailure } from '../errors.ts';
import type { Kube, ObjectName, Resource } from './client.ts';
import { getRecorded, isOurs, names, strange, upgradeLabel } from './identity.ts';

/*
 * What the database goes back to: the original volume by its PV, by a new PV when that is gone, or its clone.
 */

/** What is asked of the provider; both throw when it does not answer. */
export interface VolumeProvider {
  hasVolume(volume: BlockVolumeFact): Promise<boolean>;
  findClone(arg: { world: World; source: BlockVolumeFact; label: string }): Promise<CloneFact | null>;
}

/** On the volume that services wrote to: nobody but a person removes it. */
const keptLabel = 'pgleap.dev/kept';

/** Which of the old volumes a PV name stands for; undefined for any other. */
export function oldVolumeOf(world: World, database: DatabaseFact, pv: string | undefined): VolumeUsed | undefined {
  if (pv === database.volume.pv) return 'original';
  if (pv === names.original(world)) return 'original-static';
  return pv === names.clone(world) ? 'clone' : undefined;
}

/**
 * Which of the old volumes a bound claim has. Throws WrongWorld when it has none, as one that somebody made in the moment between
 * two claims of that name, or when that volume's claim is another.
 */
export async function oldVolumeUnder(
  kube: Kube,
  world: World,
  database: DatabaseFact,
  { metadata, spec }: Resource<'PersistentVolumeClaim'>,
): Promise<VolumeUsed> {
  const claim = `claim ${metadata?.namespace}/${metadata?.name}`;
  const at = { name: spec?.volumeName ?? '' };
  const which = oldVolumeOf(world, database, at.name);
  if (which === undefined) {
    throw fail(
      'WrongWorld',
      `${claim} is on PersistentVolume ${at.name}, not on the original ${database.volume.pv}: somebody made it meanwhile. ` +
        `Delete it (the policy of ${at.name} decides what becomes of that volume), and retry`,
    );
  }
  const volume =
    which === 'original'
      ? await getRecorded(kube, 'PersistentVolume', at, database.volume.pvUid)
      : await kube.get('PersistentVolume', at);
  if (which !== 'original' && !isOurs(volume, world)) {
    throw strange('PersistentVolume', at, 'is not one that this upgrade made');
  }
  const holder = volume.spec?.claimRef;
  if (holder?.uid === metadata?.uid) return which;
  throw fail(
    'WrongWorld',
    `PersistentVolume ${at.name} is not bound to ${claim} of uid ${metadata?.uid}, but to ${holder?.namespace}/${holder?.name} ` +
      `of uid ${holder?.uid}: look whose that is, and retry once it is gone`,
  );
}

/** The volume to bind, as a PV that exists when this resolves. Throws Refused when neither original nor clone are left. */
export async function findOldVolume(
  kube: Kube,
  provider: VolumeProvider,
  arg: { world: World; database: DatabaseFact; block: BlockVolumeFact | null; cloneLabel: string },
): Promise<{ which: VolumeUsed; volume: { pv: string; pvUid: string } }> {
  const { world, database, block, cloneLabel } = arg;
  const { volume } = database;
  const at = { name: volume.pv };
  const settled = await poll(
    async () => {
      const found = await kube.find('PersistentVolume', at);
      return found?.metadata?.deletionTimestamp === undefined ? { found } : undefined;
    },
    { timeoutMs: 60_000 },
  );
  if (settled === undefined)
    throw fail('NotStopped', `PersistentVolume ${volume.pv} is being deleted, but not gone yet`);
  const there = settled.found !== undefined;
  if (there) await getRecorded(kube, 'PersistentVolume', at, volume.pvUid);
  // Without a provider to ask, and without a clone, the handle is all there is: a pod shows whether the volume exists.
  if (block === null || (await isThere(provider, block, there))) {
    if (there) return { which: 'original', volume };
    const made = await makePv(kube, world, database, names.original(world), volume.handle);
    return { which: 'original-static', volume: made };
  }
  const clone = await provider.findClone({ world, source: block, label: cloneLabel });
  if (clone === null) {
    throw fail(
      'Refused',
      `neither the original volume ${block.id} (${block.label}) nor its clone ${cloneLabel} exist any more: what is left is the dump in the artifact folder`,
    );
  }
  const handle = `${clone.id}-${clone.label}`;
  return { which: 'clone', volume: await makePv(kube, world, database, names.clone(world), handle) };
}

/** Whether the provider has the volume. One that does not answer says nothing about a volume that the cluster still has. */
async function isThere(provider: VolumeProvider, block: BlockVolumeFact, inCluster: boolean): Promise<boolean> {
  try {
    return await provider.hasVolume(block);
  } catch (error) {
    if (!inCluster || !isFailure(error, 'Unreachable', 'AccessDenied', 'RateLimited')) throw error;
    return true;
  }
}

/** A PV as the driver made the original's, on a volume that exists. Retain: nothing that goes wrong later may destroy it. */
async function makePv(
  kube: Kube,
  world: World,
  { volume, claim, workload }: DatabaseFact,
  name: string,
  handle: string,
): Promise<{ pv: string; pvUid: string }> {
  const { csi, ...spec } = volume.spec as NonNullable<Resource<'PersistentVolume'>['spec']>;
  try {
    await kube.create('PersistentVolume', {
      metadata: { name, labels: { [upgradeLabel]: world.upgradeId, 'app.kubernetes.io/managed-by': 'pgleap' } },
      spec: {
        ...spec,
        csi: { ...csi, driver: volume.driver, volumeHandle: handle },
        persistentVolumeReclaimPolicy: 'Retain',
        claimRef: {
          apiVersion: 'v1',
          kind: 'PersistentVolumeClaim',
          namespace: workload.namespace,
          name: claim.name,
        },
      },
    });
  } catch (error) {
    if (!isFailure(error, 'Conflict')) throw error;
  }
  const made = await kube.get('PersistentVolume', { name });
  if (!isOurs(made, world) || made.spec?.csi?.volumeHandle !== handle) {
    throw strange('PersistentVolume', { name }, `is not the one that this upgrade makes on ${handle}`);
  }
  return { pv: name, pvUid: made.metadata?.uid ?? '' };
}

/**
 * Takes the claim from the volume that services wrote to, and keeps that volume: Retain and a label that names it, read back
 * before the claim goes.
 */
export async function keepOpenedVolume(
  kube: Kube,
  world: World,
  at: ObjectName,
  original: VolumeFact,
  deleteClaim: (at: ObjectName, claim: Resource<'PersistentVolumeClaim'>) => Promise<void>,
): Promise<void> {
  const claim = await kube.find('PersistentVolumeClaim', at);
  if (claim === undefined) return;
  if (!isOurs(claim, world)) throw strange('PersistentVolumeClaim', at, 'is not one that this upgrade made');
  const name = claim.spec?.volumeName ?? '';
  const found = await kube.get('PersistentVolume', { name });
  if (name === original.pv || found.spec?.claimRef?.uid !== claim.metadata?.uid) {
    throw strange('PersistentVolume', { name }, 'is not the new volume of this upgrade');
  }
  await kube.patch(
    'PersistentVolume',
    { name },
    {
      metadata: {
        resourceVersion: found.metadata?.resourceVersion,
        labels: { [upgradeLabel]: world.upgradeId, [keptLabel]: 'opened' },
      },
      spec: { persistentVolumeReclaimPolicy: 'Retain' },
    },
  );
  const kept = await kube.get('PersistentVolume', { name });
  if (kept.spec?.persistentVolumeReclaimPolicy !== 'Retain') {
    throw fail('Conflict', `PersistentVolume ${name} did not keep the reclaim policy Retain`);
  }
  await deleteClaim(at, claim);
}

/** The volume that was kept so; null when there is none. */
export async function keptVolume(kube: Kube, world: World): Promise<Rebound['kept']> {
  const labels = `${upgradeLabel}=${world.upgradeId},${keptLabel}=opened`;
  const [found] = await kube.list('PersistentVolume', { labels });
  return found === undefined ? null : { pv: found.metadata?.name ?? '', handle: found.spec?.csi?.volumeHandle ?? '' };
}

/** What the database is on, and what was kept, when an earlier run bound it and its answer is lost. */
export async function seeRebound(
  kube: Kube,
  world: World,
  database: DatabaseFact,
): Promise<{ volume: VolumeUsed | null; kept: Rebound['kept'] }> {
  const { claim, workload } = database;
  const bound = await kube.find('PersistentVolumeClaim', { namespace: workload.namespace, name: claim.name });
  const volume = oldVolumeOf(world, database, bound?.spec?.volumeName) ?? null;
  return { volume, kept: await keptVolume(kube, world) };
}

/** Whether services wrote to the PV's volume and it was kept for that. */
export function isKept({ metadata }: Resource<'PersistentVolume'>): boolean {
  return metadata?.labels?.[keptLabel] !== undefined;
}

/**
 * Whether the provisioner made the PV for a claim of that name since the upgrade began: a PV's name holds its claim's uid. One
 * that a person made does not, and one that is kept is nobody's to remove.
 */
export function isProvisionedFor(at: ObjectName, volume: Resource<'PersistentVolume'>, world: World): boolean {
  const { metadata, spec } = volume;
  const { namespace, name, uid } = spec?.claimRef ?? {};
  if (namespace !== at.namespace || name !== at.name || isKept(volume)) return false;
  const created = Date.parse(metadata?.creationTimestamp ?? '');
  const digits = uid?.replaceAll('-', '').slice(0, 16) ?? '';
  return (
    created >= Date.parse(world.startedAt) - 5 * 60_000 &&
    digits.length === 16 &&
    metadata?.name?.replaceAll('-', '').includes(digits) === true
  );
}

/** The new volume after the way back; undefined when it is gone, or was written to and is kept. */
export async function newVolumeLeft(
  kube: Kube,
  world: World,
  { claim, volume: original, workload }: DatabaseFact,
): Promise<Resource<'PersistentVolume'> | undefined> {
  const at = { namespace: workload.namespace, name: claim.name };
  const now = await kube.find('PersistentVolumeClaim', at);
  return (await kube.list('PersistentVolume')).find(
    (volume) =>
      isProvisionedFor(at, volume, world) &&
      volume.metadata?.uid !== original.pvUid &&
      volume.spec?.claimRef?.uid !== now?.metadata?.uid,
  );
}

/** On a claim for a moment. */
const heldAnnotation = 'pgleap.dev/held';

/**
 * The claim of the plan, which was never deleted, as another version of itself: a deletion that was meant for it before the way
 * back, by a worker that was frozen since, is a Conflict from here on.
 */
export async function holdClaim(
  kube: Kube,
  { claim }: DatabaseFact,
  seen: Resource<'PersistentVolumeClaim'>,
): Promise<void> {
  const { uid, namespace, name = '', resourceVersion } = seen.metadata ?? {};
  if (uid !== claim.uid) return;
  const at = { namespace, name };
  const mark = (value: string | null, metadata: object) =>
    kube.patch('PersistentVolumeClaim', at, { metadata: { ...metadata, annotations: { [heldAnnotation]: value } } });
  await mark('true', { uid, resourceVersion });
  await mark(null, { uid });
}

/** Throws Refused unless a claim has the PV and stays: without one the policy Delete destroys the volume. */
export async function requireHeld(kube: Kube, { metadata, spec, status }: Resource<'PersistentVolume'>): Promise<void> {
  const { namespace, name = '', uid } = spec?.claimRef ?? {};
  let is = status?.phase ?? 'unknown';
  if (is === 'Bound') {
    const claim = await kube.find('PersistentVolumeClaim', { namespace, name });
    // A deleted claim stays, and says Bound, until the last pod lets go of it; its volume says so a while longer.
    const going = claim?.metadata?.deletionTimestamp !== undefined;
    if (claim !== undefined && claim.metadata?.uid === uid && !going) return;
    is = `bound to claim ${namespace}/${name}, which is ${going ? 'being deleted' : 'gone'}`;
  }
  throw fail(
    'Refused',
    `PersistentVolume ${metadata?.name} is ${is}: with the policy Delete it would be destroyed. Bind it to a claim that stays, ` +
      'as docs/rollback.md says of rebindOriginal, and retry',
  );
}

/** Throws Refused while a PV is on the volume of that label: then it is no mere copy any more. */
export async function requireUnused(kube: Kube, label: string): Promise<void> {
  const holder = (await kube.list('PersistentVolume')).find(
    ({ spec }) => spec?.csi?.volumeHandle?.replace(/^\d+-/, '') === label,
  );
  if (holder === undefined) return;
  throw fail('Refused', `PersistentVolume ${holder.metadata?.name} is on the clone ${label}: it is kept`);
}
