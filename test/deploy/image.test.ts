/** The image, built from the Dockerfile without an engine, and what deploy/ and docker-compose.yml make of it. */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { access, chmod, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import type { V1Deployment } from '@kubernetes/client-node';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { parse } from 'yaml';
import { kustomize } from '../support/deploy.ts';
import { buildImage } from '../support/image.ts';

const run = promisify(execFile);
const project = path.resolve(import.meta.dirname, '../..');
let folder: string;
let image: Awaited<ReturnType<typeof buildImage>>;

beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'pgleap-image-'));
  // The image's user must reach it.
  await chmod(folder, 0o755);
  image = await buildImage(folder);
}, 600_000);

afterAll(() => rm(folder, { recursive: true, force: true }));

const inImage = (name: string) => path.join(image.root, name);

/** Runs the image's entrypoint with other arguments, as the image's user where that is possible. */
async function started(args: string[], env: Record<string, string> = {}): Promise<{ code: number; output: string }> {
  const [uid = '', gid = ''] = image.config.User.split(':');
  const [entry = ''] = image.config.Entrypoint;
  const command = [inImage(entry), ...args];
  const [program = '', ...rest] =
    process.getuid?.() === 0 ? ['setpriv', '--reuid', uid, '--regid', gid, '--clear-groups', ...command] : command;
  const own = Object.fromEntries(image.config.Env.map((one) => one.split('=')));
  const child = spawn(program, rest, {
    cwd: inImage(image.config.WorkingDir),
    env: { PATH: process.env['PATH'], ...own, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (part: Buffer) => (output += part.toString()));
  const [code] = await once(child, 'close');
  return { code: Number(code), output };
}

test('holds production dependencies with a Node of their own, and neither sandbox nor tests', async () => {
  const { dependencies } = JSON.parse(await readFile(path.join(project, 'package.json'), 'utf8'));
  for (const name of Object.keys(dependencies)) await access(inImage(`/pgleap/node_modules/${name}`));
  const { packages } = JSON.parse(await readFile(path.join(project, 'package-lock.json'), 'utf8'));
  const tools = Object.keys(packages).filter((name) => packages[name].dev === true);
  expect(tools).toContain('node_modules/vitest');
  for (const name of tools) await expect(access(inImage(`/pgleap/${name}`)), name).rejects.toThrow('ENOENT');
  expect((await readdir(inImage('/pgleap'))).sort()).toEqual(
    ['.npmrc', 'bin', 'node_modules', 'package-lock.json', 'package.json', 'src'].sort(),
  );
  expect(await readdir(inImage('/pgleap/src'))).not.toContain('sandbox');
  await access(inImage('/pgleap/node_modules/.bin/node'));
  expect(image.base).toBe('debian:bookworm-slim');
});

test('its command runs as its user, who owns nothing but the artifacts', async () => {
  expect(image.config.User).toMatch(/^[1-9]\d+:[1-9]\d+$/);
  const help = await started(['worker', '--help']);
  expect(help).toMatchObject({ code: 0, output: expect.stringContaining('pgleap worker') });
  // It gets as far as its configuration: everything that it imports is there.
  const bare = await started(image.config.Cmd);
  expect(bare).toMatchObject({ code: 12, output: expect.stringContaining('No Kubernetes cluster is configured') });
});

test('it compiles workflows where it may write nowhere', async () => {
  const [uid, gid] = image.config.User.split(':').map(Number);
  const user = process.getuid?.() === 0 ? { uid, gid } : {};
  const script =
    "console.log(require('@swc/core').transformSync('const one: number = 1;', { jsc: { parser: { syntax: 'typescript' } } }).code)";
  const { stdout } = await run(inImage('/pgleap/node_modules/.bin/node'), ['-e', script], {
    cwd: inImage(image.config.WorkingDir),
    env: { HOME: '/proc', TMPDIR: '/proc', SWC_NATIVE_BINDING_CACHE: '/proc/none' },
    ...user,
  });
  expect(stdout).toContain('one = 1');
});

test('deploy/ runs it as that user, restricted, once at a time, with tokens by reference', async () => {
  const objects = await kustomize('deploy/example');
  const found = objects.find(({ kind }) => kind === 'Deployment') as unknown as V1Deployment | undefined;
  const pod = found?.spec?.template.spec;
  const container = pod?.containers[0];
  expect(found?.spec).toMatchObject({ replicas: 1, strategy: { type: 'Recreate' } });
  expect(pod?.containers).toHaveLength(1);
  const { runAsUser, runAsGroup, fsGroup, runAsNonRoot, seccompProfile } = pod?.securityContext ?? {};
  expect([`${runAsUser}:${runAsGroup}`, fsGroup]).toEqual([image.config.User, runAsGroup]);
  // What the profile `restricted` of Pod Security asks for, which the namespace enforces.
  expect({ runAsNonRoot, seccompProfile }).toEqual({ runAsNonRoot: true, seccompProfile: { type: 'RuntimeDefault' } });
  expect(container?.securityContext).toEqual({
    allowPrivilegeEscalation: false,
    readOnlyRootFilesystem: true,
    capabilities: { drop: ['ALL'] },
  });
  expect(Object.keys(image.config.Volumes)).toEqual(['/artifacts']);
  expect(container?.volumeMounts?.map(({ mountPath }) => mountPath)).toEqual(['/artifacts', '/tmp']);
  expect(container?.envFrom).toEqual([{ configMapRef: { name: 'pgleap' } }, { secretRef: { name: 'pgleap-tokens' } }]);
  expect(objects.map(({ kind }) => kind)).not.toContain('Secret');
  const env = Object.fromEntries((container?.env ?? []).map(({ name, value = '' }) => [name, value.split(':').at(-1)]));
  const ports = Object.fromEntries(
    (container?.ports ?? []).map(({ name, containerPort }) => [name, String(containerPort)]),
  );
  expect(ports).toEqual({ metrics: env['PGLEAP_METRICS'], health: env['PGLEAP_HEALTH'] });
  expect(container?.image).toMatch(/^registry\.example\.com\/pgleap:/);
});

test('docker-compose.yml gives it the same volume', async () => {
  const { services } = parse(await readFile(path.join(project, 'docker-compose.yml'), 'utf8'));
  expect(services.worker.volumes).toContain('artifacts:/artifacts');
});
