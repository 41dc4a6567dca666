import { existsSync, readFileSync } from 'node:fs';
import { statfs } from 'node:fs/promises';
import path from 'node:path';
import { findCgroups, type Cgroups } from './cgroups.ts';
import { run } from './command.ts';
import { cacheFolder, stateFolder } from './layout.ts';
import { chooseNetwork, foreignLink, linkExists, usedRanges, type Network } from './network.ts';
import { missingPackages } from './packages.ts';
import type { ClusterState } from './state.ts';

/** What `cluster:up` needs to know of the machine before it changes anything. */
export interface Facts {
  platform: string;
  uid: number;
  apt: boolean;
  cgroups: Cgroups | undefined;
  overlay: boolean;
  /** Debian packages that are not installed. */
  packages: string[];
  /** Whether the Go programs are in the cache. */
  built: boolean;
  /** Go's version (`1.26.0`), where there is one. */
  go: string | undefined;
  free: { stateBytes: number; cacheBytes: number };
  /** The recorded cluster, whatever is left of it. */
  recorded: boolean;
  /** Whether the cluster's link to the machine is there. */
  link: boolean;
  network: Network | undefined;
}

const gibibyte = 2 ** 30;
/** Images unpacked, etcd, volumes of tests. Measured: 3.2 GiB. */
const stateNeeds = 4 * gibibyte;
/** Measured: 1.7 GiB; the rest is for Go's own caches, which lie on the same disk as a rule. */
const cacheNeeds = 6 * gibibyte;

async function goVersion(): Promise<string | undefined> {
  try {
    return /go(\d+\.\d+(\.\d+)?)/.exec(await run('go', ['env', 'GOVERSION']))?.[1];
  } catch {
    return undefined;
  }
}

async function freeBytes(folder: string): Promise<number> {
  let there = folder;
  while (!existsSync(there)) there = path.dirname(there);
  const { bavail, bsize } = await statfs(there);
  return bavail * bsize;
}

export async function gatherFacts(state: ClusterState | undefined, built: boolean): Promise<Facts> {
  const apt = existsSync('/usr/bin/apt-get');
  const packages = apt ? await missingPackages() : [];
  return {
    platform: process.platform,
    uid: process.getuid?.() ?? -1,
    apt,
    cgroups: findCgroups(),
    overlay: existsSync('/proc/filesystems') && readFileSync('/proc/filesystems', 'utf8').includes('\toverlay\n'),
    packages,
    built,
    go: built ? undefined : await goVersion(),
    free: { stateBytes: await freeBytes(stateFolder), cacheBytes: await freeBytes(cacheFolder) },
    recorded: state !== undefined,
    link: linkExists(),
    // Without iproute2 nothing can be asked; it is asked again once that is installed.
    network: state?.network ?? (packages.includes('iproute2') ? undefined : chooseNetwork(await usedRanges())),
  };
}

/** Everything that is in the way, each with what to do about it. Empty: `up` may begin. */
export function problems(facts: Facts): string[] {
  if (facts.platform !== 'linux') {
    return ['The test cluster needs Linux. Give the tests another cluster: PGLEAP_TEST_KUBECONFIG=<file>.'];
  }
  const found: string[] = [];
  if (facts.uid !== 0) {
    found.push(
      'It must run as root, because it makes namespaces, mounts and cgroups: run it as root in a machine or container for tests.',
    );
  }
  if (!facts.apt)
    found.push('apt-get is missing: etcd, containerd and the images come from Debian. Use Debian 12 or later.');
  if (facts.cgroups === undefined) {
    found.push(
      'No cgroups are mounted at /sys/fs/cgroup: pods cannot run. In a container, start it privileged with --cgroupns=host.',
    );
  } else if (facts.cgroups.missing.length > 0) {
    found.push(
      `These cgroup controllers are missing: ${facts.cgroups.missing.join(', ')}. Mount them below /sys/fs/cgroup, or boot a kernel that has them.`,
    );
  }
  if (!facts.overlay) found.push('The kernel has no overlay file system: load it with `modprobe overlay`.');
  if (!facts.built && facts.go === undefined) {
    found.push(
      'Go is missing, and Kubernetes has yet to be built from source: install Go 1.26 or later (https://go.dev/dl).',
    );
  } else if (!facts.built && !isRecentGo(facts.go ?? '')) {
    found.push(
      `Go ${facts.go} is too old to build the cluster's programs: install Go 1.26 or later (https://go.dev/dl).`,
    );
  }
  if (!facts.recorded && facts.free.stateBytes < stateNeeds)
    found.push(noRoom(stateFolder, facts.free.stateBytes, stateNeeds));
  if (!facts.built && facts.free.cacheBytes < cacheNeeds)
    found.push(noRoom(cacheFolder, facts.free.cacheBytes, cacheNeeds));
  if (!facts.recorded && facts.link) found.push(foreignLink);
  if (facts.network === undefined && !facts.packages.includes('iproute2')) {
    found.push(
      'Every private address range that the cluster could use has an address or a route on this machine: free one of 10.213.0.0/16, 10.187.0.0/16, 10.99.0.0/16, 172.27.0.0/16, 172.30.0.0/16 or 192.168.0.0/16.',
    );
  }
  return found;
}

/** The volumes' driver and its sidecars ask for the newest. */
function isRecentGo(version: string): boolean {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  return major > 1 || (major === 1 && minor >= 26);
}

function noRoom(folder: string, free: number, needed: number): string {
  const show = (bytes: number) => `${(bytes / gibibyte).toFixed(1)} GiB`;
  return `Too little room for ${folder}: ${show(free)} free, ${show(needed)} needed. Free some, or put the folder on another disk.`;
}
