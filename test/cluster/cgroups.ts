import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { mkdir, rmdir } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { clusterName, ClusterProblem } from './layout.ts';

/*
 * Every process of the cluster lives below one cgroup, from its first instruction on and with all its children: so the
 * kernel keeps the list of what belongs to the cluster.
 */

const root = '/sys/fs/cgroup';
/** What the kubelet and runc need on version 1. */
const neededControllers = ['blkio', 'cpu', 'cpuacct', 'cpuset', 'devices', 'freezer', 'memory', 'pids'];

export interface Cgroups {
  version: 1 | 2;
  /** Controllers that are not mounted; only version 1 mounts them one by one. */
  missing: string[];
}

/** How this machine mounts cgroups; undefined where it does not. */
export function findCgroups(): Cgroups | undefined {
  if (existsSync(`${root}/cgroup.controllers`)) {
    const has = readFileSync(`${root}/cgroup.controllers`, 'utf8').trim().split(' ');
    return { version: 2, missing: ['cpu', 'cpuset', 'memory', 'pids'].filter((name) => !has.includes(name)) };
  }
  const missing = neededControllers.filter((name) => !existsSync(`${root}/${name}/cgroup.procs`));
  return missing.length === neededControllers.length ? undefined : { version: 1, missing };
}

/** Where cgroups are mounted, below the root: version 2 has one tree, version 1 one for each controller and one by name. */
function hierarchies(): string[] {
  if (findCgroups()?.version === 2) return [''];
  return readdirSync(root).filter((name) => name !== 'unified' && existsSync(path.join(root, name, 'cgroup.procs')));
}

/** The hierarchy in which membership is kept: of version 1's many, the one that counts processes. */
function membership(): string {
  return path.join(root, findCgroups()?.version === 2 ? '' : 'pids', clusterName);
}

const componentCgroup = (name: string) => path.join(membership(), 'system', name);

/** Makes the cgroup of one component. @returns the file to write a pid to */
export async function makeComponentCgroup(name: string): Promise<string> {
  await mkdir(componentCgroup(name), { recursive: true });
  return path.join(componentCgroup(name), 'cgroup.procs');
}

/** Makes the cgroup below which the kubelet puts pods, in every hierarchy, as it expects. */
export async function makePodCgroups(): Promise<void> {
  for (const hierarchy of hierarchies()) await mkdir(path.join(root, hierarchy, podCgroup), { recursive: true });
}

export const podCgroup = `/${clusterName}/pods`;

function readPids(cgroup: string): number[] {
  try {
    return readFileSync(path.join(cgroup, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean).map(Number);
  } catch {
    // It ended while we looked.
    return [];
  }
}

function cgroupsBelow(folder: string): string[] {
  try {
    const names = readdirSync(folder, { withFileTypes: true }).filter((entry) => entry.isDirectory());
    return [...names.flatMap(({ name }) => cgroupsBelow(path.join(folder, name))), folder];
  } catch {
    return [];
  }
}

/** Every process of the cluster, pods included. */
export function clusterPids(): number[] {
  return cgroupsBelow(membership()).flatMap(readPids);
}

/** The component's own process. containerd's shims share its cgroup and outlive it, as they do elsewhere. */
export function componentPids(name: string): number[] {
  return readPids(componentCgroup(name)).filter((pid) => {
    try {
      return !path.basename(readlinkSync(`/proc/${pid}/exe`)).startsWith('containerd-shim');
    } catch {
      return false;
    }
  });
}

/** Signals until `pids()` is empty: SIGTERM for `graceMs`, then SIGKILL. */
export async function endAll(pids: () => number[], graceMs: number): Promise<void> {
  const started = performance.now();
  for (let round = 0; pids().length > 0; round += 1) {
    const waited = performance.now() - started;
    if (waited > graceMs + 30_000) {
      throw new ClusterProblem(`These processes do not end even by SIGKILL: ${pids().join(', ')}`);
    }
    const signal = waited >= graceMs ? 'SIGKILL' : 'SIGTERM';
    if (signal === 'SIGKILL' || round === 0) {
      for (const pid of pids()) {
        try {
          process.kill(pid, signal);
        } catch {
          // It ended by itself.
        }
      }
    }
    await sleep(50);
  }
}

/** Every cgroup directory of the cluster, deepest first. */
function clusterCgroups(): string[] {
  // Version 1 beside version 2: runc follows into both.
  const trees = findCgroups()?.version === 2 ? [''] : readdirSync(root);
  return trees.flatMap((hierarchy) => cgroupsBelow(path.join(root, hierarchy, clusterName)));
}

/** Removes them; all processes must have ended. */
export async function removeCgroups(): Promise<void> {
  for (let attempt = 0; clusterCgroups().length > 0; attempt += 1) {
    for (const folder of clusterCgroups()) {
      // The kernel takes a moment to let go of a cgroup whose last process ended.
      await rmdir(folder).catch((error: unknown) => {
        if (attempt > 50) throw error;
      });
    }
    await sleep(20);
  }
}
