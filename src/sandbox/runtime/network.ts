import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Duplex } from 'node:stream';
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
  connect(ip: string, port: number): Promise<Duplex>;
  /** Resolves when the node and all that lived in it are gone. */
  close(): Promise<void>;
}

const HOLD = `
set -e
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

/** Addresses of pods, handed out upwards; one comes back only after all others were used. */
export function addressAllocator(): { take(): string; give(address: string): void } {
  const used = new Set<number>();
  let last = 1;
  return {
    take() {
      for (let tries = 0; tries < 0xfffe; tries += 1) {
        last = last >= 0xfffe ? 2 : last + 1;
        if (used.has(last)) continue;
        used.add(last);
        return `10.88.${last >> 8}.${last & 0xff}`;
      }
      throw new Error('The sandbox has no pod address left.');
    },
    give(address) {
      const [, , high = 0, low = 0] = address.split('.').map(Number);
      used.delete(high * 256 + low);
    },
  };
}

/** @param tools absolute paths of the programs used */
export async function startNode(tools: { unshare: string; nsenter: string }, env: NodeJS.ProcessEnv): Promise<Node> {
  const holder = spawn(tools.unshare, ['--pid', '--net', '--fork', '--kill-child', '/bin/sh', '-c', HOLD], {
    stdio: ['pipe', 'pipe', 'pipe'],
    detached: true,
    env,
  });
  const gone = once(holder, 'exit');
  let complaint = '';
  holder.stderr.on('data', (chunk: Buffer) => (complaint += chunk.toString()));
  const lines = createInterface({ input: holder.stdout });
  const first = await Promise.race([once(lines, 'line').then(([line]) => String(line)), gone.then(() => undefined)]);
  if (first === undefined) throw new Error(`The sandbox's network could not be made: ${complaint.trim()}`);
  const pid = Number(first);

  let connector: ChildProcess | undefined;
  const waiting = new Map<number, { resolve(socket: Socket): void; reject(error: Error): void }>();
  let lastId = 0;

  function startConnector(): ChildProcess {
    const child = spawn(
      tools.nsenter,
      ['--target', String(pid), '--net', '--pid', process.execPath, join(import.meta.dirname, 'connector.ts')],
      { stdio: ['ignore', 'ignore', 'inherit', 'ipc'], detached: true, env },
    );
    child.on('message', (reply: ConnectReply, socket) => {
      const entry = waiting.get(reply.id);
      waiting.delete(reply.id);
      if (entry === undefined) {
        (socket as Socket | undefined)?.destroy();
      } else if (reply.error !== undefined) {
        entry.reject(Object.assign(new Error(reply.error.message), { code: reply.error.code }));
      } else {
        entry.resolve(socket as Socket);
      }
    });
    const lost = (): void => {
      if (connector === child) connector = undefined;
      for (const { reject } of waiting.values()) reject(new Error('The sandbox lost its way to the pod network.'));
      waiting.clear();
    };
    child.on('error', lost);
    child.on('exit', lost);
    return child;
  }

  return {
    pid,
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
