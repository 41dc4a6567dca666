/** The artifact folder of one worker: `<folder>/<upgrade id>/<name>`, readable by its owner only. */
import { chmod, link, lstat, mkdir, open, readFile, rename, rm } from 'node:fs/promises';
import { createHash, randomBytes } from 'node:crypto';
import path from 'node:path';
import type { Artifact, World } from '../../domain/facts.ts';
import { beat } from '../context.ts';
import { fail } from '../errors.ts';
import type { Progress } from '../types.ts';

export interface ArtifactStore {
  /** Absolute. */
  folder: string;
  /** Task queue of the worker that has this folder. */
  queue: string;
}

/**
 * Opens or makes the folder. Its queue's name is made once and kept in it, so that a restarted worker, or one on another
 * machine that mounts the same folder, serves the upgrades whose files lie here.
 */
export async function openStore(folder: string): Promise<ArtifactStore> {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  await chmod(folder, 0o700);
  const file = path.join(folder, 'queue');
  const name = `pgleap-artifacts-${randomBytes(6).toString('hex')}`;
  const draft = `${file}.${name}`;
  try {
    await writeDurably(draft, `${name}\n`);
    // A link fails when the name is taken: of two workers that start at once, the first decides.
    await link(draft, file);
  } catch (error) {
    if (!hasCode(error, 'EEXIST')) throw error;
  } finally {
    await rm(draft, { force: true });
  }
  const queue = (await readFile(file, 'utf8')).trim();
  if (!/^[\w.-]{1,200}$/.test(queue))
    throw new Error(`${file} holds no task queue’s name; remove it if no upgrade runs`);
  return { folder, queue };
}

/** Absolute path of an upgrade's file. Names come from the workflow: they must not lead out of the folder. */
export function artifactPath(store: ArtifactStore, world: Pick<World, 'upgradeId'>, name: string): string {
  const home = path.join(store.folder, world.upgradeId);
  const file = path.resolve(home, name);
  if (path.dirname(home) !== store.folder || !file.startsWith(home + path.sep)) {
    throw fail('Refused', `“${name}” is not a name for an artifact of ${world.upgradeId}`);
  }
  return file;
}

/** Writes a small text file: new content or old content, never half of it. */
export async function writeArtifact(store: ArtifactStore, world: World, name: string, text: string): Promise<Artifact> {
  const file = artifactPath(store, world, name);
  await makeFolder(store, path.dirname(file));
  const part = `${file}.part`;
  await Promise.all([sizeOf(file), sizeOf(part)]);
  await writeDurably(part, text);
  await rename(part, file);
  await syncFolder(path.dirname(file));
  return { name, bytes: Buffer.byteLength(text), sha512: createHash('sha512').update(text).digest('hex') };
}

/**
 * Makes a folder inside the store with all its parents, each for the owner only. Throws ArtifactMissing where the store itself
 * is gone, as when its disk is not mounted, and Refused where a link or a file stands in a folder's place.
 */
export async function makeFolder(store: ArtifactStore, folder: string): Promise<void> {
  await lstat(path.join(store.folder, 'queue'));
  let at = store.folder;
  for (const name of path.relative(store.folder, folder).split(path.sep)) {
    at = path.join(at, name);
    try {
      await mkdir(at, { mode: 0o700 });
    } catch (error) {
      if (!hasCode(error, 'EEXIST')) throw error;
      if (!(await lstat(at)).isDirectory()) throw inTheWay(at, 'folder');
    }
  }
  await syncFolder(store.folder);
}

/** SHA-512 of a file, streamed; heartbeats as it goes, or tells who else wants to know, under the name `what` if there is one. */
export async function sha512OfFile(
  file: string,
  what?: string,
  tell: (progress: Progress) => void = beat,
): Promise<{ bytes: number; sha512: string }> {
  const total = (await sizeOf(file)) ?? null;
  const hash = createHash('sha512');
  let done = 0;
  const handle = await open(file, 'r');
  try {
    const room = Buffer.alloc(1 << 20);
    for (;;) {
      const { bytesRead } = await handle.read(room, 0, room.length, done);
      if (bytesRead === 0) break;
      hash.update(room.subarray(0, bytesRead));
      done += bytesRead;
      if (what !== undefined) tell({ what, done, total, unit: 'bytes' });
    }
  } finally {
    await handle.close();
  }
  return { bytes: done, sha512: hash.digest('hex') };
}

/**
 * Size of a file; undefined when there is none. Throws Refused for anything else under its name: what follows a link writes
 * somewhere else, and a pipe holds its reader for good.
 */
export async function sizeOf(file: string): Promise<number | undefined> {
  try {
    const found = await lstat(file);
    if (!found.isFile()) throw inTheWay(file, 'file');
    return found.size;
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return undefined;
    throw error;
  }
}

function inTheWay(file: string, wanted: 'file' | 'folder'): Error {
  return fail(
    'Refused',
    `${file} is no plain ${wanted}, and pgleap follows no link in the artifact folder: move it away, then retry`,
  );
}

/** Path of an artifact in its recorded size. Throws ArtifactMissing when there is none. */
export async function presentPath(store: ArtifactStore, world: World, artifact: Artifact): Promise<string> {
  const file = artifactPath(store, world, artifact.name);
  const bytes = await sizeOf(file);
  if (bytes === artifact.bytes) return file;
  const found = bytes === undefined ? 'is not there' : `has ${bytes} bytes instead of ${artifact.bytes}`;
  throw fail('ArtifactMissing', `artifact ${artifact.name} ${found}: ${file}; put the recorded file there, then retry`);
}

/** Throws ArtifactMissing when the store does not hold the artifact in its recorded size and checksum. */
export async function verifiedPath(store: ArtifactStore, world: World, artifact: Artifact): Promise<string> {
  const file = await presentPath(store, world, artifact);
  const { sha512 } = await sha512OfFile(file, `checksum of ${artifact.name}`);
  if (sha512 !== artifact.sha512) throw changed(artifact, file);
  return file;
}

export function changed({ name, sha512 }: Artifact, file: string): Error {
  return fail(
    'ArtifactMissing',
    `artifact ${name} is not the recorded one any more: its SHA-512 is not ${sha512.slice(0, 16)}…: ${file}; ` +
      'put the recorded file there, then retry',
  );
}

/**
 * Runs what works on the artifact folder. What its file system refuses is told as one of the known failures, with what a
 * person can do; only a disk that fails may come round by itself.
 */
export async function guarded<T>({ folder }: ArtifactStore, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof Error && 'syscall' in error && 'code' in error)) throw error;
    const { message } = error;
    switch (error.code) {
      case 'ENOSPC':
      case 'EDQUOT':
        throw fail('NoSpace', `the artifact folder’s disk is full: ${folder}; make room, then retry`);
      case 'EACCES':
      case 'EPERM':
      case 'EROFS':
        throw fail(
          'AccessDenied',
          `the worker may not use its artifact folder ${folder}: ${message}; let its user write there, then retry`,
        );
      case 'ENOENT':
        throw fail(
          'ArtifactMissing',
          `the artifact folder ${folder} is not as the worker left it: ${message}; mount its disk or put the folder back, then retry`,
        );
      case 'ENOTDIR':
      case 'EISDIR':
      case 'ELOOP':
        throw fail('Refused', `something is in the way in the artifact folder: ${message}; move it away, then retry`);
      default:
        throw fail('Unreachable', `the artifact folder ${folder} cannot be used: ${message}`);
    }
  }
}

async function writeDurably(file: string, text: string): Promise<void> {
  const handle = await open(file, 'w', 0o600);
  try {
    await handle.writeFile(text);
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** A rename survives a power cut only when its folder was synced. */
export async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

function hasCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code;
}
