import type { V1Container, V1PodSpec, V1Volume, V1VolumeMount } from '@kubernetes/client-node';
import { canonicalHash } from '../../domain/hash.ts';
import type { DatabaseFact, SourceFacts, World } from '../../domain/facts.ts';
import { isUnder } from '../../domain/pgdata.ts';
import type { Json, Resource } from './client.ts';
import { names, upgradeLabel } from './identity.ts';
import type { Workload } from './workloads.ts';

/*
 * Pod templates as pure functions: the target's lasting form, its fenced form, and the candidate made from it.
 */

export type WorkloadSpec = NonNullable<Workload['spec']>;
type PodSpec = Json<V1PodSpec>;
type Container = Json<V1Container>;

/** On the candidate: the major that its server told. */
export const majorAnnotation = 'pgleap.dev/major';

const initScripts = '/docker-entrypoint-initdb.d';
const work = '/pgleap';

const eraseScript = `
[ -d ${work}/jobs ] || exit 0
[ ! -d "$1" ] || find "$1" -mindepth 1 -delete || exit
rm -rf ${work}/jobs`;

/** Folder of the new volume that is /pgleap in the fenced target. */
export function workSubPath(world: World): string {
  return `pgleap-${world.upgradeId}`;
}

export function podSpecOf(spec: WorkloadSpec): PodSpec {
  return spec.template.spec ?? { containers: [] };
}

/** The same for the same template, whatever the order of its fields. */
export function templateHash({ template }: WorkloadSpec): string {
  return canonicalHash(template);
}

export function containerOf(spec: WorkloadSpec, name: string): Container | undefined {
  return podSpecOf(spec).containers.find((one) => one.name === name);
}

/** How the container mounts the claim; undefined when it does not. */
export function claimMount(
  spec: WorkloadSpec,
  container: string,
  claim: string,
): { volume: Json<V1Volume>; mount: Json<V1VolumeMount> } | undefined {
  const templates: { metadata?: { name?: string } }[] =
    'volumeClaimTemplates' in spec ? (spec.volumeClaimTemplates ?? []) : [];
  const volumes: Json<V1Volume>[] = [
    ...(podSpecOf(spec).volumes ?? []),
    // A StatefulSet's own claims are named <template>-<set>-<ordinal>.
    ...templates
      .filter((one) => claim.startsWith(`${one.metadata?.name}-`))
      .map((one) => ({ name: one.metadata?.name ?? '', persistentVolumeClaim: { claimName: claim } })),
  ];
  for (const volume of volumes.filter((one) => one.persistentVolumeClaim?.claimName === claim)) {
    const mount = containerOf(spec, container)?.volumeMounts?.find((one) => one.name === volume.name);
    if (mount !== undefined) return { volume, mount };
  }
  return undefined;
}

/** Sets image and, where the layout asks for it, PGDATA. `spec` has the operator's patch in it already. */
export function lastingSpec(
  spec: WorkloadSpec,
  change: { container: string; image: string; pgdata: string | null },
): WorkloadSpec {
  return changeContainer(spec, change.container, (container) => ({
    ...container,
    image: change.image,
    ...(change.pgdata === null ? {} : { env: withEnv(container.env, 'PGDATA', change.pgdata) }),
  }));
}

/** What becomes of a StatefulSet's claims when its count falls. */
export function whenScaledOf(spec: WorkloadSpec): 'Retain' | 'Delete' {
  const policy = 'volumeClaimTemplates' in spec ? spec.persistentVolumeClaimRetentionPolicy : undefined;
  return policy?.whenScaled === 'Delete' ? 'Delete' : 'Retain';
}

/** The spec, with claims that outlive a count of 0. */
export function keepingClaims(spec: WorkloadSpec): WorkloadSpec {
  if (!('volumeClaimTemplates' in spec) || whenScaledOf(spec) === 'Retain') return spec;
  return {
    ...spec,
    persistentVolumeClaimRetentionPolicy: { ...spec.persistentVolumeClaimRetentionPolicy, whenScaled: 'Retain' },
  };
}

/**
 * The fenced form: only the database's container, no probe that would kill a server without TCP, no scripts that would fill
 * the empty server, /pgleap on the new volume, and no TCP from the first second.
 */
export function fencedSpec(
  spec: WorkloadSpec,
  world: World,
  database: DatabaseFact,
  source: SourceFacts,
  major: number,
): WorkloadSpec {
  const pod = podSpecOf(spec);
  const only = changeContainer(spec, database.pod.container, (container) => {
    const { livenessProbe: _l, readinessProbe: _r, startupProbe: _s, lifecycle: _h, ...rest } = container;
    return {
      ...rest,
      args: [...serverArgs(container), ...settings(source, major)],
      env: withoutEnv(container.env, 'POSTGRES_INITDB_WALDIR'),
      volumeMounts: [
        ...(container.volumeMounts ?? []).filter((mount) => !isUnder(mount.mountPath, initScripts)),
        { name: database.volumeName, mountPath: work, subPath: workSubPath(world) },
        { name: 'pgleap-no-init-scripts', mountPath: initScripts },
      ],
    };
  });
  return changePod(only, {
    ...podSpecOf(only),
    containers: podSpecOf(only).containers.filter((one) => one.name === database.pod.container),
    initContainers: (pod.initContainers ?? []).filter((one) => one.restartPolicy !== 'Always'),
    volumes: [...(pod.volumes ?? []), { name: 'pgleap-no-init-scripts', emptyDir: {} }],
  });
}

/**
 * The candidate: image, env, arguments, resources, security context, ConfigMaps and Secrets of the target's container, and
 * nothing else of its pod. Restarted when it crashes, because its scratch volume stays and the jobs there are found again.
 */
export function candidatePod(
  spec: WorkloadSpec,
  world: World,
  database: DatabaseFact,
  source: SourceFacts,
  options: { major: number | null; generation: number | string; nodeName: string | null },
): Partial<Resource<'Pod'>> {
  const pod = podSpecOf(spec);
  const container = containerOf(spec, database.pod.container);
  if (container === undefined) throw new RangeError(`the template has no container ${database.pod.container}`);
  // emptyDir too: servers with parallel workers need their /dev/shm.
  const volumes = (pod.volumes ?? []).filter(
    ({ configMap, secret, emptyDir, projected }) =>
      configMap !== undefined ||
      secret !== undefined ||
      emptyDir !== undefined ||
      (projected?.sources ?? []).some((one) => one.configMap !== undefined || one.secret !== undefined),
  );
  const kept = new Set(volumes.map(({ name }) => name));
  const runAs = container.securityContext?.runAsUser ?? pod.securityContext?.runAsUser;
  const group = container.securityContext?.runAsGroup ?? pod.securityContext?.runAsGroup ?? runAs;
  return {
    metadata: {
      namespace: world.namespace,
      name: names.candidate(world),
      labels: {
        [upgradeLabel]: world.upgradeId,
        'app.kubernetes.io/managed-by': 'pgleap',
        'pgleap.dev/role': 'candidate',
      },
      annotations: { 'pgleap.dev/generation': String(options.generation) },
    },
    spec: {
      restartPolicy: 'Always',
      automountServiceAccountToken: false,
      enableServiceLinks: false,
      terminationGracePeriodSeconds: 10,
      ...pick(pod, [
        'imagePullSecrets',
        'serviceAccountName',
        'nodeSelector',
        'tolerations',
        'runtimeClassName',
        'priorityClassName',
      ]),
      // The volume's root belongs to root: a server of another user writes there only as its group.
      ...(pod.securityContext === undefined && runAs === undefined
        ? {}
        : {
            securityContext: {
              ...pod.securityContext,
              ...(pod.securityContext?.fsGroup === undefined && group !== undefined ? { fsGroup: group } : {}),
            },
          }),
      // On the database's node if it has room, so that the image is there when the target needs it.
      ...(options.nodeName === null ? {} : { affinity: preferNode(options.nodeName) }),
      containers: [
        {
          ...pick(container, ['imagePullPolicy', 'command', 'envFrom', 'resources', 'securityContext', 'workingDir']),
          name: container.name,
          ...(container.image === undefined ? {} : { image: container.image }),
          args: [...serverArgs(container), ...settings(source, options.major)],
          env: withEnv(
            withoutEnv(container.env, 'POSTGRES_INITDB_WALDIR'),
            'PGDATA',
            `${work}/pgdata-${options.generation}`,
          ),
          volumeMounts: [
            ...(container.volumeMounts ?? []).filter(
              (mount) =>
                kept.has(mount.name) && !isUnder(mount.mountPath, initScripts) && !isUnder(work, mount.mountPath),
            ),
            { name: 'pgleap-scratch', mountPath: work },
            { name: 'pgleap-no-init-scripts', mountPath: initScripts },
          ],
        },
      ],
      volumes: [
        ...volumes,
        { name: 'pgleap-scratch', persistentVolumeClaim: { claimName: names.scratch(world) } },
        { name: 'pgleap-no-init-scripts', emptyDir: {} },
      ],
    },
  };
}

/**
 * Empties PGDATA on the new claim while no server runs, and forgets the jobs that ran beside it: the fenced template's own
 * image, user and mounts of that claim. It may come late, by a worker that was frozen while another went on and opened the
 * target. So it goes by what lies on the volume: without jobs nothing was imported, and a target that is opened has none any
 * more. They go last, for one that was killed on its way is run again.
 */
export function eraserPod(
  spec: WorkloadSpec,
  world: World,
  database: DatabaseFact,
  pgdata: string,
): Partial<Resource<'Pod'>> {
  const pod = podSpecOf(spec);
  const container = containerOf(spec, database.pod.container);
  const claim = claimMount(spec, database.pod.container, database.claim.name);
  if (container === undefined || claim === undefined) {
    throw new RangeError(`the template does not mount ${database.claim.name} in ${database.pod.container}`);
  }
  return {
    metadata: {
      namespace: world.namespace,
      name: names.eraser(world),
      labels: {
        [upgradeLabel]: world.upgradeId,
        'app.kubernetes.io/managed-by': 'pgleap',
        'pgleap.dev/role': 'eraser',
      },
    },
    spec: {
      restartPolicy: 'Never',
      automountServiceAccountToken: false,
      ...pick(pod, ['imagePullSecrets', 'serviceAccountName', 'nodeSelector', 'tolerations', 'securityContext']),
      containers: [
        {
          ...pick(container, ['imagePullPolicy', 'securityContext']),
          name: 'eraser',
          ...(container.image === undefined ? {} : { image: container.image }),
          command: ['sh', '-c', eraseScript, 'sh', pgdata],
          volumeMounts: (container.volumeMounts ?? []).filter((mount) => mount.name === claim.volume.name),
        },
      ],
      volumes: [claim.volume],
    },
  };
}

/** The container's own arguments: an image's default command is lost as soon as there are any, so it is named. */
function serverArgs(container: Container): string[] {
  if ((container.args ?? []).length > 0) return container.args ?? [];
  return container.command === undefined ? ['postgres'] : [];
}

/** No TCP, no work of its own, and a server that may be thrown away as long as it is being filled. */
function settings(source: SourceFacts, major: number | null): string[] {
  const values: Record<string, string> = {
    listen_addresses: '',
    // Certificates that lie in PGDATA are not there yet, and without TCP nobody asks for them.
    ssl: 'off',
    archive_mode: 'off',
    logging_collector: 'off',
    autovacuum: 'off',
    jit: 'off',
    fsync: 'off',
    synchronous_commit: 'off',
    full_page_writes: 'off',
    wal_level: 'minimal',
    max_wal_senders: '0',
    max_wal_size: '4GB',
    checkpoint_timeout: '30min',
    maintenance_work_mem: '256MB',
    // A dump of the schema locks every table, its indexes and sequences in one transaction.
    max_locks_per_transaction: String(Math.max(64, Math.ceil(source.tables / 20))),
    ...(major !== null && major >= 17 ? { summarize_wal: 'off' } : {}),
    ...(source.preload.length === 0 ? {} : { shared_preload_libraries: source.preload.map(quoteLibrary).join(',') }),
    // Its extension can only be restored while it is preloaded; it must not start a job.
    ...(source.preload.includes('pg_cron') ? { 'cron.launch_active_jobs': 'off', 'cron.max_running_jobs': '0' } : {}),
  };
  return Object.entries(values).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
}

function quoteLibrary(name: string): string {
  return /^[\w$./-]+$/.test(name) ? name : `"${name.replaceAll('"', '""')}"`;
}

function preferNode(nodeName: string): NonNullable<PodSpec['affinity']> {
  return {
    nodeAffinity: {
      preferredDuringSchedulingIgnoredDuringExecution: [
        {
          weight: 100,
          preference: { matchFields: [{ key: 'metadata.name', operator: 'In', values: [nodeName] }] },
        },
      ],
    },
  };
}

function withEnv(env: Container['env'], name: string, value: string): NonNullable<Container['env']> {
  return [...withoutEnv(env, name), { name, value }];
}

function withoutEnv(env: Container['env'], name: string): NonNullable<Container['env']> {
  return (env ?? []).filter((one) => one.name !== name);
}

function changePod(spec: WorkloadSpec, pod: PodSpec): WorkloadSpec {
  return { ...spec, template: { ...spec.template, spec: pod } };
}

function changeContainer(spec: WorkloadSpec, name: string, change: (container: Container) => Container): WorkloadSpec {
  const pod = podSpecOf(spec);
  return changePod(spec, { ...pod, containers: pod.containers.map((one) => (one.name === name ? change(one) : one)) });
}

function pick<T extends object, K extends keyof T>(object: T, keys: K[]): Pick<T, K> {
  return Object.fromEntries(keys.filter((key) => object[key] !== undefined).map((key) => [key, object[key]])) as Pick<
    T,
    K
  >;
}
