import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { Socket } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Duplex } from 'node:stream';
import { HOST_PATH, type Host, ROOTLESS_ENTER } from './host.ts';
import type { ConnectReply, ConnectRequest } from './connector.ts';

const GATEWAY = '10.88.0.1';
const CONNECT_TIMEOUT_MS = 10_000;

/**
 * The sandbox's one node: a process of ours that is pid 1 of a pid namespace and holds the network namespace with the
 * pods' bridge. Every container lives in namespaces below it, so the kernel ends them all when it ends, and it ends
 * when its stdin does: with us, however we die.
 */
export interface Node {
  /** Pid as the host sees it. */
  pid: number;
  /** Command line prefix that runs a program among the node's processes, with the right to make containers. */
  enter: [string, ...string[]];
  connect(ip: string, port: number): Promise<Duplex>;
  /** Resolves when the node and all that lived in it are gone. */
  close(): Promise<void>;
}

// The first lines fail early where the kernel would only fail the first container.
const HOLD = `
set -e
unshare --mount --pid --fork sh -c 'mount -t proc proc /proc && mount -t overlay -o ro,lowerdir=/usr:/etc none /proc'
ip -batch - <<END
link set dev lo up
link add name pods type bridge
address add ${GATEWAY}/16 dev pods
link set dev pods up
END
read -r pid rest </proc/self/stat
echo "$pid"
read -r forever || :
`;

function noContainers(reason: string, rootless: boolean): string {
  const who = rootless ? `user ${process.getuid?.()} (not root)` : 'root';
  const remedy = rootless
    ? 'run it as root, allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1, ' +
      'user.max_user_namespaces above 0, and on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0), or use a cluster'
    : 'run it outside of a container or in a privileged one, or use a cluster';
  return (
    `The embedded sandbox runs its pods as processes in Linux namespaces with an overlay file system, and this machine ` +
    `does not let ${who} make them: ${reason || 'no reason given'}. To go on, ${remedy}.`
  );
}

/** Addresses of pods, handed out upwards; one comes back only after all others were used, or to the pod that had it. */
export function addressAllocator(): { take(again?: string): string; give(address: string): void } {
  const used = new Set<number>();
  let last = 1;
  const numberOf = (address: string): number => {
    const [, , high = 0, low = 0] = address.split('.').map(Number);
    return high * 256 + low;
  };
  return {
    take(again) {
      if (again !== undefined && !used.has(numberOf(again))) {
        used.add(numberOf(again));
        return again;
      }
      for (let tries = 0; tries < 0xfffe; tries += 1) {
        last = last >= 0xfffe ? 2 : last + 1;
        if (used.has(last)) continue;
        used.add(last);
        return `10.88.${last >> 8}.${last & 0xff}`;
      }
      throw new Error('The sandbox has no pod address left.');
    },
    give(address) {
      used.delete(numberOf(address));
    },
  };
}

/** @throws Error that tells what this machine lacks for containers, and what to do */
export async function startNode({ tools, rootless }: Host): Promise<Node> {
  const env = { PATH: HOST_PATH };
  const userNamespace = rootless ? ['--user', '--map-root-user'] : [];
  const holder = spawn(
    tools.unshare,
    [...userNamespace, '--pid', '--net', '--fork', '--kill-child', '/bin/sh', '-c', HOLD],
    // A session of its own: Ctrl-C in the terminal is ours to handle and must not hit the pods.
    { stdio: ['pipe', 'pipe', 'pipe'], detached: true, env },
  );
  const gone = once(holder, 'exit');
  let complaint = '';
  holder.stderr.on('data', (chunk: Buffer) => (complaint += chunk.toString()));
  const lines = createInterface({ input: holder.stdout });
  const first = await Promise.race([once(lines, 'line').then(([line]) => String(line)), gone.then(() => undefined)]);
  if (first === undefined) throw new Error(noContainers(complaint.trim(), rootless));
  const pid = Number(first);
  const enter: [string, ...string[]] = [
    tools.nsenter,
    '--target',
    String(pid),
    '--pid',
    ...(rootless ? ROOTLESS_ENTER : []),
  ];

  let connector: ChildProcess | undefined;
  const waiting = new Map<number, { resolve(socket: Socket): void; reject(error: Error): void }>();
  let lastId = 0;

  function startConnector(): ChildProcess {
    const [command, ...args] = enter;
    args.push('--net', process.execPath, join(import.meta.dirname, 'connector.ts'));
    const child = spawn(command, args, { stdio: ['ignore', 'ignore', 'inherit', 'ipc'], detached: true, env });
    child.on('message', (reply: ConnectReply, socket) => {
      const entry = waiting.get(reply.id);
      waiting.delete(reply.id);
      if (reply.error !== undefined) {
        entry?.reject(Object.assign(new Error(reply.error.message), { code: reply.error.code }));
      } else if (socket instanceof Socket) {
        if (entry === undefined) socket.destroy();
        else entry.resolve(socket);
      }
    });
    const lost = (): void => {
      if (connector === child) connector = undefined;
      for (const entry of waiting.values()) entry.reject(new Error('The sandbox lost its way to the pod network.'));
      waiting.clear();
    };
    child.on('error', lost);
    child.on('exit', lost);
    return child;
  }

  return {
    pid,
    enter,
    async connect(ip, port) {
      connector ??= startConnector();
      const id = (lastId += 1);
      const request: ConnectRequest = { id, ip, port };
      let timer: NodeJS.Timeout | undefined;
      try {
        return await new Promise<Socket>((resolve, reject) => {
          waiting.set(id, { resolve, reject });
          timer = setTimeout(() => {
            waiting.delete(id);
            reject(Object.assign(new Error(`connect to ${ip}:${port} timed out`), { code: 'ETIMEDOUT' }));
          }, CONNECT_TIMEOUT_MS);
          connector?.send(request, (error) => error && reject(error));
        });
      } finally {
        clearTimeout(timer);
      }
    },
    async close() {
      holder.stdin.end();
      await gone;
    },
  };
}
