/**
 * The embedded world in one call: pods that are real processes, a Kubernetes API over them, block storage and a zone at
 * stand-ins for their providers, and the example services in it. pgleap reaches it as it reaches any other.
 */
import { randomBytes } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { startLinode } from './clouds/linode.ts';
import { startCluster } from './kube/cluster.ts';
import { createRuntime } from './runtime/runtime.ts';
import { raiseWorld, type WorldAddress } from './world/raise.ts';
import type { WorldOptions } from './world/world.ts';

const NODE = { linodeId: 40_217_933, region: 'eu-central' };
const IMAGE_CACHE = join(import.meta.dirname, '..', '..', '.cache', 'sandbox');

export interface SandboxOptions extends WorldOptions {
  /** Kept by the caller, who also removes it. */
  stateDir: string;
  log?: (line: string) => void;
}

/** Starts all of it and resolves when every example service is ready. Throws an Error that says what this machine lacks. */
export async function startSandbox(
  options: SandboxOptions,
): Promise<{ address: WorldAddress; close(): Promise<void> }> {
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
    const world = await raiseWorld({
      ...options,
      kubeconfig: cluster.kubeconfigPath,
      linode: { url: linode.url, token: linode.token },
      connect: ({ status }, port) => runtime.connect(status?.podIP ?? '', port),
      log,
    });
    closers.push(() => world.close());
    return { address: world.address, close };
  } catch (error) {
    await close();
    throw error;
  }
}
