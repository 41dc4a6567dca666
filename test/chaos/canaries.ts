/** Secrets in every place of a world where one can be, and every place where one may come out. */
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { KubernetesObject } from '@kubernetes/client-node';
import { KubernetesObjectApi, PatchStrategy } from '@kubernetes/client-node';
import { execInPod } from '../../src/activities/kubernetes/exec.ts';
import type { PodRef } from '../../src/domain/facts.ts';
import { podOf, psql, waitForWorkload, type Access } from '../../src/sandbox/world/access.ts';

/** What must not come out, by where it was planted. */
export type Canaries = Map<string, string>;

/** Where one was seen that may not be there. */
export interface Leak {
  canary: string;
  place: string;
}

const kinds = [
  ['v1', 'Pod'],
  ['v1', 'ConfigMap'],
  ['v1', 'Event'],
  ['v1', 'PersistentVolume'],
  ['v1', 'PersistentVolumeClaim'],
  ['v1', 'Service'],
  ['v1', 'Namespace'],
  ['apps/v1', 'Deployment'],
  ['apps/v1', 'StatefulSet'],
  ['apps/v1', 'ReplicaSet'],
  ['batch/v1', 'CronJob'],
  ['batch/v1', 'Job'],
  ['coordination.k8s.io/v1', 'Lease'],
] as const;

/** A text as it is, and as base64 shows it wherever in it the text begins. */
function formsOf(secret: string): string[] {
  const shifted = [0, 1, 2].map((offset) => {
    const text = Buffer.from(`${'x'.repeat(offset)}${secret}`)
      .toString('base64')
      .replace(/=+$/, '');
    // What the neighbours decide is left out.
    return text.slice(offset === 0 ? 0 : 4, -4);
  });
  return [secret, ...shifted];
}

/** Looks for all of them in a text. */
export function seek(canaries: Canaries, place: string, text: string): Leak[] {
  return [...canaries]
    .filter(([, secret]) => formsOf(secret).some((form) => text.includes(form)))
    .map(([canary]) => ({ canary, place }));
}

/** Every value of every Secret, and the password alone where it is a URL. */
export async function secretsOf(access: Access): Promise<Canaries> {
  const { items } = await access.core.listSecretForAllNamespaces();
  const found: Canaries = new Map();
  for (const { metadata, data } of items) {
    for (const [key, value] of Object.entries(data ?? {})) {
      const text = Buffer.from(value, 'base64').toString('utf8');
      const place = `Secret ${metadata?.namespace}/${metadata?.name} ${key}`;
      if (URL.canParse(text)) found.set(place, new URL(text).password);
      else if (/PASSWORD/.test(key)) found.set(place, text);
    }
  }
  return found;
}

/**
 * What the database holds, and so the dump of it: that lies in the artifact folder, and on the scratch and the new volume, for
 * its owner alone. A job's words there may name what could not be imported.
 */
const inDump = /^database: /;

/**
 * Plants what users leave lying about: secrets in the environment and in annotations of workloads, in roles, settings,
 * servers, functions, comments and rows of the database; and lets its server log each statement.
 */
export async function plant(access: Access, canary: (where: string) => string): Promise<void> {
  const planted = (what: string) => canary(`database: ${what}`);
  const objects = KubernetesObjectApi.makeApiClient(access.kubeConfig);
  for (const [namespace, name] of [
    ['databases', 'postgres'],
    ['bots', 'metricity'],
  ] as const) {
    const old = `postgres://old:${canary(`environment of ${name}`)}@db/x`;
    await objects.patch(
      {
        apiVersion: 'apps/v1',
        kind: 'Deployment',
        metadata: {
          namespace,
          name,
          annotations: {
            'kubectl.kubernetes.io/last-applied-configuration': JSON.stringify({ env: canary(`last applied ${name}`) }),
          },
        },
        spec: { template: { spec: { containers: [{ name, env: [{ name: 'LEGACY_URL', value: old }] }] } } },
      } as KubernetesObject,
      undefined,
      undefined,
      undefined,
      undefined,
      PatchStrategy.StrategicMergePatch,
    );
    await waitForWorkload(access, namespace, name);
  }
  const pod = await podOf(access, 'databases', 'postgres');
  const sql = `
    CREATE ROLE canary LOGIN PASSWORD '${planted('password of a role')}';
    ALTER ROLE canary SET app.api_token = '${planted('setting of a role')}';
    ALTER DATABASE site SET app.api_key = '${planted('setting of a database')}';
    CREATE TABLE public.canary (said text PRIMARY KEY);
    INSERT INTO public.canary VALUES ('${planted('a row')}');
    CREATE FUNCTION public.canary() RETURNS text LANGUAGE sql AS $$ SELECT '${planted('a function')}' $$;
    COMMENT ON FUNCTION public.canary() IS 'password=${planted('a comment')}';
    CREATE FOREIGN DATA WRAPPER canary;
    CREATE SERVER canary FOREIGN DATA WRAPPER canary OPTIONS (host 'db', password '${planted('a foreign server')}');
    CREATE USER MAPPING FOR canary SERVER canary OPTIONS (password '${planted('a user mapping')}');
    ALTER TABLE public.canary ADD CHECK (said <> '${planted('a constraint')}');
    ALTER DATABASE site SET log_statement = 'all';`;
  await psql(access, pod, 'shop', 'site', sql);
}

/** Plants what no empty server takes: statements with secrets in them, and a row, that fail in the trial. */
export async function plantFailing(access: Access, canary: (where: string) => string): Promise<void> {
  const pod = await podOf(access, 'databases', 'postgres');
  const planted = (what: string) => canary(`database: ${what}`);
  // A dump is imported with an empty search_path, where the table is not found.
  const looks = 'RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM FROM allowed; RETURN true; END $$';
  const sql = `
    CREATE TABLE public.allowed ();
    CREATE FUNCTION public.fails(text) ${looks};
    CREATE FUNCTION public.fails(text[], oid) ${looks};
    CREATE TABLE public.failing (said text CHECK (public.fails(said)));
    INSERT INTO public.failing VALUES ('${planted('a row that fails')}');
    CREATE FOREIGN DATA WRAPPER failing VALIDATOR public.fails;
    CREATE SERVER failing FOREIGN DATA WRAPPER failing OPTIONS (password '${planted('a server that fails')}');`;
  await psql(access, pod, 'shop', 'site', sql);
}

/** What a server keeps of each password: whoever has it may try passwords on it, and with its keys log in as that user. */
export async function verifiersOf(access: Access): Promise<Canaries> {
  const pod = await podOf(access, 'databases', 'postgres');
  const sql = 'SELECT rolname, rolpassword FROM pg_authid WHERE rolpassword IS NOT NULL';
  const found: Canaries = new Map();
  for (const line of (await psql(access, pod, 'shop', 'site', sql)).trim().split('\n')) {
    const [role = '', verifier = ''] = line.split('|');
    const [, stored, server] = /^SCRAM-SHA-256\$.*\$([^:=]+)=*:([^=]+)=*$/.exec(verifier) ?? [];
    // Of the older kind the whole is what a login needs.
    if (stored === undefined || server === undefined) found.set(`database: verifier of ${role}`, verifier);
    else found.set(`database: stored key of ${role}`, stored).set(`database: server key of ${role}`, server);
  }
  return found;
}

/** Objects that users made hold what users put into them, and so do the pods that run them. */
function theirs({ kind, metadata }: KubernetesObject): boolean {
  return /^(Deployment|ReplicaSet|Pod)$/.test(kind ?? '') && /^(databases|bots)$/.test(metadata?.namespace ?? '');
}

/** Every object of the cluster but Secrets; of what holds a planted environment, all but that. */
export async function inObjects(access: Access, canaries: Canaries): Promise<Leak[]> {
  const client = KubernetesObjectApi.makeApiClient(access.kubeConfig);
  const leaks: Leak[] = [];
  for (const [apiVersion, kind] of kinds) {
    const { items } = await client.list(apiVersion, kind);
    for (const item of items) {
      const object: KubernetesObject = { ...item, kind };
      const sought = theirs(object) ? without(canaries, /^(environment|last applied)/) : canaries;
      leaks.push(
        ...seek(sought, `${kind} ${item.metadata?.namespace ?? ''}/${item.metadata?.name}`, JSON.stringify(item)),
      );
    }
  }
  return leaks;
}

export function without(canaries: Canaries, places: RegExp): Canaries {
  return new Map([...canaries].filter(([place]) => !places.test(place)));
}

/** Every file below a folder, with its mode; none when the folder is not there. */
export async function filesOf(folder: string): Promise<{ file: string; mode: number; text: string }[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch(() => []);
  const files = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
  const read = async (file: string) => ({
    file,
    mode: (await stat(file)).mode & 0o777,
    text: await readFile(file, 'latin1'),
  });
  const settled = await Promise.allSettled(files.map(read));
  return settled.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []));
}

/** What lies in a pod's folders for temporary files and where pgleap works; a file may go while it is looked at. */
export async function inPod(access: Access, pod: PodRef, canaries: Canaries): Promise<Leak[]> {
  const found = async (find: string) => {
    const { stdout } = await execInPod(access.kubeConfig, pod, ['sh', '-c', `${find}; echo looked`]);
    if (!stdout.toString().endsWith('looked\n')) throw new Error(`nobody looked into ${pod.name}`);
    return stdout.toString();
  };
  const print = '-size -1024k -print -exec cat {} +';
  const work = '[ ! -d /pgleap ] || find /pgleap -path "/pgleap/pgdata-*" -prune -o -type f';
  // Dumps hold the data; see inDump for what may be beside them. All that a job leaves is for its own user.
  const words = '-path "/pgleap/jobs/*/err"';
  const open = await found(`${work} -perm /077 -print`);
  if (open !== 'looked\n') throw new Error(`in ${pod.name} others may read ${open}`);
  return [
    ...seek(canaries, `/tmp of ${pod.name}`, await found(`find /tmp /var/tmp /dev/shm -type f ${print}`)),
    ...seek(canaries, `/pgleap of ${pod.name}`, await found(`${work} ! -name "*.sql.*" ! ${words} ${print}`)),
    ...seek(without(canaries, inDump), `words of jobs in ${pod.name}`, await found(`${work} ${words} ${print}`)),
  ];
}

/** Reads the logs of all containers in a namespace while they are there, until stopped. */
export function watchLogs({ core }: Access, namespace: string): { stop(): Promise<Map<string, string>> } {
  const logs = new Map<string, string>();
  const over = new AbortController();
  const look = async () => {
    const { items } = await core.listNamespacedPod({ namespace });
    for (const { metadata, spec } of items) {
      const name = metadata?.name ?? '';
      for (const { name: container } of spec?.containers ?? []) {
        // There is none yet, or not any more.
        const text = await core.readNamespacedPodLog({ namespace, name, container }).catch(() => '');
        const at = `${name} ${container}`;
        if (text.length > (logs.get(at)?.length ?? 0)) logs.set(at, text);
      }
    }
  };
  const watching = (async () => {
    while (!over.signal.aborted) {
      await look();
      await sleep(1000, undefined, { signal: over.signal }).catch(() => {});
    }
  })();
  return {
    async stop() {
      over.abort();
      await watching;
      await look();
      return logs;
    },
  };
}

/** Looks at what every process of the machine was started with, until stopped. Containers' processes are among them. */
export function watchProcesses(canaries: Canaries): { stop(): Promise<Leak[]> } {
  const leaks = new Map<string, Leak>();
  const over = new AbortController();
  const known = new Set<string>();
  const watching = (async () => {
    while (!over.signal.aborted) {
      const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
      for (const pid of pids) {
        // A process's command line may change once, when it execs: looked at until it has been seen twice.
        if (known.has(`${pid} again`)) continue;
        const text = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
        known.add(known.has(pid) ? `${pid} again` : pid);
        const [program = ''] = text.split('\0');
        for (const leak of seek(canaries, `process ${program}`, text)) leaks.set(JSON.stringify(leak), leak);
      }
      for (const pid of known) if (!pids.includes(pid.split(' ')[0] ?? '')) known.delete(pid);
      await new Promise((resolve) => {
        setTimeout(resolve, 20);
      });
    }
  })();
  return {
    async stop() {
      over.abort();
      await watching;
      return [...leaks.values()];
    },
  };
}

/** All texts and bytes in a message of Temporal's, wherever they are. */
export function textsIn(value: unknown): string {
  if (typeof value === 'string') return value;
  if (value instanceof Uint8Array) return Buffer.from(value).toString('utf8');
  if (Array.isArray(value)) return value.map(textsIn).join('\n');
  if (typeof value === 'object' && value !== null) return Object.values(value).map(textsIn).join('\n');
  return '';
}
