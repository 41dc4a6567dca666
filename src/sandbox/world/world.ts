/** The example world: the manifests of examples/sandbox with what cannot lie in a file, passwords and bulk data. */
import { randomBytes } from 'node:crypto';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { KubernetesObject } from '@kubernetes/client-node';
import { parseAllDocuments, parseDocument } from 'yaml';
import { apply, eventually, podOf, psql, waitForDeployment, type Access } from './access.ts';

const SUPERUSER = 'shop';
export const ZONE_NAME = 'shop.test';
export const SITE_HOST = 'www.shop.test';

const EXAMPLES = join(import.meta.dirname, '..', '..', '..', 'examples', 'sandbox');
const SERVICES = ['site', 'metricity', 'pinnwand', 'grafana', 'blackbox'] as const;
/** All that the example's objects lie in, but for its volumes. */
export const NAMESPACES = ['databases', 'web', 'bots', 'monitoring'];
const NAMESPACE_OF: Record<(typeof SERVICES)[number], string> = {
  site: 'web',
  pinnwand: 'web',
  metricity: 'bots',
  grafana: 'monitoring',
  blackbox: 'databases',
};
const DATABASE_OF: Record<(typeof SERVICES)[number], string> = {
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
  /** Bulk data in MB, beside the few MB that there always are. */
  sizeMb: number;
}

async function manifests(name: string): Promise<string> {
  return readFile(join(EXAMPLES, name), 'utf8');
}

function objectsOf(text: string): KubernetesObject[] {
  return parseAllDocuments(text)
    .map((document): KubernetesObject | null => document.toJS())
    .filter((object) => object !== null);
}

/** The database with its data, then all that uses it; resolves when every service is ready. */
export async function buildWorld(access: Access, options: WorldOptions): Promise<void> {
  const passwords = Object.fromEntries(
    [...SERVICES, 'superuser', 'admin', 'legacy'].map((name) => [name, randomBytes(18).toString('hex')]),
  );
  await apply(access, objectsOf(await manifests('namespaces.yaml')));
  await apply(access, secrets(passwords));
  await apply(access, objectsOf(await manifests('volume.yaml')));
  await apply(access, objectsOf(await postgresManifest(options.from)));
  await seed(access, passwords, options.sizeMb);
  await apply(access, objectsOf(await manifests('services.yaml')));
  await apply(access, objectsOf(await manifests('backup.yaml')));
  for (const service of SERVICES) {
    if (service !== 'blackbox') await waitForDeployment(access, NAMESPACE_OF[service], service);
  }
}

async function postgresManifest(from: SourceMajor): Promise<string> {
  return (await manifests('postgres.yaml')).replace('image: postgres:16', `image: postgres:${from}`);
}

function secret(
  namespace: string,
  name: string,
  stringData: Record<string, string>,
): KubernetesObject & { stringData: Record<string, string> } {
  return { apiVersion: 'v1', kind: 'Secret', metadata: { namespace, name }, stringData };
}

function secrets(passwords: Record<string, string>): KubernetesObject[] {
  const host = 'postgres.databases.svc.cluster.local:5432';
  return [
    secret('databases', 'postgres-env', {
      POSTGRES_USER: SUPERUSER,
      POSTGRES_PASSWORD: passwords['superuser'] ?? '',
    }),
    ...SERVICES.map((service) =>
      secret(NAMESPACE_OF[service], `${service}-database`, {
        DATABASE_URL: `postgres://${service}:${passwords[service]}@${host}/${DATABASE_OF[service]}`,
      }),
    ),
  ];
}

async function seed(access: Access, passwords: Record<string, string>, sizeMb: number): Promise<void> {
  const pod = await podOf(access, 'databases', 'postgres');
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
 * sandbox's versions and address.
 * @returns path of the spec
 */
export async function writeSpec(folder: string, options: { from: SourceMajor; siteUrl: string }): Promise<string> {
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, 'volume.yaml'), await manifests('volume.yaml'));
  await writeFile(join(folder, 'postgres.yaml'), await postgresManifest(options.from));
  const spec = parseDocument(await manifests('upgrade.yaml'));
  spec.setIn(['maintenance', 'probes', 0, 'url'], `${options.siteUrl}/`);
  // Nobody waits for a week in front of a sandbox.
  spec.set('retention', '1s');
  const file = join(folder, 'upgrade.yaml');
  await writeFile(file, spec.toString({ lineWidth: 0 }));
  return file;
}
