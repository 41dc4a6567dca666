import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { closeSync, existsSync, openSync, readFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { clusterPids, componentPids, endAll, makeComponentCgroup } from './cgroups.ts';
import { ClusterProblem, folders, stateFolder } from './layout.ts';
import { writeState, type ClusterState } from './state.ts';

/** A process of the cluster on the machine itself, in the cluster's network and mount namespaces. */
export interface Component {
  name: string;
  command: string;
  args: string[];
  env?: Record<string, string>;
  /** Contents that decide how it behaves beside its arguments, such as its configuration: a change restarts it. */
  inputs?: string[];
  /** How long it may take to end by SIGTERM. Default 5 s. */
  graceMs?: number;
}

/** Kept alive for its network and mount namespaces, which all others join. */
const holder = 'namespaces';

// Nothing of the caller's: no proxy, no token.
const environment = {
  PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  HOME: '/root',
  LANG: 'C.UTF-8',
};

/** Enters its cgroup before anything else, so that even a start that is cut short can be found and ended. */
const launch = 'echo $$ >"$0" && exec "$@"';

/**
 * In a mount namespace of its own the cluster finds /var/lib, /var/log and /run as its programs expect them, all of them
 * below the state folder or in memory; when its last process ends, so do its mounts. What is mounted in it later is
 * shared with containers that ask for it (CSI drivers do).
 */
const prepareMounts = `
set -e
mkdir -p ${folders.lib}${stateFolder.slice('/var/lib'.length)} ${folders.varLog}
mount --bind ${stateFolder} ${folders.lib}${stateFolder.slice('/var/lib'.length)}
mount --rbind ${folders.lib} /var/lib
mount --bind ${folders.varLog} /var/log
mount -t tmpfs -o mode=755 tmpfs /run
mount --make-rshared /
echo ready >/run/ready
exec sleep infinity`;

/** Starts the process that holds the namespaces, unless it is there. What had joined those of an earlier one is ended. */
export async function convergeNamespaces(): Promise<void> {
  if (componentPids(holder).length > 0) return;
  await endAll(clusterPids, 5000);
  await mkdir(folders.logs, { recursive: true });
  const args = ['--net', '--mount', '--propagation', 'slave', '--', 'sh', '-c', prepareMounts];
  await launchDetached({ name: holder, command: 'unshare', args });
  for (let waited = 0; ; waited += 50) {
    if (existsSync(`/proc/${componentPids(holder)[0]}/root/run/ready`)) return;
    if (waited > 10_000) throw new ClusterProblem(`The cluster's mounts could not be made:\n${logEnd(holder)}`);
    await sleep(50);
  }
}

/** A process in the cluster's namespaces; `/proc/<pid>/root` shows its files from outside. */
export function holderPid(): number {
  const [pid] = componentPids(holder);
  if (pid === undefined) throw new ClusterProblem('The test cluster does not run. Start it: npm run cluster:up');
  return pid;
}

/** Arguments of nsenter for what shall see the network, the mounts and the folders of the cluster. */
export function enterCluster(): string[] {
  const pid = holderPid();
  return [`--net=/proc/${pid}/ns/net`, `--mount=/proc/${pid}/ns/mnt`, '--'];
}

async function launchDetached(component: Component, enter: string[] = []): Promise<void> {
  const membership = await makeComponentCgroup(component.name);
  const log = openSync(logFile(component.name), 'a');
  try {
    const command = ['sh', '-c', launch, membership, ...enter, component.command, ...component.args];
    const child = spawn(command[0] ?? '', command.slice(1), {
      detached: true,
      cwd: '/',
      env: { ...environment, ...component.env },
      stdio: ['ignore', log, log],
    });
    child.unref();
    await new Promise((resolve, reject) => child.once('spawn', () => resolve(undefined)).once('error', reject));
    for (let waited = 0; componentPids(component.name).length === 0; waited += 20) {
      if (child.exitCode !== null || waited > 5000) {
        throw new ClusterProblem(`${component.name} did not start:\n${logEnd(component.name)}`);
      }
      await sleep(20);
    }
  } finally {
    closeSync(log);
  }
}

const logFile = (name: string) => path.join(folders.logs, `${name}.log`);

/** The last lines of a component's log, for an error message. */
export function logEnd(name: string): string {
  try {
    return readFileSync(logFile(name), 'utf8').trim().split('\n').slice(-8).join('\n');
  } catch {
    return '(no log)';
  }
}

/** Starts a component unless it runs as it should; one that was started from something else is restarted. */
export async function convergeComponent(state: ClusterState, component: Component): Promise<'kept' | 'started'> {
  const digest = createHash('sha256').update(JSON.stringify(component)).digest('hex').slice(0, 16);
  const running = componentPids(component.name).length > 0;
  if (running && state.started[component.name] === digest) return 'kept';
  await stopComponent(component);
  state.started[component.name] = digest;
  await writeState(state);
  await launchDetached(component, ['nsenter', ...enterCluster()]);
  return 'started';
}

/** Ends a component's own process and waits until it is gone. Pods go on. `convergeComponent` starts it again. */
export async function stopComponent({ name, graceMs = 5000 }: Pick<Component, 'name' | 'graceMs'>): Promise<void> {
  await endAll(() => componentPids(name), graceMs);
}
