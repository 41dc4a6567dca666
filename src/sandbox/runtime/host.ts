import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';

export const HOST_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** How nsenter joins a user namespace of ours: keeping our ids, which is who we are in there too. */
export const ROOTLESS_ENTER = ['--user', '--preserve-credentials'];

/** What the runtime found on this machine. */
export interface Host {
  /** Absolute paths. */
  tools: { unshare: string; nsenter: string; setpriv: string };
  /** Not root: everything happens in user namespaces, where only one user id exists. */
  rootless: boolean;
  /** LANG for containers: the official image's en_US.utf8 where the host has it, else C.UTF-8. */
  locale: string;
}

/** @throws Error that names what is missing and how to get it */
export function inspectHost(): Host {
  if (process.platform !== 'linux') {
    throw new Error(
      `The embedded sandbox runs its pods as processes in Linux namespaces, and this is ${process.platform}. ` +
        'Run it on Linux, or use a cluster.',
    );
  }
  const utilLinux = 'install util-linux';
  for (const name of ['pivot_root', 'mount', 'umount']) toolPath(name, utilLinux);
  toolPath('ip', 'install iproute2 (Debian, Ubuntu: apt install iproute2; Fedora: dnf install iproute)');
  toolPath('bash', 'install bash');
  return {
    tools: {
      unshare: toolPath('unshare', utilLinux),
      nsenter: toolPath('nsenter', utilLinux),
      setpriv: toolPath('setpriv', utilLinux),
    },
    rootless: process.getuid?.() !== 0,
    locale: bestLocale(),
  };
}

function toolPath(name: string, remedy: string): string {
  for (const directory of [...HOST_PATH.split(':'), ...(process.env['PATH'] ?? '').split(delimiter)]) {
    if (directory !== '' && existsSync(join(directory, name))) return join(directory, name);
  }
  throw new Error(`The embedded sandbox needs the program "${name}", which was not found: ${remedy}.`);
}

function bestLocale(): string {
  try {
    const known = execFileSync('locale', ['-a'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
    return /^en_US\.utf-?8$/im.test(known) ? 'en_US.utf8' : 'C.UTF-8';
  } catch {
    return 'C.UTF-8';
  }
}
