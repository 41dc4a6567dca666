/** docker-compose.yml as Compose reads it, and deploy/ as kustomize builds it: both by those programs' own code. */
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { globSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parseAllDocuments } from 'yaml';
import { kustomize, type Manifest } from '../support/deploy.ts';
import { build } from './binaries.ts';
import { run } from './command.ts';

const root = path.resolve(import.meta.dirname, '../..');
let program: string;
let folder: string;

beforeAll(async () => {
  // A minute the first time, then it lies in the cache.
  program = await build('manifests');
  folder = await mkdtemp(path.join(tmpdir(), 'pgleap-manifests-'));
}, 900_000);

afterAll(async () => {
  await rm(folder, { recursive: true, force: true });
});

describe('docker-compose.yml', () => {
  const compose = (file: string, env: NodeJS.ProcessEnv) => run(program, ['compose', file], { env });
  const file = path.join(root, 'docker-compose.yml');

  test('is a Compose file, and takes its tokens from the environment', async () => {
    const { services } = JSON.parse(await compose(file, { LINODE_TOKEN: 't0ken', KUBECONFIG: '/of/mine' }));
    expect(Object.keys(services).toSorted()).toEqual(['temporal', 'worker']);
    expect(services.worker.environment).toMatchObject({ LINODE_TOKEN: 't0ken', CLOUDFLARE_API_TOKEN: '' });
    expect(services.worker.volumes).toContainEqual(
      expect.objectContaining({ type: 'bind', source: '/of/mine', target: '/kubeconfig', read_only: true }),
    );
  });

  test('says which token is missing', async () => {
    await expect(compose(file, {})).rejects.toThrow(/LINODE_TOKEN.*a Linode API token/);
  });

  test('with a key that Compose does not know is refused', async () => {
    const wrong = path.join(folder, 'wrong.yml');
    await writeFile(wrong, (await readFile(file, 'utf8')).replace('depends_on:', 'depend_on:'));
    await expect(compose(wrong, { LINODE_TOKEN: 't0ken' })).rejects.toThrow(/depend_on/);
  });
});

describe('deploy/', () => {
  const folders = globSync('deploy/**/kustomization.yaml', { cwd: root }).map((file) => path.dirname(file));
  const built = async (at: string): Promise<Manifest[]> =>
    parseAllDocuments(await run(program, ['kustomize', at])).map((one): Manifest => one.toJS());
  const byName = (objects: Manifest[]) =>
    Object.fromEntries(objects.map((one) => [`${one.kind} ${one.metadata.namespace ?? ''}/${one.metadata.name}`, one]));

  test.each(folders)('%s is built, and as the tests apply it', async (at) => {
    const objects = await built(path.join(root, at));
    expect(objects.length).toBeGreaterThan(0);
    expect(byName(objects)).toEqual(byName(await kustomize(at)));
  });

  test('with a file that is missing is refused', async () => {
    await cp(path.join(root, 'deploy'), path.join(folder, 'deploy'), { recursive: true });
    await rm(path.join(folder, 'deploy/base/deployment.yaml'));
    await expect(built(path.join(folder, 'deploy/example'))).rejects.toThrow(/deployment\.yaml/);
  });
});
