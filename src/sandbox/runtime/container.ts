import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { constants } from 'node:os';
import { dirname, join } from 'node:path';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Image, type ImageUser, POSTGRES_USER } from '../images/catalog.ts';
import { HOST_PATH, type Host, ROOTLESS_ENTER } from './host.ts';
import type { Node } from './network.ts';
import { prepareRoot } from './rootfs.ts';
import type { ContainerExit, ContainerSpec, RunningContainer } from './types.ts';

/** What root in a container of the common runtimes may do, so that it can do no more here. */
const CAPABILITIES =
  '-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,+net_raw,+sys_chroot,' +
  '+mknod,+audit_write,+setfcap';

const NAMESPACES = ['--mount', '--pid', '--net', '--uts', '--ipc'];

export interface ContainerPlace {
  host: Host;
  node: Node;
  image: Image;
  ip: string;
  /** Name of the host's end of the network cable, at most 15 characters. */
  veth: string;
  /** Does not exist yet, and does not any more when the container has ended. */
  directory: string;
  hostsFile: string;
}

/**
 * Starts one container and resolves when its own program is about to run.
 * @throws Error with what could not be set up; nothing is left then
 */
export async function startContainer(spec: ContainerSpec, place: ContainerPlace): Promise<RunningContainer> {
  const { host, node, image, ip, directory } = place;
  const user = effectiveUser(image, host);
  const env: NodeJS.ProcessEnv = { HOME: user.home, HOSTNAME: spec.hostname, ...image.env, ...spec.env };
  const child = await launch(spec, place, env);
  let alive = true;
  const ended = exitOf(child);
  const exited = ended.then(async (exit) => {
    alive = false;
    await rm(directory, { recursive: true, force: true }).catch(() => undefined);
    return exit;
  });

  const report = await setupReport(child);
  const pid = Number(/^pid (\d+)$/m.exec(report)?.[1]);
  if (!/^ready$/m.test(report)) {
    await exited;
    const reason = report.replace(/^pid .*\n/, '').trim();
    throw new Error(`Container ${spec.id} could not be started: ${reason || 'its first process was killed'}`);
  }

  return {
    ip,
    exited,
    async stop(graceMs) {
      signal(pid, image.stopSignal, alive);
      const inTime = await Promise.race([exited.then(() => true), sleep(graceMs, false, { ref: false })]);
      // The first process of a pid namespace takes all others with it.
      if (!inTime) signal(pid, 'SIGKILL', alive);
      await exited;
    },
    exec(argv) {
      if (!alive) throw new Error(`Container ${spec.id} has ended.`);
      // Only nsenter is our child; the death signal makes a kill() of it reach the program inside.
      const program = [...(host.rootless ? [host.tools.setpriv] : asUser(image.user, host)), '--pdeathsig=KILL', '--'];
      const target: [string, ...string[]] = [host.tools.nsenter, '--target', String(pid), ...NAMESPACES];
      // The node's user namespace gives the right to enter; the container's own, joined last, takes it away again.
      const enter: [string, ...string[]] = host.rootless ? [...node.enter, ...target, ...ROOTLESS_ENTER] : target;
      const [command, ...args] = enter;
      const entered = spawn(command, [...args, '--', ...program, ...argv], {
        stdio: ['pipe', 'pipe', 'pipe'],
        detached: true,
        env,
      });
      // A program need not read all its input; what it made of it is told by its exit code.
      entered.stdin.on('error', () => undefined);
      return entered;
    },
  };
}

async function launch(spec: ContainerSpec, place: ContainerPlace, env: NodeJS.ProcessEnv): Promise<ChildProcess> {
  const { host, node, image, ip, veth, directory, hostsFile } = place;
  const { hostname, mounts } = spec;
  const root = join(directory, 'root');
  const fstab = join(directory, 'fstab');
  const program = [...(spec.command ?? image.entrypoint), ...(spec.args ?? (spec.command ? [] : image.cmd))];
  try {
    await mkdir(root, { recursive: true });
    await writeFile(fstab, await prepareRoot({ root, image, mounts, hostname, hostsFile, rootless: host.rootless }));
    const log = openSync(spec.logPath, 'a');
    try {
      const path = env['PATH'] ?? HOST_PATH;
      const wiring = [`/proc/${node.pid}/ns/net`, veth, ip, hostname, root, fstab, dirname(image.layer), path];
      const [command, ...args] = node.enter;
      args.push('--', host.tools.unshare, ...NAMESPACES, '/bin/sh', '-c', WAIT_FOR_FIRST, CONTAINER_SCRIPT, ...wiring);
      args.push(...asUser(image.user, host), '--', ...program);
      return spawn(command, args, {
        stdio: ['ignore', log, log, 'pipe'],
        detached: true,
        env: { ...env, PATH: HOST_PATH },
      });
    } finally {
      closeSync(log);
    }
  } catch (error) {
    await rm(directory, { recursive: true, force: true });
    throw error;
  }
}

/** The shell's child is pid 1 of the new pid namespace. `unshare --fork` would wait too, but forgets a SIGKILL. */
const WAIT_FOR_FIRST = 'exec 6>&2 2>/dev/null; /bin/sh "$0" "$@"; exit $?';
const CONTAINER_SCRIPT = join(import.meta.dirname, 'container.sh');

/** Without root there is one user id only. It must not be 0, which PostgreSQL refuses, so its owner's stands in. */
function effectiveUser(image: Image, host: Host): ImageUser {
  return host.rootless && image.user.uid === 0 ? POSTGRES_USER : image.user;
}

/** Command line prefix that becomes the image's user; "--" and the program follow. */
function asUser(user: ImageUser, { tools, rootless }: Host): string[] {
  if (rootless) {
    const { uid, gid } = user.uid === 0 ? POSTGRES_USER : user;
    return [tools.unshare, '--user', `--map-user=${uid}`, `--map-group=${gid}`];
  }
  const ids = user.uid === 0 ? [] : [`--reuid=${user.uid}`, `--regid=${user.gid}`, '--clear-groups'];
  return [tools.setpriv, ...ids, `--bounding-set=${CAPABILITIES}`];
}

function signal(pid: number, name: NodeJS.Signals, alive: boolean): void {
  if (!alive) return;
  try {
    process.kill(pid, name);
  } catch {
    // It ended by itself just now; `exited` will say so.
  }
}

function exitOf(child: ChildProcess): Promise<ContainerExit> {
  return new Promise((resolve) => {
    child.once('exit', (code, name) => resolve({ code: code ?? (name === null ? 1 : 128 + constants.signals[name]) }));
    child.once('error', () => resolve({ code: 127 }));
  });
}

/** Reads what container.sh reports, to "ready" or the end; nsenter and unshare hold the pipe open for longer. */
async function setupReport(child: ChildProcess): Promise<string> {
  const pipe = child.stdio[3];
  let text = '';
  if (!(pipe instanceof Readable)) return text;
  for await (const chunk of pipe) {
    text += String(chunk);
    if (/^ready$/m.test(text)) break;
  }
  return text;
}
