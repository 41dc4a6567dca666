/** The services of docker-compose.yml as processes: the very arguments and variables, with paths and ports of this machine. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import { createServer as createTcpServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Connection } from '@temporalio/client';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { parse } from 'yaml';
import { findTemporal } from '../../src/client/temporal-server.ts';

const root = path.resolve(import.meta.dirname, '../..');
const children: ChildProcess[] = [];
let folder: string;
let outside: Server;
let outsideUrl: string;
let services: {
  temporal: { command: string[]; ports: string[]; volumes: string[] };
  worker: { environment: Record<string, string>; ports: string[]; volumes: string[] };
};

const kubeSystem = {
  kind: 'Namespace',
  metadata: { name: 'kube-system', uid: 'u', resourceVersion: '1', creationTimestamp: '2026-01-01T00:00:00Z' },
};

beforeAll(async () => {
  services = parse(await readFile(path.join(root, 'docker-compose.yml'), 'utf8')).services;
  folder = await mkdtemp(path.join(tmpdir(), 'pgleap-compose-'));
  // As much of a cluster and of Linode as a worker asks for at its start.
  outside = createServer((request, response) => {
    const namespace = request.url?.includes('/namespaces/');
    const body = namespace === true ? kubeSystem : { data: [], page: 1, pages: 1, results: 0 };
    response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(body));
  });
  await new Promise<void>((resolve) => outside.listen(0, '127.0.0.1', resolve));
  outsideUrl = `http://127.0.0.1:${portOf(outside)}`;
});

afterAll(async () => {
  await Promise.all(children.map(end));
  await new Promise((resolve) => outside?.close(resolve));
  await rm(folder, { recursive: true, force: true });
});

function portOf(server: { address(): AddressInfo | string | null }): number {
  const address = server.address();
  return typeof address === 'object' && address !== null ? address.port : 0;
}

async function freePort(): Promise<string> {
  const server = createTcpServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const port = portOf(server);
  await new Promise((resolve) => server.close(resolve));
  return String(port);
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const closed = once(child, 'close');
  child.kill('SIGTERM');
  await closed;
}

async function eventually<T>(what: string, look: () => Promise<T>): Promise<T> {
  const deadline = Date.now() + 180_000;
  for (;;) {
    try {
      return await look();
    } catch (error) {
      if (Date.now() > deadline) throw new Error(`${what} did not come`, { cause: error });
      await sleep(200);
    }
  }
}

test('Temporal keeps what it has over a restart, and shows it in its Web UI; the worker serves it', async () => {
  const { temporal, worker } = services;
  const binary = await findTemporal();
  if (binary === undefined) throw new Error('no temporal binary');
  const [port, ui] = [await freePort(), await freePort()];
  expect(temporal.ports.map((one) => one.split(':').at(-1))).toEqual(['7233', '8233']);
  expect(temporal.volumes).toEqual(['temporal:/data']);
  const here = temporal.command.map((arg) => arg.replace('0.0.0.0', '127.0.0.1').replace('/data/', `${folder}/`));
  const address = `127.0.0.1:${port}`;
  const startServer = async () => {
    const child = spawn(binary, [...here, '--port', port, '--ui-port', ui], { stdio: 'ignore' });
    children.push(child);
    const connection = await eventually('Temporal', () => Connection.connect({ address }));
    return { child, connection };
  };
  const first = await startServer();
  await eventually('a namespace', async () => {
    const create = ['operator', 'namespace', 'create', '--address', address, '-n', 'kept'];
    const [code] = await once(spawn(binary, create, { stdio: 'ignore' }), 'close');
    if (code !== 0) throw new Error(`ended with ${code}`);
  });
  await first.connection.close();
  await end(first.child);
  const second = await startServer();
  const { workflowService } = second.connection;
  await eventually('the namespace', () => workflowService.describeNamespace({ namespace: 'kept' }));
  await second.connection.close();
  const page = await eventually('the Web UI', () => fetch(`http://127.0.0.1:${ui}/`));
  expect(page.headers.get('content-type')).toContain('text/html');

  const kubeconfig = path.join(folder, 'kubeconfig');
  await writeFile(
    kubeconfig,
    JSON.stringify({
      clusters: [{ name: 'c', cluster: { server: outsideUrl, 'insecure-skip-tls-verify': true } }],
      users: [{ name: 'u', user: { token: 't' } }],
      contexts: [{ name: 'x', context: { cluster: 'c', user: 'u' } }],
      'current-context': 'x',
    }),
  );
  const metrics = await freePort();
  const [, inside] = /:(\/kubeconfig):ro$/.exec(worker.volumes[0] ?? '') ?? [];
  expect(worker.environment['KUBECONFIG']).toBe(inside);
  expect(worker.ports).toEqual(['127.0.0.1:9464:9464']);
  const env = Object.fromEntries(
    Object.entries(worker.environment).map(([key, value]) => [
      key,
      value
        .replace(/\$\{(\w+):\?[^}]*\}/, 'from-the-environment')
        .replace(/\$\{\w+:-([^}]*)\}/, '$1')
        .replace('temporal:7233', address)
        .replace('/kubeconfig', kubeconfig)
        .replace('0.0.0.0:9464', `127.0.0.1:${metrics}`),
    ]),
  );
  expect(Object.values(env).join(' ')).not.toContain('${');
  const { PATH = '' } = process.env;
  const given = { PATH, HOME: folder, LINODE_API_URL: outsideUrl, PGLEAP_ARTIFACTS: path.join(folder, 'artifacts') };
  const child = spawn(path.join(root, 'bin/pgleap'), ['worker', '--json'], {
    env: { ...given, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  children.push(child);
  let log = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (part: Buffer) => (log += part.toString()));
  await eventually('the worker', async () => {
    if (!log.includes('worker is ready')) throw new Error(log);
  });
  expect(await (await fetch(`http://127.0.0.1:${metrics}/metrics`)).text()).toContain('temporal_');
  await end(child);
  expect(child.exitCode).toBe(0);
}, 600_000);
