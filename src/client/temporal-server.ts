/** Temporal's development server as a child process: for the demo and the tests, never for production. */
import { spawn } from 'node:child_process';
import { constants } from 'node:fs';
import { access, readdir, stat } from 'node:fs/promises';
import { createServer } from 'node:net';
import { homedir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Connection } from '@temporalio/client';

/** Where set-up puts a server that it downloaded or built. */
export const temporalCache = path.resolve(import.meta.dirname, '../../.cache/temporal');

/** Optional search attributes: a server that has them lets people list upgrades by phase and by what is waited for. */
const searchAttributes = ['PgleapPhase', 'PgleapWaiting'];

export interface TemporalServer {
  /** `host:port` of the gRPC front end. */
  address: string;
  /** Web UI, null when it was not asked for. */
  uiUrl: string | null;
  close: () => Promise<void>;
}

/** Path of a `temporal` binary: on PATH, where `go install` puts it, or in the project's cache. */
export async function findTemporal(): Promise<string | undefined> {
  const name = process.platform === 'win32' ? 'temporal.exe' : 'temporal';
  const folders = (process.env['PATH'] ?? '').split(path.delimiter).filter((folder) => folder !== '');
  folders.push(process.env['GOBIN'] ?? path.join(process.env['GOPATH'] ?? path.join(homedir(), 'go'), 'bin'));
  for (const folder of folders) {
    const candidate = path.join(folder, name);
    if (await isExecutable(candidate)) return candidate;
  }
  // The SDK's download has a version in its name.
  const cached = await readdir(temporalCache).catch(() => []);
  for (const file of cached.filter((entry) => entry.startsWith('temporal')).sort()) {
    const candidate = path.join(temporalCache, file);
    if (await isExecutable(candidate)) return candidate;
  }
  return undefined;
}

async function isExecutable(file: string): Promise<boolean> {
  try {
    await access(file, constants.X_OK);
    return (await stat(file)).isFile();
  } catch {
    return false;
  }
}

/**
 * Starts a development server on free ports and resolves when it takes workflows (about 3 s). It ends with `close()`, and
 * also when this process dies in any way. Without `dbFilename` it forgets everything; with one, started again on the same
 * `port`, it goes on. Throws an Error that says what to install when there is no binary.
 */
export async function startTemporal(
  options: { dbFilename?: string; port?: number; uiPort?: number; ui?: boolean } = {},
): Promise<TemporalServer> {
  const binary = await findTemporal();
  if (!binary) {
    throw new Error(
      'No `temporal` binary was found. Run `node scripts/setup.mjs`, or install it: https://docs.temporal.io/cli',
    );
  }
  // Between choosing a free port and the server's taking it, somebody else may: try again with others then.
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await launch(binary, options);
    } catch (error) {
      if (attempt === 3 || options.port !== undefined) throw error;
    }
  }
}

async function launch(binary: string, options: Parameters<typeof startTemporal>[0] & object): Promise<TemporalServer> {
  const port = options.port ?? (await freePort());
  const uiPort = options.uiPort ?? (await freePort());
  const ui = options.ui ?? true;
  const args = ['server', 'start-dev', '--ip', '127.0.0.1', '--port', String(port), '--log-level', 'error'];
  args.push(...(ui ? ['--ui-port', String(uiPort)] : ['--headless']));
  for (const name of searchAttributes) args.push('--search-attribute', `${name}=Keyword`);
  if (options.dbFilename !== undefined) args.push('--db-filename', options.dbFilename);
  const child = spawn('sh', ['-c', endWithParent, 'temporal', binary, ...args], {
    stdio: ['pipe', 'pipe', 'pipe'],
    // A group of its own: Ctrl-C in the terminal must reach the worker first, while its server still answers.
    detached: true,
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => (output = (output + text).slice(-4000)));
  }
  let ended = false;
  const exit = new Promise<void>((resolve) => {
    const end = () => {
      ended = true;
      resolve();
    };
    child.once('exit', end).once('error', end);
  });
  child.stdin.on('error', () => undefined);

  async function close(): Promise<void> {
    child.stdin.end();
    const late = new AbortController();
    await Promise.race([exit, sleep(10_000, undefined, { signal: late.signal }).catch(() => undefined)]);
    late.abort();
    if (!ended && child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
  }

  const address = `127.0.0.1:${port}`;
  const deadline = Date.now() + 60_000;
  while (!(await takesWorkflows(address))) {
    if (ended || Date.now() > deadline) {
      await close();
      throw new Error(`Temporal’s development server did not start: ${output.trim() || 'it said nothing'}`);
    }
    await sleep(100);
  }
  return { address, uiUrl: ui ? `http://127.0.0.1:${uiPort}` : null, close };
}

/** Its input ends when the parent does, however the parent dies; then the server is told to. */
const endWithParent = `
exec 3<&0
"$@" </dev/null & server=$!
( read -r _ <&3; kill "$server" 2>/dev/null ) & watcher=$!
trap 'kill "$server" "$watcher" 2>/dev/null' TERM INT
wait "$server"; rc=$?
kill "$watcher" 2>/dev/null
exit $rc`;

/** The front end answers before the namespace and its search attributes exist. */
async function takesWorkflows(address: string): Promise<boolean> {
  let connection: Connection | undefined;
  try {
    connection = await Connection.connect({ address, connectTimeout: 1000 });
    const found = await connection.withDeadline(Date.now() + 2000, () =>
      connection!.operatorService.listSearchAttributes({ namespace: 'default' }),
    );
    return searchAttributes.every((name) => found.customAttributes?.[name] !== undefined);
  } catch {
    return false;
  } finally {
    await connection?.close();
  }
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject).listen(0, '127.0.0.1', resolve);
  });
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('a TCP server without a port');
  return address.port;
}
