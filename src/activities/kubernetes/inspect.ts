import type { V1Container } from '@kubernetes/client-node';
import type { Check } from '../../domain/checks.ts';
import type { ClusterFacts, DatabaseFact, WorkloadRef } from '../../domain/facts.ts';
import { defaultPgdata } from '../../domain/pgdata.ts';
import { rightsFor, rightsToPause } from '../../domain/rights.ts';
import type { Spec } from '../../domain/spec.ts';
import { majorOf, majorOfImage } from '../../domain/versions.ts';
import { isFailure } from '../errors.ts';
import { sqlJson } from '../postgres/psql.ts';
import { accessChecks } from './access.ts';
import type { Json, Kube, Resource } from './client.ts';
import { envValue } from './env.ts';
import { clusterUid, names, upgradeLabel } from './identity.ts';
import { inspectServices } from './inspect-services.ts';
import { findStorage, otherUsersOf, type Stop } from './inspect-storage.ts';
import { listJournals } from './journal.ts';
import { lockedBy } from './lease.ts';
import { probeChecks } from './probes.ts';
import { quotaChecks } from './quotas.ts';
import { databaseKeepers, findScalers, subjectOf, type Scalers } from './reconcilers.ts';
import { namedMajor, planTarget } from './target.ts';
import { containerOf, podSpecOf, templateHash, whenScaledOf, type WorkloadSpec } from './template.ts';
import { findUnlistedUsers } from './users.ts';
import { isReady, podRef, podsOf, troubleOf, type Workload } from './workloads.ts';

/** Ends the inspection: what comes after needs what is missing. */
class Incomplete extends Error {}

/** Collects what the cluster tells. Reads only. A check that FAILED and leaves facts incomplete gives facts null. */
export async function inspectCluster(kube: Kube, spec: Spec): Promise<{ facts: ClusterFacts | null; checks: Check[] }> {
  const checks: Check[] = [];
  /** Adds a FAILED check and ends the inspection. */
  const stop = (id: string, message: string, remedy: string): Incomplete => {
    checks.push({ id, status: 'FAILED', message, remedy });
    return new Incomplete(id);
  };
  try {
    return { facts: await inspect(kube, spec, checks, stop), checks };
  } catch (error) {
    if (error instanceof Incomplete) return { facts: null, checks };
    // 401: these credentials are no longer taken at all, which says nothing of rights.
    if (
      !isFailure(error, 'AccessDenied') ||
      error.details?.some((detail) => (detail as { code?: number }).code === 401)
    )
      throw error;
    // What accessChecks asked for is named there; this is what nobody could know before.
    if (!checks.some(({ id, status }) => id === 'kube.access' && status === 'FAILED')) {
      checks.push({
        id: 'kube.access',
        status: 'FAILED',
        message: `${error.message}.`,
        remedy: 'Give the worker’s user that right, or take away what denies it.',
      });
    }
    return { facts: null, checks };
  }
}

async function inspect(kube: Kube, spec: Spec, checks: Check[], stop: Stop): Promise<ClusterFacts> {
  checks.push(...(await accessChecks(kube, rightsFor(spec))));
  const uid = await clusterUid(kube);
  const version = await kube.read('/version');
  const kubernetesVersion =
    typeof version === 'object' && version !== null && 'gitVersion' in version ? String(version.gitVersion) : 'unknown';

  const { workload, ref } = await findWorkload(kube, spec, stop);
  const says = `${ref.kind} ${ref.namespace}/${ref.name}`;
  const workloadSpec = workload.spec;
  if (workloadSpec === undefined) throw stop('kube.workload', `${says} has no spec.`, 'Apply its manifest again.');
  const container = pickContainer(workloadSpec, spec, says, stop);
  const scalers = await findScalers(kube, [spec.database, ...spec.services]);
  checks.push(...workloadChecks(workload, container, says, spec));
  checks.push(...(await databaseKeepers(kube, subjectOf(ref.kind, workload))), ...scalerChecks(scalers, ref, says));
  checks.push(...(await leftoverChecks(kube, ref)));

  const { services, reconcilers } = await inspectServices(kube, spec, ref, scalers, checks);
  const pausing = await accessChecks(kube, rightsToPause(reconcilers));
  checks.push(...pausing.filter(({ status }) => status === 'FAILED'));
  const pod = await findPod(kube, workload, says, container.name, stop);
  const { claim, volume, mount } = await findStorage(kube, workloadSpec, spec, ref, container.name, checks, stop);
  checks.push(...(await otherUsersOf(kube, ref, claim.name, pod)));

  const superuser =
    spec.database.superuser ?? (await envValue(kube, ref.namespace, container, 'POSTGRES_USER')) ?? 'postgres';
  checks.push(...probeChecks(container, superuser), ...(await quotaChecks(kube, ref.namespace, container, claim)));
  const pgdataEnv = await envValue(kube, ref.namespace, container, 'PGDATA');
  const podReference = podRef(pod, container.name);
  const told = await askServer(kube, podReference, superuser, container);
  const database: DatabaseFact = {
    workload: ref,
    pod: podReference,
    podIp: pod.status?.podIP ?? '',
    port: told.port,
    superuser,
    image: container.image ?? '',
    templateHash: templateHash(workloadSpec),
    mountPath: mount.mountPath,
    subPath: mount.subPath ?? null,
    volumeName: mount.name,
    claim,
    volume,
    pgdataEnv,
    whenScaled: whenScaledOf(workloadSpec),
    terminationGraceSeconds: podSpecOf(workloadSpec).terminationGracePeriodSeconds ?? 30,
  };
  checks.push(...(await targetChecks(kube, spec, database, told)));
  checks.push(...(await findUnlistedUsers(kube, ref, pod.metadata?.labels ?? {}, services)));
  const address = new URL(kube.kc.getCurrentCluster()?.server ?? 'http://unknown');
  return { clusterUid: uid, server: address.origin, kubernetesVersion, database, services, reconcilers };
}

async function findWorkload(kube: Kube, spec: Spec, stop: Stop): Promise<{ workload: Workload; ref: WorkloadRef }> {
  const { kind, namespace, workload: name } = spec.database;
  const workload = await kube.find(kind, { namespace, name });
  if (workload !== undefined) {
    return { workload: { ...workload, kind }, ref: { kind, namespace, name, uid: workload.metadata?.uid ?? '' } };
  }
  const other = kind === 'Deployment' ? 'StatefulSet' : 'Deployment';
  if ((await kube.find(other, { namespace, name })) !== undefined) {
    throw stop('kube.workload', `${namespace}/${name} is a ${other}, not a ${kind}.`, `Set database.kind: ${other}.`);
  }
  const there = (await kube.list(kind, { namespace })).map(({ metadata }) => metadata?.name);
  throw stop(
    'kube.workload',
    `${kind} ${namespace}/${name} does not exist.`,
    there.length === 0
      ? `Namespace ${namespace} has no ${kind}: check database.namespace and the kubeconfig’s context.`
      : `Set database.workload to one of ${there.slice(0, 10).join(', ')}.`,
  );
}

function pickContainer(workload: WorkloadSpec, spec: Spec, says: string, stop: Stop): Json<V1Container> {
  const all = podSpecOf(workload).containers;
  const wanted = spec.database.container ?? (all.length === 1 ? all[0]?.name : 'postgres');
  const found = containerOf(workload, wanted ?? '');
  if (found !== undefined) return found;
  throw stop(
    'kube.container',
    `${says} has no container ${wanted}.`,
    `Set database.container to one of ${all.map(({ name }) => name).join(', ')}.`,
  );
}

function workloadChecks(workload: Workload, container: Json<V1Container>, says: string, spec: Spec): Check[] {
  const checks: Check[] = [];
  const failed = (id: string, message: string, remedy: string) =>
    checks.push({ id, status: 'FAILED', message, remedy });
  const replicas = workload.spec?.replicas ?? 1;
  if (replicas === 1) {
    checks.push({ id: 'kube.replicas', status: 'PASSED', message: `${says} has one replica.` });
  } else {
    failed(
      'kube.replicas',
      `${says} has ${replicas} replicas; pgleap upgrades a single server.`,
      replicas === 0
        ? 'Start the database first: it must be dumped.'
        : 'Scale it to 1, or use the way of whatever replicates it.',
    );
  }
  if (workload.spec !== undefined && 'paused' in workload.spec && workload.spec.paused) {
    failed('kube.paused', `${says} is paused: it would not follow its template.`, 'kubectl rollout resume it first.');
  }
  const strategy =
    workload.spec !== undefined && 'strategy' in workload.spec ? workload.spec.strategy?.type : undefined;
  if (strategy === 'RollingUpdate') {
    checks.push({
      id: 'kube.strategy',
      status: 'WARNING',
      message: `${says} is rolled out by RollingUpdate: a change of its template can start a second server on the same data. pgleap stops it before each change.`,
      remedy: 'Set strategy.type: Recreate in its manifest.',
    });
  } else {
    checks.push({ id: 'kube.strategy', status: 'PASSED', message: `${says} never runs two servers at once.` });
  }
  const partition =
    workload.spec !== undefined && 'updateStrategy' in workload.spec
      ? (workload.spec.updateStrategy?.rollingUpdate?.partition ?? 0)
      : 0;
  if (partition > 0) {
    failed(
      'kube.strategy',
      `${says} is updated from ordinal ${partition} on only: its server would start with the old image.`,
      'Set updateStrategy.rollingUpdate.partition to 0.',
    );
  }
  const command = container.command ?? [];
  if (command.includes('-c') && /(^|\/)(ba|da|a)?sh$/.test(command[0] ?? '')) {
    failed(
      'kube.command',
      `Container ${container.name} starts its server by a shell line, to which pgleap cannot add arguments.`,
      'Start the server by the image’s entrypoint with args, also in target.patch if need be.',
    );
  }
  const grace =
    podSpecOf(workload.spec ?? { selector: {}, template: {}, serviceName: '' }).terminationGracePeriodSeconds ?? 30;
  if (grace < 30) {
    checks.push({
      id: 'kube.grace-period',
      status: 'WARNING',
      message: `${says} gets ${grace} s to end; a server that is killed needs recovery, and its volume is cloned as it was left.`,
      remedy: 'Set terminationGracePeriodSeconds to 60 or more.',
    });
  }
  if (!spec.target.image.includes('@sha256:')) {
    checks.push({
      id: 'target.digest',
      status: 'WARNING',
      message: `${spec.target.image} names its image by tag only: the same tag may be another image tomorrow, with another C library and sort order.`,
      remedy: 'Add the digest: image:tag@sha256:…',
    });
  }
  return checks;
}

function scalerChecks({ hpas, scaledObjects }: Scalers, ref: WorkloadRef, says: string): Check[] {
  const key = `${ref.namespace}/${ref.kind}/${ref.name}`;
  const scaler = hpas.get(key)?.name ?? scaledObjects.get(key)?.metadata?.name;
  if (scaler === undefined) return [];
  return [
    {
      id: 'kube.autoscaler',
      status: 'FAILED',
      message: `${says} is scaled by ${scaler}, which could start the server while its volume is replaced.`,
      remedy: 'Remove the autoscaler: a single server cannot be scaled.',
    },
  ];
}

/** What an upgrade that did not end left behind, and one that is under way. */
async function leftoverChecks(kube: Kube, ref: WorkloadRef): Promise<Check[]> {
  const checks: Check[] = [];
  const { namespace } = ref;
  const lease = await kube.find('Lease', { namespace, name: names.lease(ref) });
  if (lease !== undefined) {
    checks.push({
      id: 'kube.lease',
      status: 'FAILED',
      message: `${lockedBy(ref, namespace, lease)}.`,
      remedy: `Wait for it to end; \`pgleap status\` shows where it is. If it was aborted or terminated: pgleap recover ${namespace}/${ref.name}.`,
    });
  }
  const workflowId = `pgleap/${namespace}/${ref.name}`;
  for (const { head, entries, name } of await listJournals(kube, namespace)) {
    if (head.workflowId !== workflowId) continue;
    const open = entries.filter((entry) => entry.undoneAt === null).length;
    const unfinished = head.outcome === null || (head.committedAt === null && open > 0);
    if (!unfinished) continue;
    checks.push({
      id: 'kube.leftover',
      status: 'FAILED',
      message: `Upgrade ${head.upgradeId} of ${head.startedAt} has not put back ${open} of its changes (journal ${name}${head.outcome === null ? '' : `, ended as ${head.outcome}`}).`,
      remedy: `Put the old world back, or finish reopening: pgleap recover ${namespace}/${ref.name}.`,
    });
  }
  const pods = await kube.list('Pod', { namespace, labels: `${upgradeLabel},pgleap.dev/role` });
  for (const pod of pods) {
    const mounts = (pod.spec?.containers ?? []).some((one) =>
      one.volumeMounts?.some((mount) => mount.mountPath === '/pgleap'),
    );
    if (!mounts || lease !== undefined) continue;
    checks.push({
      id: 'kube.leftover',
      status: 'WARNING',
      message: `Pod ${namespace}/${pod.metadata?.name} of upgrade ${pod.metadata?.labels?.[upgradeLabel]} is still there.`,
      remedy: `If that upgrade is over: kubectl -n ${namespace} delete pod ${pod.metadata?.name}.`,
    });
  }
  return checks;
}

async function findPod(
  kube: Kube,
  workload: Workload,
  says: string,
  container: string,
  stop: Stop,
): Promise<Resource<'Pod'>> {
  const pods = await podsOf(kube, workload);
  const pod = pods.find(isReady);
  if (pod !== undefined && pods.length === 1) return pod;
  if (pods.length > 1) {
    throw stop('kube.pod', `${says} has ${pods.length} pods; one server is expected.`, 'Wait for its rollout to end.');
  }
  const trouble =
    pods[0] === undefined
      ? 'has no pod'
      : `has a pod that is not ready (${troubleOf(pods[0])?.text ?? `container ${container}`})`;
  throw stop('kube.pod', `${says} ${trouble}.`, 'The source must run and be ready: it is dumped while it serves.');
}

interface Told {
  port: number;
  dataDirectory: string;
  major: number | null;
}

/** Port and data directory from the server itself; inspectSource says what is wrong when it does not answer. */
async function askServer(
  kube: Kube,
  pod: DatabaseFact['pod'],
  superuser: string,
  container: Json<V1Container>,
): Promise<Told> {
  const named = container.ports?.find((one) => one.name?.startsWith('postgres') === true || one.containerPort === 5432);
  const set = Number(await envValue(kube, pod.namespace, container, 'PGPORT'));
  const port = set > 0 ? set : (named?.containerPort ?? container.ports?.[0]?.containerPort ?? 5432);
  try {
    const told = await sqlJson<{ port: number; dataDirectory: string; versionNum: number }>(
      kube.kc,
      { role: 'source', pod, superuser, host: null, port },
      `SELECT json_build_object('port', current_setting('port')::int, 'dataDirectory', current_setting('data_directory'),
        'versionNum', current_setting('server_version_num')::int)`,
      { timeoutMs: 10_000 },
    );
    return { port: told.port, dataDirectory: told.dataDirectory, major: majorOf(told.versionNum) };
  } catch (error) {
    if (!isFailure(error, 'Unreachable', 'CommandFailed', 'StreamBroken', 'AccessDenied')) throw error;
    const major = majorOfImage(container.image ?? '');
    return { port, dataDirectory: defaultPgdata(major ?? 16), major };
  }
}

/** Whether the spec's target fits into this workload: image, tag, patch, and where its data would lie. */
async function targetChecks(kube: Kube, spec: Spec, database: DatabaseFact, told: Told): Promise<Check[]> {
  const { image, major } = spec.target;
  if (image === database.image) {
    return [
      {
        id: 'target.image',
        status: 'FAILED',
        message: `${database.workload.kind} ${database.workload.name} has the image ${image} already.`,
        remedy: 'Name the image of a newer major version in target.image.',
      },
    ];
  }
  const tagged = majorOfImage(image);
  if (major !== undefined && tagged !== null && tagged !== major) {
    return [
      {
        id: 'target.image',
        status: 'FAILED',
        message: `target.major is ${major}, but the tag of ${image} says ${tagged}.`,
        remedy: 'Correct one of them; target.major may be left out.',
      },
    ];
  }
  const source = { major: told.major ?? majorOfImage(database.image) ?? 16, dataDirectory: told.dataDirectory };
  try {
    const plan = await planTarget(kube, spec, database, source, namedMajor(spec));
    if ('problem' in plan) {
      return [
        {
          id: 'target.pgdata-layout',
          status: 'FAILED',
          message: `The target cannot work: ${plan.problem}.`,
          remedy:
            'Set in target.patch where the claim is mounted and PGDATA to a folder in it, e.g. mountPath /var/lib/postgresql/data with subPath pgdata, or PGDATA=/var/lib/postgresql/data/pgdata.',
        },
      ];
    }
    return [
      {
        id: 'target.pgdata-layout',
        status: 'PASSED',
        message:
          plan.pgdata === null
            ? 'The target’s data lies on the claim; where exactly is seen when its major is known.'
            : `The target’s data will lie in ${plan.pgdata} on claim ${database.claim.name}.`,
      },
    ];
  } catch (error) {
    if (!isFailure(error, 'Refused')) throw error;
    return [
      {
        id: 'target.patch',
        status: 'FAILED',
        message: `The API server refuses target.patch: ${error.message}.`,
        remedy:
          'It is a strategic merge patch of the workload: begin with spec.template.spec, name containers by name.',
      },
    ];
  }
}
