import { existsSync } from 'node:fs';
import { rm, writeFile } from 'node:fs/promises';
import { run } from './command.ts';
import { ClusterProblem } from './layout.ts';

const packages = [
  'containerd',
  'containernetworking-plugins',
  'e2fsprogs',
  'etcd-server',
  'iproute2',
  'iptables',
  'mmdebstrap',
  'openssl',
  'runc',
  'util-linux',
];

/** Which of the Debian packages that the cluster runs on are not installed. */
export async function missingPackages(): Promise<string[]> {
  const known = await run('dpkg-query', ['--show', '--showformat', '${Package} ${db:Status-Status}\n']);
  const installed = new Set(
    known
      .split('\n')
      .filter((line) => line.endsWith(' installed'))
      .map((line) => line.split(' ')[0]),
  );
  return packages.filter((name) => !installed.has(name));
}

const servicePolicy = '/usr/sbin/policy-rc.d';

/**
 * Installs Debian packages without starting the services that some of them bring: the cluster runs its own.
 * @throws ClusterProblem naming the packages and apt's reason
 */
export async function installPackages(names: string[], signal?: AbortSignal): Promise<void> {
  if (names.length === 0) return;
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  const keepsServicesOff = !existsSync(servicePolicy);
  if (keepsServicesOff) await writeFile(servicePolicy, '#!/bin/sh\nexit 101\n', { mode: 0o755 });
  try {
    await run('apt-get', ['update', '-qq'], { env, signal });
    await run('apt-get', ['install', '--yes', '-qq', '--no-install-recommends', ...names], { env, signal });
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new ClusterProblem(
      `These Debian packages could not be installed: ${names.join(', ')}. Install them by hand, then run it again.\n${reason}`,
      { cause: error },
    );
  } finally {
    if (keepsServicesOff) await rm(servicePolicy, { force: true });
  }
}
