import { spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, rename, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { ClusterProblem, stateFolder } from './layout.ts';
import type { Network } from './network.ts';

/**
 * What `cluster:up` made, written before it is made: whoever comes after a crash knows what may be there. Which processes
 * run is not in here: the kernel knows it by their cgroups, and never mistakes a reused pid.
 */
export interface ClusterState {
  /** `up` once everything answered; until then something may be missing. */
  phase: 'building' | 'up';
  network: Network;
  /** Kernel settings that the kubelet changes for the whole machine, as they were before. */
  sysctls: Record<string, string>;
  /** By component: hash of what it was started from. */
  started: Record<string, string>;
}

const stateFile = path.join(stateFolder, 'state.json');

export function readState(): ClusterState | undefined {
  if (!existsSync(stateFile)) return undefined;
  try {
    return JSON.parse(readFileSync(stateFile, 'utf8')) as ClusterState;
  } catch (error) {
    throw new ClusterProblem(`${stateFile} cannot be read as JSON. Take the cluster down: npm run cluster:down`, {
      cause: error,
    });
  }
}

export async function writeState(state: ClusterState): Promise<void> {
  await mkdir(stateFolder, { recursive: true, mode: 0o755 });
  await writeIfChanged(stateFile, `${JSON.stringify(state, null, 2)}\n`);
}

/**
 * Replaces a file as a whole: a crash leaves the old one or the new one. One that is as it should be is left alone, because
 * kube-proxy ends when its configuration is written, whatever with.
 */
export async function writeIfChanged(file: string, text: string, mode = 0o644): Promise<void> {
  if (existsSync(file) && readFileSync(file, 'utf8') === text) return;
  await writeFile(`${file}.new`, text, { mode });
  await rename(`${file}.new`, file);
}

/**
 * Lets one `up` or `down` at a time work on the machine's cluster; another one waits for it up to `waitMs`.
 * The lock is the kernel's, on a folder that is always there, held by a child that ends with this process: neither a crash
 * nor success leaves anything behind.
 */
export async function withLock<T>(work: () => Promise<T>, waitMs = 25 * 60_000): Promise<T> {
  const holder = spawn(
    'flock',
    ['--wait', String(waitMs / 1000), path.dirname(stateFolder), 'sh', '-c', 'echo locked; exec cat'],
    // Ctrl-C is for us: the lock is held until everything is tidied up.
    { stdio: ['pipe', 'pipe', 'inherit'], detached: true },
  );
  const ended = new Promise<void>((resolve) => holder.once('close', () => resolve()));
  const locked = await new Promise<boolean>((resolve, reject) => {
    holder.stdout.once('data', () => resolve(true));
    holder.once('error', reject);
    holder.once('exit', () => resolve(false));
  });
  if (!locked)
    throw new ClusterProblem('Another cluster:up or cluster:down is still at work; try again when it is done.');
  try {
    return await work();
  } finally {
    holder.stdin.end();
    await ended;
  }
}
