import { existsSync, lstatSync, readFileSync } from 'node:fs';
import { chmod, chown, mkdir, readlink, stat, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type Image, NOBODY_USER, POSTGRES_USER, ROOT_USER } from '../images/catalog.ts';
import type { Mount } from './types.ts';

const DEVICES = ['null', 'zero', 'full', 'random', 'urandom', 'tty'];
/** Host files that programs of the host's /usr cannot do without. */
const HOST_ETC = ['/etc/ld.so.cache', '/etc/ld.so.conf', '/etc/ld.so.conf.d', '/etc/alternatives', '/etc/os-release'];
const HOSTS_DIRECTORY = '/etc/hosts.d';

interface RootPlan {
  /** Empty directory that becomes the container's root. */
  root: string;
  image: Image;
  mounts: Mount[];
  hostname: string;
  hostsFile: string;
  /** Nothing can be given another owner, and flags of the host's mounts must be repeated. */
  rootless: boolean;
}

/** fstab(5) separates by white space and escapes it in octal. */
function escaped(path: string): string {
  return path.replace(/[\s\\]/g, (c) => `\\${c.charCodeAt(0).toString(8).padStart(3, '0')}`);
}

/** A user namespace may not remount without the flags that the host's own mount of that path has. */
function lockedFlags(path: string): string[] {
  let best = '';
  let flags: string[] = [];
  for (const line of readFileSync('/proc/self/mountinfo', 'utf8').split('\n')) {
    const [, , , , point = '', options = ''] = line.split(' ');
    const holds = point === '/' || path === point || path.startsWith(`${point}/`);
    if (!holds || point.length < best.length) continue;
    best = point;
    flags = options.split(',').filter((flag) => /^(nosuid|nodev|noexec|noatime|nodiratime|relatime)$/.test(flag));
  }
  return flags;
}

function depthOf(path: string): number {
  return path.split('/').filter((part) => part !== '').length;
}

/** Shallow targets first: a mount must not hide one that was made below it before. */
function shallowFirst(mounts: Mount[]): Mount[] {
  return [...mounts].sort((a, b) => depthOf(a.target) - depthOf(b.target));
}

/**
 * Writes the files of a container's root directory and tells how to mount the rest.
 * @returns the text of an fstab; the overlay's path is relative to the directory that holds all image layers, because
 *   overlayfs options cannot carry every path
 */
export async function prepareRoot(plan: RootPlan): Promise<string> {
  const { root, image } = plan;
  const inRoot = (path: string): string => join(root, path);
  for (const directory of [
    'usr',
    'etc',
    'dev/shm',
    'proc',
    'run',
    'tmp',
    'var/lib',
    'var/tmp',
    'root',
    'home',
    '.old',
  ]) {
    await mkdir(inRoot(directory), { recursive: true });
  }
  await chmod(inRoot('tmp'), 0o1777);
  await chmod(inRoot('var/tmp'), 0o1777);
  await chmod(inRoot('root'), 0o700);
  await symlink('../run', inRoot('var/run'));
  for (const [link, target] of Object.entries({ fd: 'fd', stdin: 'fd/0', stdout: 'fd/1', stderr: 'fd/2' })) {
    await symlink(`/proc/self/${target}`, inRoot(`dev/${link}`));
  }
  await writeEtc(plan);

  const lines = [
    `${escaped(root)} ${escaped(root)} none bind 0 0`,
    `overlay ${escaped(inRoot('usr'))} overlay ro,lowerdir=${overlayPath(image.layer)}:/usr 0 0`,
    `proc ${escaped(inRoot('proc'))} proc nosuid,nodev,noexec 0 0`,
    // 64 MB is what a container runtime gives; a pod that needs more mounts a memory volume here.
    `shm ${escaped(inRoot('dev/shm'))} tmpfs nosuid,nodev,mode=1777,size=64m 0 0`,
  ];
  const bind = (source: string, target: string, readOnly: boolean): void => {
    const options = readOnly ? ['bind', 'ro', ...(plan.rootless ? lockedFlags(source) : [])] : ['bind'];
    lines.push(`${escaped(source)} ${escaped(inRoot(target))} none ${options.join(',')} 0 0`);
  };

  // Nothing of /usr is private but sources that someone may keep there.
  if (existsSync('/usr/src')) {
    await mkdir(inRoot('.empty'));
    bind(inRoot('.empty'), 'usr/src', true);
  }
  for (const name of ['bin', 'sbin', 'lib', 'lib32', 'lib64', 'libx32']) {
    const path = `/${name}`;
    if (!existsSync(path)) continue;
    if (lstatSync(path).isSymbolicLink()) {
      await symlink(await readlink(path), inRoot(name));
    } else {
      await mkdir(inRoot(name));
      bind(path, name, true);
    }
  }
  for (const device of DEVICES) {
    await writeFile(inRoot(`dev/${device}`), '');
    bind(`/dev/${device}`, `dev/${device}`, false);
  }
  // Hides whatever PostgreSQL the host itself has.
  bind(join(image.layer, 'lib', 'postgresql'), 'usr/lib/postgresql', true);
  for (const { path, mode, owner } of image.directories) {
    await mkdir(inRoot(path), { recursive: true });
    if (!plan.rootless) await chown(inRoot(path), owner.uid, owner.gid);
    await chmod(inRoot(path), mode);
  }

  const hostEtc = HOST_ETC.filter((path) => existsSync(path)).map((path) => ({
    source: path,
    target: path,
    readOnly: true,
  }));
  const hosts = { source: dirname(plan.hostsFile), target: HOSTS_DIRECTORY, readOnly: true };
  const placed: Mount[] = [];
  for (const mount of [...hostEtc, hosts, ...image.binds, ...shallowFirst(plan.mounts)]) {
    if (!mount.target.startsWith('/usr/')) await makeMountPoint(root, placed, mount);
    bind(mount.source, mount.target, mount.readOnly);
    placed.push(mount);
  }
  return `${lines.join('\n')}\n`;
}

function overlayPath(layer: string): string {
  return layer.slice(dirname(layer).length + 1);
}

async function writeEtc({ root, hostname, hostsFile }: RootPlan): Promise<void> {
  const users: [string, typeof ROOT_USER, string][] = [
    ['root', ROOT_USER, '/bin/bash'],
    ['postgres', POSTGRES_USER, '/bin/bash'],
    ['nobody', NOBODY_USER, '/usr/sbin/nologin'],
  ];
  const passwd = users.map(
    ([name, user, shell]) => `${name}:x:${user.uid}:${user.gid}:${name}:${user.home}:${shell}\n`,
  );
  const group = ['root:x:0:\n', 'postgres:x:999:\n', 'nogroup:x:65534:\n'];
  const files: Record<string, string> = {
    passwd: passwd.join(''),
    group: group.join(''),
    hostname: `${hostname}\n`,
    'nsswitch.conf': 'passwd: files\ngroup: files\nhosts: files\n',
    'resolv.conf': '',
  };
  for (const [name, text] of Object.entries(files)) await writeFile(join(root, 'etc', name), text);
  // Through the directory, so that a hosts file replaced by renaming is seen as well.
  await symlink(`${HOSTS_DIRECTORY}/${hostsFile.slice(dirname(hostsFile).length + 1)}`, join(root, 'etc', 'hosts'));
  await symlink('/usr/share/zoneinfo/Etc/UTC', join(root, 'etc', 'localtime'));
}

/** A mount point inside an earlier mount is made in that mount's source, as container runtimes do. */
async function makeMountPoint(root: string, earlier: Mount[], mount: Mount): Promise<void> {
  const holder = earlier.findLast(({ target }) => mount.target.startsWith(`${target}/`));
  const point =
    holder === undefined ? join(root, mount.target) : join(holder.source, mount.target.slice(holder.target.length));
  if (existsSync(point)) return;
  if ((await stat(mount.source)).isDirectory()) {
    await mkdir(point, { recursive: true });
  } else {
    await mkdir(dirname(point), { recursive: true });
    await writeFile(point, '');
  }
}
