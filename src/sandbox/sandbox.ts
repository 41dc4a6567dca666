/**
 * The embedded world in one call: pods that are real processes, a Kubernetes API over them, block storage and a zone at
 * stand-ins for their providers, and the example services in it. pgleap reaches it as it reaches any other.
 */
import { randomBytes } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { request as httpRequest } from 'node:http';
import { join } from 'node:path';
import { KubeConfig } from '@kubernetes/client-node';
import { MAINTENANCE_WORKER, startCloudflare } from './clouds/cloudflare.ts';
import { startLinode } from './clouds/linode.ts';
import { startCluster } from './kube/cluster.ts';
import { createRuntime } from './runtime/runtime.ts';
import type { Runtime } from './runtime/types.ts';
import { openAccess, readyPods, type Access } from './world/access.ts';
import { buildWorld, SITE_HOST, writeSpec, ZONE_NAME, type WorldOptions } from './world/world.ts';

const ZONE_ID = '0123456789abcdef0123456789abcdef';
const NODE = { linodeId: 40_217_933, region: 'eu-central' };
const IMAGE_CACHE = join(import.meta.dirname, '..', '..', '.cache', 'sandbox');

/** What a user of the sandbox needs to reach it; all of it goes through pgleap's normal configuration. */
export interface SandboxAddress {
  kubeconfig: string;
  linode: { url: string; token: string };
  cloudflare: { url: string; token: string; zoneId: string };
  /** The zone as visitors reach it; `siteHost` is the Host header to send. */
  siteUrl: string;
  siteHost: string;
  /** Path of the example's spec, with its manifests beside it. */
  upgradeSpec: string;
}

export interface SandboxOptions extends WorldOptions {
  /** Kept by the caller, who also removes it. */
  stateDir: string;
  log?: (line: string) => void;
}

/** Starts all of it and resolves when every example service is ready. Throws an Error that says what this machine lacks. */
export async function startSandbox(
  options: SandboxOptions,
): Promise<{ address: SandboxAddress; close(): Promise<void> }> {
  const { stateDir, log = () => {} } = options;
  const closers: (() => Promise<void>)[] = [];
  const close = async () => {
    for (const one of closers.splice(0).reverse()) await one();
  };
  try {
    await mkdir(stateDir, { recursive: true });
    const runtime = await createRuntime({ stateDir: join(stateDir, 'runtime'), cacheDir: IMAGE_CACHE });
    closers.push(() => runtime.close());
    const linode = await startLinode({
      stateDir: join(stateDir, 'linode'),
      token: randomBytes(32).toString('hex'),
      region: NODE.region,
      log,
    });
    closers.push(() => linode.close());
    const cluster = await startCluster({
      stateDir: join(stateDir, 'kube'),
      runtime,
      volumes: linode.volumes,
      node: NODE,
      onError: (where, error) => log(`cluster: ${where}: ${String(error)}`),
    });
    closers.push(() => cluster.close());
    const kubeConfig = new KubeConfig();
    kubeConfig.loadFromFile(cluster.kubeconfigPath);
    const access = openAccess(kubeConfig);
    const cloudflare = await startCloudflare({
      token: randomBytes(20).toString('hex'),
      zoneId: ZONE_ID,
      zoneName: ZONE_NAME,
      scripts: { maintenance: MAINTENANCE_WORKER },
      origin: (request) => visitSite(runtime, access, request),
      log,
    });
    closers.push(() => cloudflare.close());
    await buildWorld(access, (objects) => cluster.apply(objects), options);
    const address = {
      kubeconfig: cluster.kubeconfigPath,
      linode: { url: linode.url, token: linode.token },
      cloudflare: { url: cloudflare.apiUrl, token: cloudflare.token, zoneId: ZONE_ID },
      siteUrl: cloudflare.siteUrl,
      siteHost: SITE_HOST,
      upgradeSpec: await writeSpec(join(stateDir, 'upgrade'), { from: options.from, siteUrl: cloudflare.siteUrl }),
    };
    return { address, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** What the load balancer in front of the cluster does: passes the request to a ready pod of the website, or answers 502. */
async function visitSite(runtime: Runtime, access: Access, request: Request): Promise<Response> {
  const pods = await readyPods(access, 'web', 'site');
  const ip = pods[Math.floor(Math.random() * pods.length)]?.status?.podIP;
  if (ip === undefined) return new Response('no backend is ready\n', { status: 502 });
  const { pathname, search } = new URL(request.url);
  try {
    const stream = await runtime.connect(ip, 8080);
    return await new Promise((resolve, reject) => {
      const sent = httpRequest(
        {
          method: request.method,
          path: pathname + search,
          headers: { host: SITE_HOST, connection: 'close' },
          createConnection: () => stream,
        },
        (answer) => {
          const parts: Buffer[] = [];
          answer.on('data', (part: Buffer) => parts.push(part));
          answer.on('error', reject);
          answer.on('end', () => {
            const headers = Object.entries(answer.headers).map(([name, value]): [string, string] => [
              name,
              String(value),
            ]);
            resolve(new Response(Buffer.concat(parts), { status: answer.statusCode ?? 502, headers }));
          });
        },
      );
      sent.setTimeout(5000, () => sent.destroy(new Error('timeout')));
      sent.on('error', reject);
      sent.end();
    });
  } catch {
    return new Response('the backend did not answer\n', { status: 502 });
  }
}
