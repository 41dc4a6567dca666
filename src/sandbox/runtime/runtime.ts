import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, existsSync, openSync } from 'node:fs';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { constants } from 'node:os';
import { delimiter, dirname, join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { findImage, type Image } from '../images/catalog.ts';
import { addressAllocator, startNode } from './network.ts';
import { prepareRoot } from './rootfs.ts';
import type { ContainerExit, ContainerSpec, RunningContainer, Runtime } from './types.ts';

const HOST_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
/** What a container of the common runtimes may do as root; so a root shell in a pod cannot do more here than there. */
const CAPABILITIES = [
  ...['chown', 'dac_override', 'fowner', 'fsetid', 'kill', 'setgid', 'setuid', 'setpcap', 'net_bind_service'],
  ...['net_raw', 'sys_chroot', 'mknod', 'audit_write', 'setfcap'],
];

function toolPath(name: string, remedy: string): string {
  for (const directory of [...HOST_PATH.split(':'), ...(process.env['PATH'] ?? '').split(delimiter)]) {
    if (directory !== '' && existsSync(join(directory, name))) return join(directory, name);
  }
  throw new Error(`The sandbox needs the program ${name}, which this machine does not have: ${remedy}`);
}

/** The official image's locale where the host has it; C.UTF-8 is in every glibc since 2.35 and in Debian's before. */
function bestLocale(): string {
  try {
    const known = execFileSync('locale', ['-a'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
    return /^en_US\.utf-?8$/im.test(known) ? 'en_US.utf8' : 'C.UTF-8';
  } catch {
    return 'C.UTF-8';
  }
}

/**
 * Makes the machine below the sandbox's Kubernetes: real processes in namespaces of their own.
 * @param options.stateDir kept by the caller; root directories of running containers and the hosts file lie in it
 * @param options.cacheDir where images are kept between runs
 * @throws Error with the remedy when this machine cannot hold containers
 */
export async function createRuntime(options: { stateDir: string; cacheDir: string }): Promise<Runtime> {
  if (process.platform !== 'linux') {
    throw new Error(
      `The embedded sandbox runs its pods as Linux processes in namespaces, and this is ${process.platform}. ` +
        'Run it on Linux, or use a cluster.',
    );
  }
  const stateDir = resolve(options.stateDir);
  const cacheDir = resolve(options.cacheDir);
  const utilLinux = 'install util-linux.';
  const tools = {
    unshare: toolPath('unshare', utilLinux),
    nsenter: toolPath('nsenter', utilLinux),
    setpriv: toolPath('setpriv', utilLinux),
  };
  toolPath('pivot_root', utilLinux);
  toolPath('mount', 'install mount (part of util-linux).');
  toolPath('ip', 'install iproute2 (Debian and Ubuntu: apt install iproute2; Fedora: dnf install iproute).');
  toolPath('bash', 'install bash.');

  const hostsFile = join(stateDir, 'etc', 'hosts');
  await mkdir(dirname(hostsFile), { recursive: true });
  await writeFile(hostsFile, '127.0.0.1 localhost\n');
  const containersDir = join(stateDir, 'containers');
  const locale = bestLocale();
  const node = await startNode(tools, { PATH: HOST_PATH });
  const addresses = addressAllocator();
  const running = new Set<RunningContainer>();
  let veths = 0;

  function privileges(image: Image): string[] {
    const { uid, gid } = image.user;
    const ids = uid === 0 ? [] : [`--reuid=${uid}`, `--regid=${gid}`, '--clear-groups'];
    return [tools.setpriv, ...ids, `--bounding-set=-all,${CAPABILITIES.map((name) => `+${name}`).join(',')}`];
  }

  async function start(spec: ContainerSpec): Promise<RunningContainer> {
    const image = await findImage(spec.image, cacheDir, locale);
    const directory = join(containersDir, spec.id);
    const root = join(directory, 'root');
    await mkdir(root, { recursive: true });
    const { hostname, mounts } = spec;
    const fstab = join(directory, 'fstab');
    await writeFile(fstab, await prepareRoot({ root, image, mounts, hostname, hostsFile, mayChown: true }));

    const env: NodeJS.ProcessEnv = { HOME: image.user.home, HOSTNAME: hostname, ...image.env, ...spec.env };
    const program = [...(spec.command ?? image.entrypoint), ...(spec.args ?? (spec.command ? [] : image.cmd))];
    const ip = addresses.take();
    const veth = `pod${(veths += 1)}`;
    const log = openSync(spec.logPath, 'a');
    const namespaces = ['--mount', '--pid', '--net', '--uts', '--ipc', '--fork', '--kill-child'];
    const child = spawn(
      tools.nsenter,
      [
        ...['--target', String(node.pid), '--pid', tools.unshare, ...namespaces],
        ...['/bin/sh', join(import.meta.dirname, 'container.sh')],
        ...[`/proc/${node.pid}/ns/net`, veth, ip, hostname, root, fstab, dirname(image.layer), env['PATH'] ?? HOST_PATH],
        ...[...privileges(image), '--', ...program],
      ],
      { stdio: ['ignore', log, log, 'pipe'], detached: true, env: { ...env, PATH: HOST_PATH } },
    );
    closeSync(log);
    const ended = once(child, 'exit').then(([code, signal]: (number | string | null)[]): ContainerExit => {
      if (typeof code === 'number') return { code };
      return { code: 128 + constants.signals[signal as NodeJS.Signals] };
    });
    let alive = true;
    const exited = ended.then(async (exit) => {
      alive = false;
      addresses.give(ip);
      await rm(directory, { recursive: true, force: true }).catch(() => undefined);
      return exit;
    });

    const report = await setupReport(child);
    const pid = Number(/^pid (\d+)$/m.exec(report)?.[1]);
    if (!/^ready$/m.test(report)) {
      await exited;
      throw new Error(`Container ${spec.id} could not be started: ${report.replace(/^pid .*\n/, '').trim()}`);
    }

    const container: RunningContainer = {
      ip,
      exited,
      async stop(graceMs) {
        if (alive) process.kill(pid, image.stopSignal);
        const inTime = await Promise.race([exited.then(() => true), sleep(graceMs, false)]);
        // The first process of a pid namespace takes all others with it.
        if (!inTime && alive) process.kill(pid, 'SIGKILL');
        await exited;
      },
      exec(argv) {
        if (!alive) throw new Error(`Container ${spec.id} has ended.`);
        // Only nsenter is our child; the death signal makes a kill() of it reach the program inside.
        const inside = [...privileges(image), '--pdeathsig=KILL', '--', ...argv];
        return spawn(
          tools.nsenter,
          ['--target', String(pid), '--mount', '--uts', '--ipc', '--net', '--pid', ...inside],
          { stdio: ['pipe', 'pipe', 'pipe'], detached: true, env },
        );
      },
    };
    running.add(container);
    void exited.then(() => running.delete(container));
    return container;
  }

  return {
    start,
    connect: (ip, port) => node.connect(ip, port),
    hostsFile,
    async close() {
      await Promise.all([...running].map((container) => container.stop(CLOSE_GRACE_MS)));
      await node.close();
      await rm(containersDir, { recursive: true, force: true });
    },
  };
}

const CLOSE_GRACE_MS = 5000;

/** Reads what container.sh reports, to "ready" or the end; nsenter and unshare hold the pipe open for longer. */
async function setupReport(child: ChildProcess): Promise<string> {
  let text = '';
  const pipe = child.stdio[3] as NodeJS.ReadableStream;
  for await (const chunk of pipe) {
    text += chunk.toString();
    if (/^ready$/m.test(text)) break;
  }
  return text;
}
