import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { KubeConfig, type V1Container, type V1DeploymentStrategy, type V1PodSpec } from '@kubernetes/client-node';
import { startCluster, type Cluster } from '../../src/sandbox/kube/cluster.ts';
import type { BlockVolume, Volumes } from '../../src/sandbox/kube/volumes.ts';
import { ImageNotFound, type Runtime } from '../../src/sandbox/runtime/types.ts';

/** Plain child processes instead of containers: no namespaces, so that these tests run on any machine with a shell. */
async function plainRuntime(stateDir: string): Promise<Runtime> {
  const hostsFile = join(stateDir, 'hosts');
  await writeFile(hostsFile, '127.0.0.1 localhost\n');
  let address = 1;
  return {
    hostsFile,
    async start({ image, ip, command = ['sleep', '1000000'], args = [], env, logPath, mounts }) {
      if (image.startsWith('missing')) throw new ImageNotFound(`${image} is not there`);
      const log = openSync(logPath, 'a');
      const [program = '', ...rest] = [...command, ...args];
      // What a container would see under a path, it finds here by name.
      const seen = Object.fromEntries(
        mounts.map((mount) => [`MOUNT${mount.target.replaceAll('/', '_')}`, mount.source]),
      );
      const all = { PATH: process.env['PATH'], ...env, ...seen };
      const child = spawn(program, rest, { env: all, stdio: ['ignore', log, log], detached: true });
      closeSync(log);
      await once(child, 'spawn');
      const exited = once(child, 'exit').then(([code]) => ({ code: (code as number | null) ?? 143 }));
      const kill = (signal: NodeJS.Signals) => {
        try {
          process.kill(-(child.pid ?? 0), signal);
        } catch {
          // It was gone already.
        }
      };
      address += 1;
      return {
        ip: ip ?? `127.0.0.${address}`,
        exited,
        async stop(graceMs) {
          kill('SIGTERM');
          const timer = setTimeout(kill, graceMs, 'SIGKILL');
          await exited;
          clearTimeout(timer);
        },
        exec: ([first = '', ...others]) => spawn(first, others, { env: all }),
      };
    },
    async connect(ip, port) {
      const socket = connect(port, ip);
      await once(socket, 'connect');
      return socket;
    },
    close: async () => undefined,
  };
}

/** Block volumes as directories, with the provider's rules that the cluster has to live with. */
function directoryVolumes(stateDir: string): Volumes & { all: Map<number, BlockVolume> } {
  const all = new Map<number, BlockVolume>();
  let last = 1_000_000;
  const find = (id: number): BlockVolume => {
    const found = all.get(id);
    if (found === undefined) throw new Error(`no volume ${id}`);
    return found;
  };
  return {
    all,
    async create({ label, sizeGb, region }) {
      last += 1;
      await mkdir(join(stateDir, 'volumes', String(last)), { recursive: true });
      all.set(last, { id: last, label, sizeGb, region, linodeId: null });
      return { id: last, label };
    },
    directory: (id) => join(stateDir, 'volumes', String(find(id).id)),
    async attach(id, linodeId) {
      const volume = find(id);
      if (volume.linodeId !== null && volume.linodeId !== linodeId) throw new Error('attached elsewhere');
      volume.linodeId = linodeId;
    },
    async detach(id) {
      const volume = all.get(id);
      if (volume !== undefined) volume.linodeId = null;
    },
    async resize(id, sizeGb) {
      find(id).sizeGb = sizeGb;
    },
    async delete(id) {
      if (all.get(id)?.linodeId) throw new Error('volume is attached');
      all.delete(id);
    },
    get: async (id) => all.get(id) ?? null,
  };
}

export interface World {
  cluster: Cluster;
  config: KubeConfig;
  volumes: Map<number, BlockVolume>;
  /** What went wrong inside the controllers. */
  problems: string[];
  directory: string;
  close(): Promise<void>;
}

export async function startWorld(): Promise<World> {
  const directory = await mkdtemp(join(tmpdir(), 'pgleap-kube-'));
  const volumes = directoryVolumes(directory);
  const problems: string[] = [];
  const cluster = await startCluster({
    stateDir: join(directory, 'cluster'),
    runtime: await plainRuntime(directory),
    volumes,
    onError: (where, error) =>
      problems.push(`${where}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`),
  });
  const config = new KubeConfig();
  config.loadFromFile(cluster.kubeconfigPath);
  return {
    cluster,
    config,
    volumes: volumes.all,
    problems,
    directory,
    async close() {
      await cluster.close();
      await rm(directory, { recursive: true, force: true });
    },
  };
}

/** A Deployment of one container `main` that runs a shell script; labelled `app`. */
export function deploymentOf(
  name: string,
  options: { replicas?: number; script?: string; image?: string; strategy?: V1DeploymentStrategy },
) {
  const { replicas = 1, script = 'exec sleep 1000', image = 'busybox:1', strategy } = options;
  const container: V1Container = { name: 'main', image, command: ['sh', '-c', script] };
  const containers: [V1Container] = [container];
  const spec: V1PodSpec & { containers: [V1Container] } = { containers, terminationGracePeriodSeconds: 1 };
  return {
    metadata: { name },
    spec: {
      replicas,
      selector: { matchLabels: { app: name } },
      template: { metadata: { labels: { app: name } }, spec },
      ...(strategy === undefined ? {} : { strategy }),
    },
  };
}

/** Asks every few milliseconds until the answer is there. Throws with the last problem after the time limit. */
export async function eventually<T>(
  ask: () => Promise<T | undefined | false>,
  what: string,
  limitMs = 10_000,
): Promise<T> {
  const end = Date.now() + limitMs;
  let problem: unknown;
  while (Date.now() < end) {
    try {
      const answer = await ask();
      if (answer !== undefined && answer !== false) return answer;
    } catch (error) {
      problem = error;
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error(`never came: ${what}`, { cause: problem });
}
