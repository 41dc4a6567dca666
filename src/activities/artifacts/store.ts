/** The artifact folder of one worker: `<folder>/<upgrade id>/<name>`, readable by its owner only. */
import { chmod, link, mkdir, open, readFile, rename, rm, stat } from 'node:fs/promises';
import { createHash, randomBytes } from 'node:crypto';
import path from 'node:path';
import type { Artifact, World } from '../../domain/facts.ts';
import { beat } from '../context.ts';
import { fail, messageOf } from '../errors.ts';

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
  await guarded(file, () => writeDurably(part, text));
  await rename(part, file);
  await syncFolder(path.dirname(file));
  return { name, bytes: Buffer.byteLength(text), sha512: createHash('sha512').update(text).digest('hex') };
}

/** Makes a folder inside the store with all its parents, each for the owner only. */
export async function makeFolder(store: ArtifactStore, folder: string): Promise<void> {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  await syncFolder(store.folder);
}

/** SHA-512 of a file, streamed; heartbeats as it goes, under the name `what` if there is one. */
export async function sha512OfFile(file: string, what?: string): Promise<{ bytes: number; sha512: string }> {
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
      if (what !== undefined) beat({ what, done, total, unit: 'bytes' });
    }
  } finally {
    await handle.close();
  }
  return { bytes: done, sha512: hash.digest('hex') };
}

/** Size of a file; undefined when there is none. */
export async function sizeOf(file: string): Promise<number | undefined> {
  try {
    return (await stat(file)).size;
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return undefined;
    throw error;
  }
}

/** Throws ArtifactMissing when the store does not hold the artifact in its recorded size and checksum. */
export async function verifiedPath(store: ArtifactStore, world: World, artifact: Artifact): Promise<string> {
  const file = artifactPath(store, world, artifact.name);
  const found = await sha512OfFile(file, `checksum of ${artifact.name}`).catch((error: unknown) => {
    throw fail('ArtifactMissing', `artifact ${artifact.name} cannot be read: ${messageOf(error)}`);
  });
  if (found.bytes !== artifact.bytes || found.sha512 !== artifact.sha512) {
    throw fail(
      'ArtifactMissing',
      `artifact ${artifact.name} changed since it was recorded: ${found.bytes} bytes instead of ${artifact.bytes}, ` +
        `SHA-512 ${found.sha512.slice(0, 16)}… instead of ${artifact.sha512.slice(0, 16)}…`,
    );
  }
  return file;
}

/** A full disk of the worker becomes NoSpace: retrying cannot help, a person can. */
export async function guarded<T>(file: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (hasCode(error, 'ENOSPC') || hasCode(error, 'EDQUOT')) {
      throw fail('NoSpace', `the artifact folder’s disk is full: ${path.dirname(file)}; make room, then retry`);
    }
    throw error;
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
