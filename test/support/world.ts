/** The world that a test stands in: the sandbox, or with PGLEAP_WORLD=cluster the test cluster. */
import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { WorldAddress } from '../../src/sandbox/world/raise.ts';
import type { WorldOptions } from '../../src/sandbox/world/world.ts';

/** Set by test/cluster/vitest.config.ts. */
export const onCluster = process.env['PGLEAP_WORLD'] === 'cluster';

/** A major older than the target, and not the oldest; each world has its own. */
export const between = onCluster ? 17 : 16;

const root = join(import.meta.dirname, '..', '..');
const program = onCluster ? 'test/cluster/world.ts' : 'src/sandbox/main.ts';

interface Options extends Omit<WorldOptions, 'topology'> {
  /** Kept by the caller, who also removes it. */
  stateDir: string;
  topology?: string;
}

/** Resolves when every service of the example is ready. `close` leaves nothing of it. */
export async function raiseTestWorld(options: Options): Promise<{ address: WorldAddress; close(): Promise<void> }> {
  const { stateDir, from, sizeMb, topology = 'sandbox' } = options;
  const args = ['--state', stateDir, '--from', String(from), '--size', String(sizeMb), '--topology', topology];
  const child = fork(join(root, program), args, { stdio: ['ignore', 'pipe', 'pipe', 'ipc'] });
  let log = '';
  child.stderr?.on('data', (chunk: Buffer) => (log = (log + chunk.toString()).slice(-2000)));
  const address = await firstLine(child);
  if (address === undefined) throw new Error(`the world did not stand: ${log}`);
  const close = async () => {
    await end(child);
    if (child.exitCode !== 0) throw new Error(`the world ended with ${child.exitCode ?? child.signalCode}: ${log}`);
  };
  return { address, close };
}

/** Undefined when it ends without one. */
async function firstLine({ stdout }: ChildProcess): Promise<WorldAddress | undefined> {
  if (stdout === null) throw new Error('no output');
  for await (const line of createInterface({ input: stdout })) {
    const address: WorldAddress = JSON.parse(line);
    return address;
  }
  return undefined;
}

/** Ends a process that ends in order when told to. */
export async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exit = once(child, 'exit');
  child.kill('SIGTERM');
  await exit;
}
