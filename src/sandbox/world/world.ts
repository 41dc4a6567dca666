/** An example world: the manifests of a folder of examples with what cannot lie in a file, passwords and bulk data. */
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { KubernetesObject, V1CronJob, V1Deployment, V1PodTemplateSpec } from '@kubernetes/client-node';
import { parse, parseAllDocuments, parseDocument } from 'yaml';
import type { PodRef, WorkloadKind } from '../../domain/facts.ts';
import { apply, eventually, podOf, psql, waitForWorkload, type Access } from './access.ts';

const SUPERUSER = 'shop';
export const ZONE_NAME = 'shop.test';
export const SITE_HOST = 'www.shop.test';

const EXAMPLES = join(import.meta.dirname, '..', '..', '..', 'examples');
/** Label of every namespace that the examples make, and nobody else. */
export const EXAMPLE = { 'pgleap.dev/example': 'shop' };

/** Logins that the data has, with the database that each uses. */
const DATABASE_OF: Record<string, string> = {
  site: 'site',
  pinnwand: 'pinnwand',
  metricity: 'metricity',
  grafana: 'metricity',
  blackbox: 'site',
};

/** Bytes that one generated row takes with its index, measured. */
const MESSAGE_BYTES = 330;
const PASTE_BYTES = 7_600;

/** Majors that there are images of to begin with. */
export const SOURCE_MAJORS = [15, 16, 17] as const;
export type SourceMajor = (typeof SOURCE_MAJORS)[number];

export interface WorldOptions {
  from: SourceMajor;
  /** A folder of examples; what it lacks is as in `sandbox`. */
  topology: string;
  /** Bulk data in MB, beside the few MB that there always are. */
  sizeMb: number;
}

function hasOwn(topology: string, name: string): boolean {
  return existsSync(join(EXAMPLES, topology, name));
}

async function manifests(topology: string, name: string): Promise<string> {
  return readFile(join(EXAMPLES, hasOwn(topology, name) ? topology : 'sandbox', name), 'utf8');
}

export function isTopology(name: string): boolean {
  return /^[a-z-]+$/.test(name) && hasOwn(name, 'upgrade.yaml');
}

function objectsOf(text: string): KubernetesObject[] {
  return parseAllDocuments(text)
    .map((document): KubernetesObject | null => document.toJS())
    .filter((object) => object !== null);
}

/** The database that the topology's spec names, with the manifests beside that spec, in their order. */
async function readDatabase({ topology, from }: { topology: string; from: SourceMajor }) {
  const text = await manifests(topology, 'upgrade.yaml');
  const spec: { database: { namespace: string; kind?: WorkloadKind; manifests: string[] } } = parse(text);
  const { namespace, kind = 'Deployment' } = spec.database;
  const files: { name: string; text: string }[] = [];
  for (const name of spec.database.manifests) {
    const file = await manifests(topology, name);
    files.push({ name, text: file.replace('image: postgres:16', `image: postgres:${from}`) });
  }
  return { namespace, kind, files };
}

/** The namespaces of a topology. */
export async function namespacesOf(topology: string): Promise<string[]> {
  const objects = objectsOf(await manifests(topology, 'namespaces.yaml'));
  return objects.map(({ metadata }) => metadata?.name ?? '');
}

/** The database with its data, then all that uses it; resolves when every service is ready. */
export async function buildWorld(access: Access, options: WorldOptions): Promise<void> {
  const { topology } = options;
  const passwords = Object.fromEntries(
    [...Object.keys(DATABASE_OF), 'superuser', 'admin', 'legacy'].map((name) => [
      name,
      randomBytes(18).toString('hex'),
    ]),
  );
  const { namespace, kind, files } = await readDatabase(options);
  const services = objectsOf(await manifests(topology, 'services.yaml'));
  if (hasOwn(topology, 'more-services.yaml')) {
    services.push(...objectsOf(await manifests(topology, 'more-services.yaml')));
  }
  const backup = objectsOf(await manifests(topology, 'backup.yaml'));
  await apply(access, objectsOf(await manifests(topology, 'namespaces.yaml')));
  await apply(access, [
    secret(namespace, 'postgres-env', {
      POSTGRES_USER: SUPERUSER,
      POSTGRES_PASSWORD: passwords['superuser'] ?? '',
    }),
    ...secretsOf([...services, ...backup], `postgres.${namespace}.svc.cluster.local:5432`, passwords),
  ]);
  for (const { text } of files) await apply(access, objectsOf(text));
  await seed(access, await podOf(access, namespace, 'postgres', kind), passwords, options.sizeMb);
  await apply(access, services);
  await apply(access, backup);
  for (const { kind: is, metadata } of services) {
    if (is !== 'Deployment' && is !== 'StatefulSet') continue;
    await waitForWorkload(access, metadata?.namespace ?? '', metadata?.name ?? '', is);
  }
}

function secret(
  namespace: string,
  name: string,
  stringData: Record<string, string>,
): KubernetesObject & { stringData: Record<string, string> } {
  return { apiVersion: 'v1', kind: 'Secret', metadata: { namespace, name }, stringData };
}

/** Each Secret `<login>-database` that a workload takes its environment from. */
function secretsOf(objects: KubernetesObject[], host: string, passwords: Record<string, string>): KubernetesObject[] {
  const secrets = new Map<string, KubernetesObject>();
  for (const object of objects) {
    const namespace = object.metadata?.namespace ?? '';
    for (const name of secretsIn(object)) {
      const login = name.replace(/-database$/, '');
      const url = `postgres://${login}:${passwords[login]}@${host}/${DATABASE_OF[login]}`;
      secrets.set(`${namespace}/${name}`, secret(namespace, name, { DATABASE_URL: url }));
    }
  }
  return [...secrets.values()];
}

function secretsIn(object: KubernetesObject): string[] {
  const { spec } = object as V1Deployment | V1CronJob;
  if (spec === undefined) return [];
  const template: V1PodTemplateSpec | undefined =
    'jobTemplate' in spec ? spec.jobTemplate.spec?.template : 'template' in spec ? spec.template : undefined;
  const sources = template?.spec?.containers.flatMap(({ envFrom }) => envFrom ?? []) ?? [];
  return sources.flatMap(({ secretRef }) => secretRef?.name ?? []);
}

async function seed(access: Access, pod: PodRef, passwords: Record<string, string>, sizeMb: number): Promise<void> {
  await eventually('PostgreSQL, initialised', 60, async () => {
    // While the image initialises, only the socket answers; that server is not the one to fill.
    const answer = await psql(access, pod, SUPERUSER, 'postgres', 'SHOW listen_addresses;\n');
    return answer.trim() === '' ? undefined : answer;
  });
  const bytes = sizeMb * 1024 * 1024;
  const variables = {
    ...Object.fromEntries(Object.entries(passwords).map(([name, value]) => [`${name}_password`, value])),
    message_rows: String(1000 + Math.round((bytes * 0.75) / MESSAGE_BYTES)),
    paste_rows: String(20 + Math.round((bytes * 0.25) / PASTE_BYTES)),
  };
  const settings = Object.entries(variables).map(([name, value]) => `\\set ${name} ${value}\n`);
  const sql = await readFile(join(import.meta.dirname, 'seed.sql'), 'utf8');
  await psql(access, pod, SUPERUSER, 'postgres', settings.join('') + sql, 600_000);
}

/**
 * Writes the example's spec and the manifests that it names to `folder`, as an operator would have them, with this
 * world's versions and address.
 * @returns path of the spec
 */
export async function writeSpec(
  folder: string,
  options: { topology: string; from: SourceMajor; siteUrl: string },
): Promise<string> {
  await mkdir(folder, { recursive: true });
  for (const { name, text } of (await readDatabase(options)).files) await writeFile(join(folder, name), text);
  const spec = parseDocument(await manifests(options.topology, 'upgrade.yaml'));
  spec.setIn(['maintenance', 'probes', 0, 'url'], `${options.siteUrl}/`);
  // Nobody waits for a week in front of a sandbox.
  spec.set('retention', '1s');
  const file = join(folder, 'upgrade.yaml');
  await writeFile(file, spec.toString({ lineWidth: 0 }));
  return file;
}
