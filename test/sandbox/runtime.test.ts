import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readdirSync, readlinkSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { z } from 'zod';
import { createRuntime } from '../../src/sandbox/runtime/runtime.ts';
import {
  type ContainerSpec,
  ImageNotFound,
  type RunningContainer,
  type Runtime,
} from '../../src/sandbox/runtime/types.ts';

const PROJECT = join(import.meta.dirname, '..', '..');
const CACHE = join(PROJECT, '.cache', 'sandbox');
const RUNTIME_MODULE = join(PROJECT, 'src', 'sandbox', 'runtime', 'runtime.ts');
const IMAGE_TIMEOUT_MS = 180_000;
vi.setConfig({ testTimeout: 60_000 });

let base = '';
let runtime: Runtime;
let started = 0;

interface Output {
  code: number | null;
  stdout: Buffer;
  stderr: string;
}

async function outputOf(child: ChildProcess, stdin: Buffer | string = ''): Promise<Output> {
  const stdout: Buffer[] = [];
  let stderr = '';
  child.stdout?.on('data', (chunk: Buffer) => stdout.push(chunk));
  child.stderr?.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
  child.stdin?.end(stdin);
  const code = await new Promise<number | null>((resolve) => {
    child.once('close', (exitCode) => resolve(exitCode));
  });
  return { code, stdout: Buffer.concat(stdout), stderr };
}

async function run(container: RunningContainer, ...argv: string[]): Promise<string> {
  const { code, stdout, stderr } = await outputOf(container.exec(argv));
  if (code !== 0) throw new Error(`${argv.join(' ')}: exit ${code}: ${stderr}`);
  return stdout.toString().trim();
}

async function volume(name: string): Promise<string> {
  const path = join(base, 'volumes', `${name}-${(started += 1)}`);
  await mkdir(path, { recursive: true });
  return path;
}

function spec(image: string, more: Partial<ContainerSpec> = {}): ContainerSpec {
  const id = `c${(started += 1)}`;
  return { id, hostname: `pod-${id}`, image, env: {}, mounts: [], logPath: join(base, `${id}.log`), ...more };
}

function sleeper(more: Partial<ContainerSpec> = {}): ContainerSpec {
  return spec('pgleap/sandbox-backup:1', { command: ['sleep', '600'], ...more });
}

/** Over TCP, because the server that initialises the database answers on the socket only. */
async function untilReady(container: RunningContainer): Promise<void> {
  for (let tries = 0; tries < 300; tries += 1) {
    const { code } = await outputOf(container.exec(['pg_isready', '-q', '-h', '127.0.0.1']));
    if (code === 0) return;
    await sleep(100);
  }
  throw new Error('PostgreSQL did not become ready');
}

async function sql(container: RunningContainer, text: string, ...options: string[]): Promise<string> {
  return run(container, 'psql', '-XAt', '-v', 'ON_ERROR_STOP=1', '-U', 'postgres', ...options, '-c', text);
}

beforeAll(async () => {
  base = await mkdtemp(join(tmpdir(), 'pgleap runtime, '));
  runtime = await createRuntime({ stateDir: join(base, 'state'), cacheDir: CACHE });
});

afterAll(async () => {
  await runtime.close();
  await rm(base, { recursive: true, force: true });
});

describe('a postgres container', () => {
  const password = `it's "odd" $HOME \\ ${randomBytes(4).toString('hex')}`;
  let data = '';
  let database: RunningContainer;
  let first: ContainerSpec;

  beforeAll(async () => {
    data = await volume('data');
    first = spec('postgres:16', {
      env: { POSTGRES_PASSWORD: password },
      mounts: [{ source: data, target: '/var/lib/postgresql/data', readOnly: false }],
    });
    database = await runtime.start(first);
    await untilReady(database);
  }, IMAGE_TIMEOUT_MS);

  test('has its data in the volume, under the path of the official image', async () => {
    expect(await readFile(join(data, 'PG_VERSION'), 'utf8')).toBe('16\n');
    expect(await sql(database, 'show data_directory')).toBe('/var/lib/postgresql/data');
    expect(await sql(database, "select pg_read_file('/proc/1/comm')")).toBe('postgres');
    expect(await run(database, 'stat', '-c', '%u', '/proc/1')).toBe('999');
    expect(await run(database, 'hostname')).toBe(first.hostname);
  });

  test('sees nothing of the project or of the home directory', async () => {
    expect((await outputOf(database.exec(['ls', PROJECT]))).code).not.toBe(0);
    expect(await run(database, 'sh', '-c', 'ls -A "$1" 2>/dev/null || :', 'sh', homedir())).toBe('');
    expect(await run(database, 'sh', '-c', 'echo /proc/[0-9]* | wc -w')).toMatch(/^\d$|^1\d$/);
  });

  test('has what a dump needs', async () => {
    const dumping = ['psql', 'pg_dump', 'pg_dumpall', 'pg_isready', 'pg_controldata', 'gzip', 'sha512sum', 'sha256sum'];
    for (const program of [...dumping, 'bash', 'dd', 'tail', 'head', 'sync', 'split', 'tar']) {
      expect(await run(database, 'sh', '-c', 'command -v "$1"', 'sh', program)).toContain(program);
    }
    expect(await run(database, 'pg_dumpall', '-U', 'postgres')).toContain('PostgreSQL database cluster dump complete');
  });

  test('admits another pod by password and knows its address', async () => {
    await writeFile(runtime.hostsFile, `127.0.0.1 localhost\n${database.ip} postgres.databases.svc.cluster.local\n`);
    const client = await runtime.start(sleeper({ env: { PGPASSWORD: password } }));
    const target = ['psql', '-XAt', '-h', 'postgres.databases.svc.cluster.local', '-U', 'postgres', '-c'];
    expect(await run(client, ...target, 'select inet_client_addr()')).toBe(client.ip);
    expect(await run(client, 'id', '-u')).toBe('65534');

    const stranger = await runtime.start(sleeper({ env: { PGPASSWORD: 'wrong' } }));
    const refused = await outputOf(stranger.exec([...target, 'select 1']));
    expect(refused.code).toBe(2);
    expect(refused.stderr).toContain('password authentication failed');
    await Promise.all([client.stop(0), stranger.stop(0)]);
  });

  test('shuts down cleanly, and the next start finds the data', async () => {
    await sql(database, 'create table kept as select 42 as answer');
    await database.stop(20_000);
    expect(await database.exited).toEqual({ code: 0 });
    expect(await readFile(first.logPath, 'utf8')).toContain('database system is shut down');
    expect(existsSync(join(data, 'postmaster.pid'))).toBe(false);
    expect(readdirSync(join(base, 'state', 'containers'))).toEqual([]);
    expect(() => database.exec(['true'])).toThrow(/has ended/);

    const again = spec('postgres:16', { env: { POSTGRES_PASSWORD: 'ignored now' }, mounts: first.mounts });
    database = await runtime.start(again);
    await untilReady(database);
    expect(await sql(database, 'select answer from kept')).toBe('42');
    const log = await readFile(again.logPath, 'utf8');
    expect(log).toContain('Skipping initialization');
    expect(log).not.toContain('was not properly shut down');
  });

  test(
    'of major 18 refuses a volume in the old place',
    async () => {
      await database.stop(20_000);
      for (const source of [data, await volume('empty')]) {
        const newer = spec('postgres:18', {
          env: { POSTGRES_PASSWORD: password },
          mounts: [{ source, target: '/var/lib/postgresql/data', readOnly: false }],
        });
        const container = await runtime.start(newer);
        expect(await container.exited).toEqual({ code: 1 });
        const log = await readFile(newer.logPath, 'utf8');
        expect(log).toContain('Error: in 18+');
        expect(log).toContain('/var/lib/postgresql/data');
      }
      expect(await readFile(join(data, 'PG_VERSION'), 'utf8')).toBe('16\n');
    },
    IMAGE_TIMEOUT_MS,
  );

  test('is never initialised without a password', async () => {
    const careless = spec('postgres:16');
    const container = await runtime.start(careless);
    expect(await container.exited).toEqual({ code: 1 });
    expect(await readFile(careless.logPath, 'utf8')).toContain('superuser password is not specified');
  });

  test('takes arguments, files of secrets and init scripts as the official image does', async () => {
    const secret = join(await volume('secret'), 'password');
    await writeFile(secret, 'from a file\n');
    const scripts = await volume('scripts');
    await writeFile(join(scripts, '1.sql'), 'create table made_by_sql ()');
    await writeFile(
      join(scripts, '2.sh'),
      'psql -U "$POSTGRES_USER" -d "$POSTGRES_DB" -c "create table made_by_sh ()"',
    );
    const container = await runtime.start(
      spec('postgres:16', {
        args: ['-c', 'max_connections=17'],
        env: {
          POSTGRES_USER: 'Owner',
          POSTGRES_DB: 'the shop',
          POSTGRES_PASSWORD_FILE: '/run/secrets/password',
          POSTGRES_INITDB_ARGS: '--data-checksums --encoding="UTF8"',
          PGDATA: '/var/lib/postgresql/data/sub',
        },
        mounts: [
          { source: secret, target: '/run/secrets/password', readOnly: true },
          { source: scripts, target: '/docker-entrypoint-initdb.d', readOnly: true },
        ],
      }),
    );
    await untilReady(container);
    const query = [
      "select current_setting('max_connections'), current_setting('data_checksums'), current_setting('data_directory')",
      "(select count(*) from pg_class where relname in ('made_by_sql', 'made_by_sh')), inet_client_addr()",
    ].join(', ');
    const url = `host=${container.ip} user=Owner dbname='the shop' password='from a file'`;
    expect(await run(container, 'psql', '-XAt', url, '-c', query)).toBe(
      `17|on|/var/lib/postgresql/data/sub|2|${container.ip}`,
    );
    const readOnly = await outputOf(container.exec(['sh', '-c', 'echo x > /run/secrets/password']));
    expect(readOnly.code).not.toBe(0);
    await container.stop(10_000);
  });
});

describe('exec', () => {
  let container: RunningContainer;

  beforeAll(async () => {
    container = await runtime.start(sleeper({ env: { ODD: 'a "b" \'c\'\n$d', PATH: '/usr/bin:/bin:/nowhere' } }));
  }, IMAGE_TIMEOUT_MS);

  test('tells the exit code and what was written', async () => {
    const { code, stdout, stderr } = await outputOf(container.exec(['sh', '-c', 'echo out; echo err >&2; exit 7']));
    expect([code, stdout.toString(), stderr]).toEqual([7, 'out\n', 'err\n']);
    expect((await outputOf(container.exec(['no-such-program']))).code).toBe(127);
  });

  test('has the environment of the container, to the byte', async () => {
    expect(await run(container, 'printenv', 'ODD')).toBe('a "b" \'c\'\n$d');
    expect(await run(container, 'sh', '-c', 'tr "\\0" "\\n" < /proc/1/environ | grep ^PATH')).toBe(
      'PATH=/usr/bin:/bin:/nowhere',
    );
  });

  test('carries 5 MB in and out unharmed', async () => {
    const bytes = randomBytes(5 * 1024 * 1024);
    const sum = createHash('sha256').update(bytes).digest('hex');
    const stored = await outputOf(container.exec(['sh', '-c', 'cat > /tmp/bytes && sha256sum /tmp/bytes']), bytes);
    expect(stored.stdout.toString()).toContain(sum);
    const { code, stdout } = await outputOf(container.exec(['cat', '/tmp/bytes']));
    expect(code).toBe(0);
    expect(createHash('sha256').update(stdout).digest('hex')).toBe(sum);
  });

  test('that is killed leaves nothing running', async () => {
    const child = container.exec(['sleep', '4711']);
    await sleep(100);
    child.kill();
    await once(child, 'close');
    await expect
      .poll(() => run(container, 'sh', '-c', 'cat /proc/[0-9]*/cmdline 2>/dev/null | tr "\\0" " "'))
      .not.toContain('sleep 4711');
  });
});

describe('a container', () => {
  test('of an unknown image is not started', async () => {
    await expect(runtime.start(spec('postgres:9.6'))).rejects.toBeInstanceOf(ImageNotFound);
    await expect(runtime.start(spec('toString'))).rejects.toBeInstanceOf(ImageNotFound);
  });

  test('with a mount that cannot be made says so and leaves nothing', async () => {
    const broken = sleeper({ mounts: [{ source: join(base, 'missing'), target: '/data', readOnly: false }] });
    await expect(runtime.start(broken)).rejects.toThrow(/missing/);
    expect(existsSync(join(base, 'state', 'containers', broken.id))).toBe(false);
  });

  test('starts in a moment, gets a mount inside a mount, and is killed after the grace period', async () => {
    const outer = await volume('outer');
    const inner = await volume('inner');
    const stubborn = sleeper({
      command: ['sh', '-c', "trap '' TERM; echo up; while :; do sleep 0.1; done"],
      mounts: [
        { source: inner, target: '/data/inner', readOnly: false },
        { source: outer, target: '/data', readOnly: false },
      ],
    });
    const before = performance.now();
    const container = await runtime.start(stubborn);
    expect(performance.now() - before).toBeLessThan(1500);
    await chmod(inner, 0o777);
    await run(container, 'touch', '/data/inner/here');
    expect(existsSync(join(inner, 'here'))).toBe(true);
    await container.stop(300);
    expect(await container.exited).toEqual({ code: 137 });
    expect(await readFile(stubborn.logPath, 'utf8')).toBe('up\n');
  });

  test('that ends by itself tells its code, also when a signal ended it', async () => {
    const coded = await runtime.start(sleeper({ command: ['sh', '-c', 'exit 3'] }));
    expect(await coded.exited).toEqual({ code: 3 });
    // The first process of a pid namespace cannot signal itself, so its child shows how a signal is told.
    const killed = await runtime.start(sleeper({ command: ['sh', '-c', 'sleep 600 & kill -9 $!; wait $!; exit $?'] }));
    expect(await killed.exited).toEqual({ code: 137 });
  });
});

describe('connect', () => {
  const server = `require('node:http').createServer((q, s) => q.pipe(s)).listen(8080, '0.0.0.0')`;

  test(
    'reaches a web server in a pod, many streams at once',
    async () => {
      const container = await runtime.start(
        spec('pgleap/sandbox-service:1', { command: ['/usr/local/bin/node', '-e', server] }),
      );
      await expect
        .poll(() => outputOf(container.exec(['bash', '-c', '</dev/tcp/127.0.0.1/8080'])).then((o) => o.code))
        .toBe(0);

      async function echo(body: Buffer): Promise<Buffer> {
        const socket = await runtime.connect(container.ip, 8080);
        return new Promise((resolve, reject) => {
          const sent = request({ method: 'POST', createConnection: () => socket }, (response) => {
            const chunks: Buffer[] = [];
            response.on('data', (chunk: Buffer) => chunks.push(chunk));
            response.on('end', () => resolve(Buffer.concat(chunks)));
          });
          sent.on('error', reject);
          sent.end(body);
        });
      }
      const bodies = Array.from({ length: 50 }, () => randomBytes(100_000));
      const answers = await Promise.all(bodies.map(echo));
      expect(answers.map((answer, i) => answer.equals(bodies[i] ?? Buffer.alloc(0)))).toEqual(bodies.map(() => true));
      await expect(runtime.connect(container.ip, 8081)).rejects.toMatchObject({ code: 'ECONNREFUSED' });
      await container.stop(0);
    },
    IMAGE_TIMEOUT_MS,
  );

  test('reaches a container that was restarted at the address it had, from here and from its neighbours', async () => {
    const service = () => spec('pgleap/sandbox-service:1', { command: ['/usr/local/bin/node', '-e', server] });
    const neighbour = await runtime.start(sleeper({}));
    const first = await runtime.start(service());
    const reach = () =>
      Promise.all([
        outputOf(neighbour.exec(['bash', '-c', `</dev/tcp/${first.ip}/8080`])).then(({ code }) => code === 0),
        runtime.connect(first.ip, 8080).then(
          (socket) => Boolean(socket.destroy()),
          () => false,
        ),
      ]);
    await expect.poll(reach, { timeout: 5000 }).toEqual([true, true]);
    await first.stop(0);
    const again = await runtime.start({ ...service(), ip: first.ip });
    expect(again.ip).toBe(first.ip);
    // Less than a neighbour takes to forget another hardware address.
    await expect.poll(reach, { timeout: 2500 }).toEqual([true, true]);
    await Promise.all([again.stop(0), neighbour.stop(0)]);
  }, 120_000);
});

/** Processes (zombies have none) whose namespace of one kind is among `wanted`. */
function processesIn(kind: string, wanted: string[]): string[] {
  return readdirSync('/proc').filter((entry) => {
    if (!/^\d+$/.test(entry)) return false;
    try {
      return wanted.includes(readlinkSync(`/proc/${entry}/ns/${kind}`));
    } catch {
      return false;
    }
  });
}

/** A program that makes a runtime with one container, prints its namespaces and waits to be killed. */
function victimProgram(stateDir: string): string {
  return `
    import { readlinkSync } from 'node:fs';
    const { createRuntime } = await import(${JSON.stringify(RUNTIME_MODULE)});
    const stateDir = ${JSON.stringify(stateDir)};
    const runtime = await createRuntime({ stateDir, cacheDir: ${JSON.stringify(CACHE)} });
    const container = await runtime.start({
      id: 'victim', hostname: 'victim', image: 'postgres:16', env: { POSTGRES_PASSWORD: 'x' }, mounts: [],
      logPath: stateDir + '.log',
    });
    async function inside(...argv) {
      const child = container.exec(argv);
      let text = '';
      for await (const chunk of child.stdout) text += chunk;
      return text.trim();
    }
    const loop = 'until psql -h 127.0.0.1 -U postgres -XAtc "select 1" 2>/dev/null; do sleep 0.1; done';
    const answer = await inside('sh', '-c', loop);
    container.exec(['sleep', '600']);
    await runtime.connect(container.ip, 5432);
    const namespaces = (await inside('readlink', '/proc/self/ns/pid', '/proc/self/ns/net', '/proc/self/ns/mnt')).split('\\n');
    console.log(JSON.stringify({ answer, namespaces, hostname: await inside('hostname'), user: await inside('id', '-u') }));
    setInterval(() => {}, 1000);
  `;
}

const Victim = z.object({
  answer: z.string(),
  namespaces: z.tuple([z.string(), z.string(), z.string()]),
  hostname: z.string(),
  user: z.string(),
});

async function killVictim(command: string, args: string[], stateDir: string): Promise<z.infer<typeof Victim>> {
  const child = spawn(command, [...args, process.execPath, '--input-type=module', '-e', victimProgram(stateDir)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [line] = await once(child.stdout, 'data');
  const victim = Victim.parse(JSON.parse(String(line)));
  const kinds = ['pid', 'net', 'mnt'] as const;
  const alive = () => kinds.flatMap((kind) => processesIn(kind, victim.namespaces));
  expect(alive()).not.toEqual([]);
  child.kill('SIGKILL');
  await once(child, 'exit');
  await expect.poll(alive, { timeout: 5000 }).toEqual([]);
  return victim;
}

describe('a runtime', () => {
  const asNobody = ['--reuid=65534', '--regid=65534', '--clear-groups'];

  function nobodyCan(...argv: string[]): boolean {
    return process.getuid?.() === 0 && spawnSync('setpriv', [...asNobody, ...argv]).status === 0;
  }

  test('that is killed leaves no process, namespace or mount behind', { timeout: IMAGE_TIMEOUT_MS }, async () => {
    const links = spawnSync('ip', ['-o', 'link'], { encoding: 'utf8' }).stdout;
    const stateDir = join(base, 'victim');
    const victim = await killVictim('/usr/bin/env', [], stateDir);
    expect(victim).toMatchObject({ answer: '1', hostname: 'victim' });
    expect(await readFile('/proc/self/mountinfo', 'utf8')).not.toContain('victim');
    expect(spawnSync('ip', ['-o', 'link'], { encoding: 'utf8' }).stdout).toBe(links);
    // What is left are plain directories, and the next runtime in the same place sweeps them away.
    const next = await createRuntime({ stateDir, cacheDir: CACHE });
    expect(existsSync(join(stateDir, 'containers'))).toBe(false);
    await next.close();
  });

  const rootlessWorks =
    nobodyCan('unshare', '--user', '--map-root-user', 'true') && nobodyCan('test', '-r', RUNTIME_MODULE);

  test.skipIf(!rootlessWorks)('works without root, in user namespaces', { timeout: IMAGE_TIMEOUT_MS }, async () => {
    const place = await mkdtemp(join(tmpdir(), 'pgleap-rootless-'));
    try {
      await chmod(place, 0o777);
      const victim = await killVictim('setpriv', asNobody, join(place, 'state'));
      expect(victim).toMatchObject({ answer: '1', hostname: 'victim', user: '999' });
    } finally {
      await rm(place, { recursive: true, force: true });
    }
  });

  test('tells what is missing', async () => {
    const platform = Object.getOwnPropertyDescriptor(process, 'platform');
    Object.defineProperty(process, 'platform', { value: 'darwin' });
    try {
      await expect(createRuntime({ stateDir: base, cacheDir: CACHE })).rejects.toThrow(/darwin.*cluster/);
    } finally {
      if (platform) Object.defineProperty(process, 'platform', platform);
    }
  });
});
