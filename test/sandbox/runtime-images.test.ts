import { existsSync, readdirSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { buildOnce } from '../../src/sandbox/images/download.ts';
import { createRuntime } from '../../src/sandbox/runtime/runtime.ts';
import type { RunningContainer, Runtime } from '../../src/sandbox/runtime/types.ts';

const CACHE = join(import.meta.dirname, '..', '..', '.cache', 'sandbox');

let base = '';
let runtime: Runtime;

beforeAll(async () => {
  base = await mkdtemp(join(tmpdir(), 'pgleap-images-'));
  runtime = await createRuntime({ stateDir: join(base, 'state'), cacheDir: CACHE });
});

afterAll(async () => {
  await runtime.close();
  await rm(base, { recursive: true, force: true });
});

async function run(container: RunningContainer, ...argv: string[]): Promise<string> {
  const child = container.exec(argv);
  if (child.stdout === null) throw new Error('no stdout');
  return (await text(child.stdout)).trim();
}

test.each([
  { major: 15, server: '15.18', clients: '16.14', vector: false },
  { major: 16, server: '16.14', clients: '16.14', vector: true },
  { major: 17, server: '17.10', clients: '18.4', vector: false },
  { major: 18, server: '18.4', clients: '18.4', vector: true },
])('postgres:$major is $server with contrib and clients of $clients', { timeout: 180_000 }, async (image) => {
  const id = `images-${image.major}`;
  const container = await runtime.start({
    id,
    hostname: id,
    image: `postgres:${image.major}`,
    env: { POSTGRES_PASSWORD: 'x' },
    mounts: [],
    logPath: join(base, `${id}.log`),
  });
  const ask = (query: string): Promise<string> =>
    run(container, 'psql', '-h', '127.0.0.1', '-U', 'postgres', '-XAtqc', query);
  await expect.poll(() => ask('select 1'), { timeout: 60_000 }).toBe('1');

  expect(await ask('show server_version')).toBe(image.server);
  expect(await run(container, 'pg_dumpall', '--version')).toContain(image.clients);
  const bin = `/usr/lib/postgresql/${image.major}/bin`;
  expect(await run(container, 'sh', '-c', 'command -v psql')).toBe(`${bin}/psql`);
  expect(await ask('show unix_socket_directories')).toBe('/var/run/postgresql, /tmp');
  expect(await run(container, 'psql', '-h', '/var/run/postgresql', '-U', 'postgres', '-XAtc', 'select 2')).toBe('2');

  // Each of these loads a library of its own: C only, OpenSSL, OSSP UUID, libpq, ICU.
  await ask(
    'create extension hstore; create extension pgcrypto; create extension "uuid-ossp"; create extension dblink',
  );
  expect(
    await ask("select 'a=>1'::hstore -> 'a', length(digest('x', 'sha512')), length(uuid_generate_v4()::text)"),
  ).toBe('1|64|36');
  expect(await ask(`select dblink_connect('dbname=postgres user=postgres')`)).toBe('OK');
  expect(await ask(`select 'a' < 'B' collate "de-x-icu"`)).toBe('t');
  const vectors = await ask("select count(*) from pg_available_extensions where name = 'vector'");
  expect(vectors).toBe(image.vector ? '1' : '0');
  if (image.vector) expect(await ask("create extension vector; select '[1,2]'::vector <-> '[1,3]'")).toBe('1');
  await container.stop(20_000);
  expect(await readFile(join(base, `${id}.log`), 'utf8')).toContain('database system is shut down');
});

test('what is interrupted while being built is not there, and what two build at once is built once', async () => {
  const target = join(base, 'built', 'thing');
  await expect(
    buildOnce(target, async (scratch) => {
      await writeFile(join(scratch, 'half'), 'made');
      throw new Error('interrupted');
    }),
  ).rejects.toThrow('interrupted');
  expect(readdirSync(join(base, 'built'))).toEqual([]);

  let builds = 0;
  async function build(scratch: string): Promise<string> {
    builds += 1;
    await writeFile(join(scratch, 'whole'), 'made');
    await sleep(20);
    return join(scratch, 'whole');
  }
  await Promise.all([buildOnce(target, build), buildOnce(target, build)]);
  await buildOnce(target, build);
  expect(builds).toBe(1);
  expect(existsSync(target)).toBe(true);
});
