/** Secrets in every place of a world where one can be, and every place where one may come out. */
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
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
 * Plants what users leave lying about: secrets in the environment and in annotations of workloads, in roles, settings,
 * servers, functions, comments and rows of the database.
 */
export async function plant(access: Access, canary: (where: string) => string): Promise<void> {
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
    CREATE ROLE canary LOGIN PASSWORD '${canary('password of a role')}';
    ALTER ROLE canary SET app.api_token = '${canary('setting of a role')}';
    ALTER DATABASE site SET app.api_key = '${canary('setting of a database')}';
    CREATE TABLE public.canary (said text PRIMARY KEY);
    INSERT INTO public.canary VALUES ('${canary('a row')}');
    CREATE FUNCTION public.canary() RETURNS text LANGUAGE sql AS $$ SELECT '${canary('a function')}' $$;
    COMMENT ON FUNCTION public.canary() IS 'password=${canary('a comment')}';
    CREATE FOREIGN DATA WRAPPER canary;
    CREATE SERVER canary FOREIGN DATA WRAPPER canary OPTIONS (host 'db', password '${canary('a foreign server')}');
    CREATE USER MAPPING FOR canary SERVER canary OPTIONS (password '${canary('a user mapping')}');
    ALTER TABLE public.canary ADD CHECK (said <> '${canary('a constraint')}');`;
  await psql(access, pod, 'shop', 'site', sql);
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

/** What lies in a pod's folders for temporary files; a file may go while it is looked at. */
export async function tempOf(access: Access, pod: PodRef): Promise<string> {
  const find = 'find /tmp /var/tmp /dev/shm -type f -size -1024k -print -exec cat {} +; echo looked';
  const { stdout } = await execInPod(access.kubeConfig, pod, ['sh', '-c', find]);
  const found = stdout.toString();
  if (!found.endsWith('looked\n')) throw new Error(`nobody looked into ${pod.name}`);
  return found;
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
