import { mkdir, rm, writeFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { findImage } from '../images/catalog.ts';
import { startContainer } from './container.ts';
import { inspectHost } from './host.ts';
import { addressAllocator, startNode } from './network.ts';
import type { RunningContainer, Runtime } from './types.ts';

/** Long enough for a PostgreSQL to shut down cleanly; a program that ignores SIGTERM costs that much. */
const CLOSE_GRACE_MS = 5000;

/**
 * Makes the machine below the sandbox's Kubernetes: real processes in namespaces of their own. Whatever becomes of
 * this process, the kernel ends all of them with it.
 * @param options.stateDir for one runtime at a time; holds the root directories of running containers and the hosts file
 * @param options.cacheDir where images are kept between runs
 * @throws Error with the remedy when this machine cannot hold containers
 */
export async function createRuntime(options: { stateDir: string; cacheDir: string }): Promise<Runtime> {
  const host = inspectHost();
  const stateDir = resolve(options.stateDir);
  const cacheDir = resolve(options.cacheDir);
  const containersDir = join(stateDir, 'containers');
  const hostsFile = join(stateDir, 'etc', 'hosts');
  await rm(containersDir, { recursive: true, force: true });
  await mkdir(dirname(hostsFile), { recursive: true });
  await writeFile(hostsFile, '127.0.0.1 localhost\n');

  const node = await startNode(host);
  const addresses = addressAllocator();
  const running = new Set<RunningContainer>();
  let started = 0;

  return {
    hostsFile,
    async start(spec) {
      const image = await findImage(spec.image, cacheDir, host.locale);
      const directory = join(containersDir, spec.id);
      const ip = addresses.take(spec.ip);
      const veth = `pod${(started += 1)}`;
      try {
        const container = await startContainer(spec, { host, node, image, ip, veth, directory, hostsFile });
        running.add(container);
        void container.exited.finally(() => {
          running.delete(container);
          addresses.give(ip);
        });
        return container;
      } catch (error) {
        addresses.give(ip);
        throw error;
      }
    },
    connect: (ip, port) => node.connect(ip, port),
    async close() {
      await Promise.all([...running].map((container) => container.stop(CLOSE_GRACE_MS)));
      await node.close();
      await rm(containersDir, { recursive: true, force: true });
    },
  };
}
