/** What lies between a worker and its world while canaries are planted: proxies that let requests meet a fault, and a chat room. */
import { createServer } from 'node:http';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { KubeConfig } from '@kubernetes/client-node';
import type { TestContext } from 'vitest';
import type { Stage } from '../e2e/stage.ts';
import { startProxy, type Fault, type Proxy } from './faults.ts';
import { randomOf } from './seed.ts';

/** Proxies before everything the worker talks to, a chat room, and a folder for its temporary files. */
export async function betweenWorkerAndWorld(on: Stage, room: string, onTestFinished: TestContext['onTestFinished']) {
  const { sandbox } = on;
  const folder = await mkdtemp(join(tmpdir(), 'pgleap-canaries-'));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  const temp = join(folder, 'tmp');
  await mkdir(temp);
  const any = () => '*';
  const kubeConfig = new KubeConfig();
  kubeConfig.loadFromFile(sandbox.kubeconfig);
  const cluster = await startProxy(kubeConfig.getCurrentCluster()?.server ?? '', any, (code, echo) => ({
    kind: 'Status',
    status: 'Failure',
    code,
    reason: 'Made',
    message: `no. You sent ${echo}`,
  }));
  const linode = await startProxy(new URL(sandbox.linode.url).origin, any, (_, echo) => ({
    errors: [{ reason: `no. You sent ${echo}` }],
  }));
  const cloudflare = await startProxy(new URL(sandbox.cloudflare.url).origin, any, (_, echo) => ({
    result: null,
    success: false,
    errors: [{ code: 1, message: `no. You sent ${echo}` }],
    messages: [],
  }));
  const heard: string[] = [];
  const chat = createServer((request, response) => {
    request.on('data', (chunk: Buffer) => heard.push(chunk.toString())).on('end', () => response.end('ok'));
  });
  await new Promise<void>((resolve) => {
    chat.listen(0, '127.0.0.1', resolve);
  });
  const port = Object(chat.address()).port;
  const webhook = await startProxy(`http://127.0.0.1:${port}`, any, (_, echo) => ({ error: `no. You sent ${echo}` }));
  const proxies = [cluster, linode, cloudflare, webhook];
  onTestFinished(async () => {
    for (const proxy of proxies) await proxy.close();
    chat.close();
  });
  kubeConfig.clusters = kubeConfig.clusters.map((one) => ({ ...one, server: cluster.url, skipTLSVerify: true }));
  const kubeconfig = join(folder, 'kubeconfig');
  await writeFile(kubeconfig, kubeConfig.exportConfig(), { mode: 0o600 });
  const behind = (proxy: Proxy, url: string) => `${proxy.url}${new URL(url).pathname}`;
  return {
    temp,
    env: {
      KUBECONFIG: kubeconfig,
      LINODE_API_URL: behind(linode, sandbox.linode.url),
      CLOUDFLARE_API_URL: behind(cloudflare, sandbox.cloudflare.url),
      PGLEAP_NOTIFY_URL: `${webhook.url}/hook/${room}?token=${room}`,
      TMPDIR: temp,
    },
    told: () => heard.join('\n'),
    sow: (fault: Fault) => sow(proxies, fault),
  };
}

/** So long a fault waits for its request: some are made once in an upgrade. */
const patienceMs = 3000;

/**
 * Lets requests meet the fault now and then, at each server that is asked just then, and changes as often as reads: no more
 * than were allowed so far. What a worker asks each of them first meets it in any case.
 */
function sow(proxies: Proxy[], fault: Fault): { allow(more: number): void; stop(): void; count(): number } {
  const random = randomOf(`canaries ${fault}`);
  const pick = <T>(from: readonly T[]): T | undefined => from[Math.floor(random() * from.length)];
  const waiting = new Map<Proxy, number>();
  const heard = new Map<Proxy, number>();
  let count = 0;
  let most = 0;
  const order = (proxy: Proxy, call: string) => {
    proxy.next(call, fault);
    waiting.set(proxy, performance.now());
  };
  for (const proxy of proxies) order(proxy, 'GET *');
  const timer = setInterval(() => {
    for (const [proxy, since] of waiting) {
      if (proxy.happened()) count += 1;
      else if (proxy.seen.length === 0 || performance.now() - since < patienceMs) continue;
      // Or else it meets a retry uncounted, and the next one, and every one.
      else proxy.withdraw();
      waiting.delete(proxy);
    }
    for (const proxy of proxies) {
      const asked = proxy.seen.length;
      if (waiting.has(proxy) || asked === heard.get(proxy) || count + waiting.size >= most) continue;
      heard.set(proxy, asked);
      const call = pick([...new Set(proxy.seen)]);
      if (call === undefined) continue;
      // The first change is told from those after it, and does not come again.
      order(proxy, /^GET|again$/.test(call) ? call : `${call}, again`);
    }
  }, 700);
  return {
    allow: (more) => void (most = count + more),
    stop() {
      clearInterval(timer);
      for (const proxy of proxies) proxy.forget();
    },
    count: () => count,
  };
}
