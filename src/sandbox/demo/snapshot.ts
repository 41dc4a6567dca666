/** What the world is, asked from the world itself: the cluster's API, the provider's routes, and the server by psql. */
import { setTimeout as sleep } from 'node:timers/promises';
import type Cloudflare from 'cloudflare';
import type { ClusterFacts, RouteFact, ServiceFact } from '../../domain/facts.ts';
import { maybe, podOf, psql, type Access } from '../world/access.ts';

/** Whatever writes to these while the demo looks would change their digest; their rows are counted one by one instead. */
const LIVE_TABLES = ['site.public.visits', 'metricity.public.ledger'];

export interface Scene {
  access: Access;
  cluster: ClusterFacts;
  routes: RouteFact[];
  /** Null when the demo has no token: it then says nothing of routes. */
  cloudflare: Cloudflare | null;
}

export interface Snapshot {
  version: string;
  image: string;
  /** What the claim's volume is at the provider. */
  volume: string;
  databases: number;
  rows: number;
  /** A digest of the rows of each table that no service writes, by name. */
  tables: Record<string, string>;
  roles: string[];
  /** Replicas, or for a CronJob whether it is suspended, by kind, namespace and name. */
  services: Record<string, string>;
  routes: string[] | null;
}

export async function takeSnapshot(scene: Scene): Promise<Snapshot> {
  const { access, cluster } = scene;
  const { kind, namespace, name } = cluster.database.workload;
  const { superuser } = cluster.database;
  const pod = await podOf(access, namespace, name, kind);
  const { spec } = await access.core.readNamespacedPod({ namespace, name: pod.name });
  const ask = (database: string, sql: string) => psql(access, pod, superuser, database, sql, 600_000);

  const databases = lines(
    await ask('postgres', "SELECT datname FROM pg_database WHERE datallowconn AND datname !~ '^template' ORDER BY 1;"),
  );
  const tables: Record<string, string> = {};
  let rows = 0;
  for (const database of databases) {
    for (const line of lines(await ask(database, DIGESTS))) {
      const [table = '', count = '', digest = ''] = line.split('\t');
      rows += Number(count);
      const full = `${database}.${table}`;
      if (!LIVE_TABLES.includes(full)) tables[full] = `${count} ${digest}`;
    }
  }
  return {
    version: lines(await ask('postgres', 'SHOW server_version;'))[0] ?? '?',
    image: spec?.containers.find((one) => one.name === pod.container)?.image ?? '?',
    volume: await volumeOf(access, namespace, cluster.database.claim.name),
    databases: databases.length,
    rows,
    tables,
    roles: lines(await ask('postgres', ROLES)),
    services: await servicesOf(access, cluster.services),
    routes: await routesOf(scene),
  };
}

function lines(text: string): string[] {
  return text.split('\n').filter((line) => line !== '');
}

/** One line a table: name, rows, and a sum over its rows' hashes, which does not depend on their order. */
const DIGESTS = String.raw`
SELECT format(
  'SELECT %L, count(*), coalesce(sum((''x'' || substr(md5(t::text), 1, 16))::bit(64)::bigint::numeric), 0) FROM ONLY %I.%I t',
  replace(n.nspname || '.' || c.relname, E'\n', '⏎'), n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND c.relispopulated AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
ORDER BY n.nspname, c.relname
\pset fieldsep '\t'
\gexec
`;

/** Roles with their rights, and a hash of each password's hash: enough to see a difference, too little to use. */
const ROLES = `
SELECT concat_ws(' ', quote_ident(rolname), rolsuper, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolinherit,
  rolconnlimit, rolvaliduntil, md5(md5(rolpassword)))
FROM pg_authid WHERE rolname !~ '^pg_' ORDER BY 1;
`;

async function volumeOf(access: Access, namespace: string, claim: string): Promise<string> {
  const { spec } = await access.core.readNamespacedPersistentVolumeClaim({ namespace, name: claim });
  const volume = await access.core.readPersistentVolume({ name: spec?.volumeName ?? '' });
  return volume.spec?.csi?.volumeHandle ?? '?';
}

async function servicesOf(access: Access, services: ServiceFact[]): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for (const { kind, namespace, name } of services) {
    found[`${kind} ${namespace}/${name}`] = await serviceState(access, kind, namespace, name);
  }
  return found;
}

async function serviceState(
  access: Access,
  kind: ServiceFact['kind'],
  namespace: string,
  name: string,
): Promise<string> {
  if (kind === 'CronJob') {
    const job = await maybe(access.batch.readNamespacedCronJob({ namespace, name }));
    return job === undefined ? 'gone' : job.spec?.suspend === true ? 'suspended' : 'scheduled';
  }
  const read =
    kind === 'Deployment'
      ? access.apps.readNamespacedDeployment({ namespace, name })
      : access.apps.readNamespacedStatefulSet({ namespace, name });
  const workload = await maybe(read);
  return workload === undefined ? 'gone' : `${workload.status?.readyReplicas ?? 0} of ${workload.spec?.replicas ?? 1}`;
}

async function routesOf({ cloudflare, routes }: Scene): Promise<string[] | null> {
  if (cloudflare === null) return null;
  const found: string[] = [];
  for (const zone_id of new Set(routes.map(({ zone }) => zone))) {
    for await (const route of cloudflare.workers.routes.list({ zone_id })) {
      found.push(`${route.pattern} -> ${route.script ?? 'no Worker'} (${route.id})`);
    }
  }
  return found.sort();
}

export interface DowntimeWatch {
  /** Seconds from the first service seen below its count to all of them ready again; null when none was seen down. */
  stop(): Promise<number | null>;
}

/** Looks once a second at the services that have replicas and may go down. */
export function watchDowntime(scene: Scene): DowntimeWatch {
  const watched = scene.cluster.services.filter(({ readOnly, replicas }) => !readOnly && (replicas ?? 0) > 0);
  const ending = new AbortController();
  let down: number | undefined;
  let up: number | undefined;
  const look = async () => {
    const states = await servicesOf(scene.access, watched);
    const whole = watched.every(({ kind, namespace, name, replicas }) => {
      return states[`${kind} ${namespace}/${name}`] === `${replicas ?? 0} of ${replicas ?? 0}`;
    });
    const now = performance.now();
    if (!whole) {
      down ??= now;
      up = undefined;
    } else if (down !== undefined) {
      up ??= now;
    }
  };
  const done = (async () => {
    while (!ending.signal.aborted) {
      await look().catch(() => {});
      await sleep(1000, undefined, { signal: ending.signal }).catch(() => {});
    }
  })();
  return {
    async stop() {
      ending.abort();
      await done;
      return down === undefined || up === undefined ? null : Math.round((up - down) / 100) / 10;
    },
  };
}
