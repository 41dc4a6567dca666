import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startTemporal, type TemporalServer } from '../../src/client/temporal-server.ts';
import { exitCodes } from '../../src/domain/exit-codes.ts';

const main = path.resolve(import.meta.dirname, '../../src/client/pgleap.ts');
const token = 'linode-token-of-the-test';

let folder: string;
let temporal: TemporalServer;
/** Answers for the cluster and for Linode; only the worker's own token is taken. */
let outside: Server;
let url: string;

const kubeSystem = {
  kind: 'Namespace',
  metadata: { name: 'kube-system', uid: 'u', resourceVersion: '1', creationTimestamp: '2026-01-01T00:00:00Z' },
};

beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'pgleap-worker-'));
  outside = createServer((request, response) => {
    const answer = (code: number, body: unknown) => {
      response.writeHead(code, { 'content-type': 'application/json' }).end(JSON.stringify(body));
    };
    if (request.url?.startsWith('/api/v1/namespaces/kube-system')) {
      const good = request.headers.authorization === 'Bearer good';
      answer(good ? 200 : 401, good ? kubeSystem : { message: 'no' });
    } else if (request.headers.authorization === `Bearer ${token}`) {
      answer(200, { data: [], page: 1, pages: 1, results: 0 });
    } else {
      answer(401, { errors: [{ reason: 'Invalid Token' }] });
    }
  });
  await new Promise<void>((resolve) => outside.listen(0, '127.0.0.1', resolve));
  url = `http://127.0.0.1:${(outside.address() as AddressInfo).port}`;
  await writeFile(path.join(folder, 'kubeconfig'), kubeconfig('good'));
  await writeFile(path.join(folder, 'expired'), kubeconfig('expired'));
  temporal = await startTemporal({ ui: false });
});

afterAll(async () => {
  await temporal?.close();
  await new Promise((resolve) => outside?.close(resolve));
  await rm(folder, { recursive: true, force: true });
});

function kubeconfig(bearer: string): string {
  return JSON.stringify({
    clusters: [{ name: 'c', cluster: { server: url, 'insecure-skip-tls-verify': true } }],
    users: [{ name: 'u', user: { token: bearer } }],
    contexts: [{ name: 'x', context: { cluster: 'c', user: 'u' } }],
    'current-context': 'x',
  });
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

function startWorker(env: Record<string, string> = {}): {
  child: ChildProcess;
  log: () => string;
  ready: Promise<void>;
} {
  const child = spawn(process.execPath, [main, 'worker', '--json'], {
    env: {
      PATH: process.env['PATH'] ?? '',
      HOME: folder,
      TEMPORAL_ADDRESS: temporal.address,
      TEMPORAL_CONFIG_FILE: path.join(folder, 'none.toml'),
      KUBECONFIG: path.join(folder, 'kubeconfig'),
      LINODE_TOKEN: token,
      LINODE_API_URL: url,
      PGLEAP_ARTIFACTS: path.join(folder, 'artifacts'),
      ...env,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let text = '';
  const ready = new Promise<void>((resolve, reject) => {
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding('utf8').on('data', (piece: string) => {
        text += piece;
        if (text.includes('worker is ready')) resolve();
      });
    }
    child.once('close', (code) => reject(new Error(`ended with ${code}: ${text}`)));
  });
  ready.catch(() => undefined);
  return { child, log: () => text, ready };
}

async function exitOf(env: Record<string, string>): Promise<{ code: number | null; log: string }> {
  const { child, log } = startWorker(env);
  const [code] = (await once(child, 'close')) as [number | null];
  return { code, log: log() };
}

test('serves both queues, logs JSON without tokens, shows metrics, and ends when it is told to', async () => {
  const metrics = `127.0.0.1:${await freePort()}`;
  const { child, log, ready } = startWorker({
    PGLEAP_METRICS: metrics,
    CLOUDFLARE_API_TOKEN: '',
    TEMPORAL_API_KEY: '',
  });
  await ready;
  const queue = (await readFile(path.join(folder, 'artifacts/queue'), 'utf8')).trim();
  expect(log()).toContain(`serves pgleap and ${queue} of default`);
  expect(await (await fetch(`http://${metrics}/metrics`)).text()).toContain('temporal_');

  // A second one in the same folder serves the same queue: that is how a restarted worker takes its files up again.
  const second = startWorker();
  await second.ready;
  expect(second.log()).toContain(queue);

  for (const worker of [child, second.child]) {
    const closed = once(worker, 'close');
    worker.kill('SIGTERM');
    expect(await closed).toEqual([0, null]);
  }
  expect(log()).not.toContain(token);
  for (const line of log().trim().split('\n')) expect(JSON.parse(line)).toHaveProperty('message');
});

test('tells a kubelet that it takes requests, and that it is ready only while Temporal answers', async () => {
  const own = await startTemporal({ ui: false });
  const health = `127.0.0.1:${await freePort()}`;
  const { child, ready } = startWorker({ PGLEAP_HEALTH: health, TEMPORAL_ADDRESS: own.address });
  const ask = async (what: string) => {
    const answer = await fetch(`http://${health}${what}`);
    return { status: answer.status, text: await answer.text() };
  };
  try {
    await ready;
    expect(await ask('/ready')).toEqual({ status: 200, text: 'ok\n' });
    expect((await ask('/')).status).toBe(404);
    await own.close();
    expect(await ask('/ready')).toMatchObject({ status: 503, text: expect.stringContaining('Temporal') });
    expect(await ask('/live')).toEqual({ status: 200, text: 'ok\n' });
  } finally {
    await own.close();
    const closed = once(child, 'close');
    child.kill('SIGKILL');
    await closed;
  }
  const taken = await exitOf({ PGLEAP_HEALTH: url.replace('http://', '') });
  expect(taken.log).toContain('PGLEAP_HEALTH');
  expect(taken.code).toBe(exitCodes.configuration.code);
});

test('an artifact folder that cannot be one ends it with words', async () => {
  const { log, code } = await exitOf({ PGLEAP_ARTIFACTS: path.join(folder, 'kubeconfig', 'artifacts') });
  expect(log).toContain('PGLEAP_ARTIFACTS');
  expect(log).not.toMatch(/\bat .*\.ts:\d/);
  expect(code).toBe(exitCodes.configuration.code);
});

test('a wrong Linode token, a wrong kubeconfig and a missing namespace each end it with words', async () => {
  const linode = await exitOf({ LINODE_TOKEN: 'wrong-token-here' });
  expect(linode.log).toContain('LINODE_TOKEN');
  expect(linode.log).not.toContain('wrong-token-here');
  expect(linode.code).toBe(exitCodes.unreachable.code);

  const cluster = await exitOf({ KUBECONFIG: path.join(folder, 'expired') });
  expect(cluster.log).toContain('check the credentials of the kubeconfig');
  expect(cluster.code).toBe(exitCodes.unreachable.code);

  const namespace = await exitOf({ TEMPORAL_NAMESPACE: 'nowhere' });
  expect(namespace.log).toContain('temporal operator namespace create --namespace nowhere');
  expect(namespace.code).toBe(exitCodes.noTemporal.code);

  const server = await exitOf({ TEMPORAL_ADDRESS: '127.0.0.1:1' });
  expect(server.log).toContain('127.0.0.1:1');
  expect(server.code).toBe(exitCodes.noTemporal.code);
});
