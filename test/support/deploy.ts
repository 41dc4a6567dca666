import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { parse, parseAllDocuments } from 'yaml';

const root = path.resolve(import.meta.dirname, '../..');

/** As much of a kustomization.yaml as deploy/ uses; any other key fails. */
interface Kustomization {
  apiVersion: string;
  kind: string;
  resources: string[];
  namespace?: string;
  images?: { name: string; newName: string; newTag: string }[];
}

export interface Manifest {
  apiVersion: string;
  kind: string;
  metadata: { name: string; namespace?: string };
}

/** The objects of a folder of deploy/, as `kubectl kustomize` gives them. */
export async function kustomize(folder: string): Promise<Manifest[]> {
  const text = await readFile(path.join(root, folder, 'kustomization.yaml'), 'utf8');
  const { apiVersion: _version, kind: _kind, resources, namespace, images = [], ...rest }: Kustomization = parse(text);
  if (Object.keys(rest).length > 0) throw new Error(`${folder}: ${Object.keys(rest).join(', ')} is not known here`);
  const objects = await Promise.all(
    resources.map(async (name) => {
      const at = path.join(folder, name);
      return name.endsWith('.yaml') ? await manifests(at) : await kustomize(at);
    }),
  );
  return objects.flat().map((object) => {
    const clusterWide = /^(ClusterRole|Namespace)/.test(object.kind);
    const moved =
      namespace === undefined || clusterWide ? object : { ...object, metadata: { ...object.metadata, namespace } };
    return images.reduce(withImage, moved);
  });
}

function withImage<T>(object: T, { name, newName, newTag }: { name: string; newName: string; newTag: string }): T {
  return JSON.parse(JSON.stringify(object).replaceAll(`"image":"${name}"`, `"image":"${newName}:${newTag}"`));
}

async function manifests(file: string): Promise<Manifest[]> {
  const documents = parseAllDocuments(await readFile(path.join(root, file), 'utf8'));
  return documents.map((one): Manifest => one.toJS());
}

/** What a user of the sandbox's demo applies: the example, with a folder for each of these namespaces. */
export async function rolesFor(database: string, services: string[]): Promise<Manifest[]> {
  const place = (objects: Manifest[], namespace: string) =>
    objects.map((object) => ({ ...object, metadata: { ...object.metadata, namespace } }));
  const own = ['Namespace', 'ServiceAccount', 'ClusterRole', 'ClusterRoleBinding'];
  const whole = (await kustomize('deploy/example')).filter(({ kind }) => own.includes(kind));
  const service = await kustomize('deploy/roles/services');
  return [
    ...whole,
    ...place(await kustomize('deploy/roles/database'), database),
    ...services.flatMap((namespace) => place(service, namespace)),
  ];
}
