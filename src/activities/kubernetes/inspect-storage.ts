import type { Check } from '../../domain/checks.ts';
import type { ClaimFact, VolumeFact, WorkloadRef } from '../../domain/facts.ts';
import type { Spec } from '../../domain/spec.ts';
import type { Kube, Resource } from './client.ts';
import { bytesOf } from './quantity.ts';
import { databaseKeepers, subjectOf } from './reconcilers.ts';
import { claimMount, podSpecOf, type WorkloadSpec } from './template.ts';

/** Adds a FAILED check; throw what it returns to end the inspection, because what comes after needs what is missing. */
export type Stop = (id: string, message: string, remedy: string) => Error;

/** Finds the claim with the data and the volume below it: Linode's, or of any CSI driver when the spec goes without a clone. */
export async function findStorage(
  kube: Kube,
  workload: WorkloadSpec,
  spec: Spec,
  ref: WorkloadRef,
  container: string,
  checks: Check[],
  stop: Stop,
): Promise<{ claim: ClaimFact; volume: VolumeFact; mount: { name: string; mountPath: string; subPath?: string } }> {
  const { namespace } = ref;
  const volumes = podSpecOf(workload).volumes ?? [];
  const templates = 'volumeClaimTemplates' in workload ? (workload.volumeClaimTemplates ?? []) : [];
  const mounted = [
    ...volumes.map(({ persistentVolumeClaim }) => persistentVolumeClaim?.claimName ?? ''),
    ...templates.map(({ metadata }) => `${metadata?.name}-${ref.name}-0`),
  ].filter((name) => name !== '' && claimMount(workload, container, name) !== undefined);
  const name = spec.database.claim ?? (mounted.length === 1 ? mounted[0] : undefined);
  const mount = name === undefined ? undefined : claimMount(workload, container, name)?.mount;
  if (name === undefined || mount === undefined) {
    throw stop(
      'kube.claim',
      mounted.length === 0
        ? `Container ${container} mounts no PersistentVolumeClaim.`
        : `Container ${container} does not mount ${name ?? 'one claim alone'}; it mounts ${mounted.join(', ')}.`,
      mounted.length === 0
        ? 'pgleap replaces the volume under a claim; there must be one.'
        : 'Set database.claim to the one with the data.',
    );
  }
  const claim = await kube.find('PersistentVolumeClaim', { namespace, name });
  const pvName = claim?.spec?.volumeName;
  if (claim === undefined || pvName === undefined || claim.status?.phase !== 'Bound') {
    const state = claim === undefined ? 'does not exist' : `is ${claim.status?.phase}`;
    throw stop('kube.claim', `Claim ${namespace}/${name} ${state}.`, 'It must be bound to the volume with the data.');
  }
  const pv = await kube.get('PersistentVolume', { name: pvName });
  const { driver, volumeHandle } = pv.spec?.csi ?? {};
  if (driver === undefined || volumeHandle === undefined) {
    throw stop(
      'kube.csi-driver',
      `PersistentVolume ${pvName} is no CSI volume: nothing tells what it is outside this cluster.`,
      'Move the data to a claim of a storage class whose provisioner is a CSI driver.',
    );
  }
  const clones = spec.clone !== 'none';
  if (clones && driver !== 'linodebs.csi.linode.com') {
    throw stop(
      'kube.csi-driver',
      `PersistentVolume ${pvName} is of the driver ${driver}; pgleap clones volumes of linodebs.csi.linode.com only.`,
      'To go without a copy at the provider, set clone: none in the spec: the original volume, kept and not written, is the only way back then, besides the dump.',
    );
  }
  if (clones && !/^\d+-.+$/.test(volumeHandle)) {
    throw stop(
      'kube.volume-handle',
      `PersistentVolume ${pvName} has the handle ${volumeHandle}, not <volume id>-<label>: the volume at Linode cannot be told from it.`,
      'Correct the PV: a handle such as 123456-pvc1234 belongs to exactly one volume.',
    );
  }
  checks.push({
    id: 'kube.csi-driver',
    status: 'PASSED',
    message: `Claim ${name} is on ${clones ? 'Linode volume' : `${driver} volume`} ${volumeHandle} (${pvName}).`,
  });
  const storageClass = claim.spec?.storageClassName ?? '';
  await storageClassChecks(kube, storageClass, name, checks);
  const volumeMode = claim.spec?.volumeMode ?? 'Filesystem';
  if (volumeMode !== 'Filesystem') {
    throw stop(
      'kube.claim',
      `Claim ${namespace}/${name} is of volumeMode ${volumeMode}.`,
      'A server’s data needs a file system.',
    );
  }
  const subject = subjectOf('PersistentVolumeClaim', claim);
  // A StatefulSet owns its claims where it may delete them.
  const owners = subject.owners.filter((owner) => owner.uid !== ref.uid);
  checks.push(...(await databaseKeepers(kube, { ...subject, owners })));
  const policy = pv.spec?.persistentVolumeReclaimPolicy;
  const capacity = claim.status.capacity?.['storage'] ?? pv.spec?.capacity?.['storage'] ?? '';
  return {
    mount,
    claim: {
      name,
      uid: claim.metadata?.uid ?? '',
      storageClass,
      accessModes: claim.spec?.accessModes ?? ['ReadWriteOnce'],
      volumeMode,
      requested: claim.spec?.resources?.requests?.['storage'] ?? capacity,
      capacityBytes: bytesOf(capacity) ?? 0,
      labels: claim.metadata?.labels ?? {},
      annotations: ownAnnotations(claim.metadata?.annotations ?? {}),
    },
    volume: {
      pv: pvName,
      pvUid: pv.metadata?.uid ?? '',
      reclaimPolicy: policy === 'Delete' || policy === 'Recycle' ? policy : 'Retain',
      driver,
      handle: volumeHandle,
      spec: lastingSpec(pv.spec ?? {}),
    },
  };
}

function lastingSpec(spec: Record<string, unknown>): Record<string, unknown> {
  const { claimRef: _claimRef, persistentVolumeReclaimPolicy: _policy, ...lasting } = spec;
  return lasting;
}

/** Without what controllers note about this very claim and its binding. */
function ownAnnotations(all: Record<string, string>): Record<string, string> {
  const noted = /^(pv|volume|volume\.beta)\.kubernetes\.io\/|^pgleap\.dev\//;
  return Object.fromEntries(Object.entries(all).filter(([key]) => !noted.test(key)));
}

async function storageClassChecks(kube: Kube, name: string, claim: string, checks: Check[]): Promise<void> {
  const found = name === '' ? undefined : await kube.find('StorageClass', { name });
  if (found === undefined) {
    checks.push({
      id: 'kube.storage-class',
      status: 'FAILED',
      message: `Claim ${claim} is of the storage class '${name}', which does not exist: no new volume can be made under its name.`,
      remedy: 'Create the class, or move the data to a claim of one that exists.',
    });
  } else if (found.volumeBindingMode === 'WaitForFirstConsumer') {
    checks.push({
      id: 'kube.storage-class',
      status: 'FAILED',
      message: `Storage class ${name} binds only when a pod wants the claim, so the new volume cannot be checked before the target starts.`,
      remedy: 'Use a class with volumeBindingMode: Immediate, as those of Linode’s driver are.',
    });
  } else {
    checks.push({
      id: 'kube.storage-class',
      status: 'PASSED',
      message: `Storage class ${name} makes volumes at once.`,
    });
  }
}

/** Pods other than the database's that use its claim. */
export async function otherUsersOf(
  kube: Kube,
  ref: WorkloadRef,
  claim: string,
  pod: Resource<'Pod'>,
): Promise<Check[]> {
  const others = (await kube.list('Pod', { namespace: ref.namespace })).filter(
    ({ metadata, spec, status }) =>
      metadata?.uid !== pod.metadata?.uid &&
      status?.phase !== 'Succeeded' &&
      status?.phase !== 'Failed' &&
      spec?.volumes?.some((volume) => volume.persistentVolumeClaim?.claimName === claim) === true,
  );
  return others.map(({ metadata }) => ({
    id: 'kube.claim-users',
    status: 'FAILED',
    message: `Pod ${ref.namespace}/${metadata?.name} uses claim ${claim} as well: it would keep the volume attached.`,
    remedy: 'Stop that pod, and whatever starts it, for the time of the upgrade.',
  }));
}
