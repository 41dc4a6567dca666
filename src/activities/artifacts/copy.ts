/**
 * Copies between a pod and the artifact store, in chunks. Connections into pods drop at any time and a drop can look like
 * success, so a chunk counts only when its SHA-256 is the same on both ends. Nothing but the unfinished file itself is
 * needed to go on after a crash: chunks that are already right are recognised by their hash and skipped.
 */
import type { KubeConfig } from '@kubernetes/client-node';
import { createHash } from 'node:crypto';
import { open, rename, rm, type FileHandle } from 'node:fs/promises';
import path from 'node:path';
import { Writable } from 'node:stream';
import type { Artifact, PodRef, World } from '../../domain/facts.ts';
import { abortSignal, beat, pause } from '../context.ts';
import { fail, isFailure } from '../errors.ts';
import { execInPod, type ExecOptions } from '../kubernetes/exec.ts';
import { artifactPath, guarded, makeFolder, sha512OfFile, sizeOf, syncFolder, type ArtifactStore } from './store.ts';

/** dd seeks in blocks of this size. */
const block = 1 << 20;
/** Held in memory, so that only what is proven reaches the file. */
const chunkBytes = 8 * block;
/** More than one, because every exec costs round trips; few, because they share one API server. */
const inFlight = 3;
const attempts = 4;
/** For one chunk: even 20 KB/s get there. */
const chunkTimeoutMs = 15 * 60_000;

interface Chunk {
  offset: number;
  length: number;
}

interface Transfer {
  kc: KubeConfig;
  pod: PodRef;
  /** Absolute path in the pod. */
  remote: string;
  bytes: number;
}

/** Resolves when the store holds the whole file with the checksum that was taken in the pod. */
export async function copyOut(
  kc: KubeConfig,
  store: ArtifactStore,
  arg: { world: World; pod: PodRef; path: string; bytes: number; sha512: string; name: string },
): Promise<Artifact> {
  const { name, bytes, sha512 } = arg;
  const artifact = { name, bytes, sha512 };
  const file = artifactPath(store, arg.world, name);
  const what = `copy ${name} out`;
  if ((await sizeOf(file)) === bytes && (await sha512OfFile(file, what)).sha512 === sha512) return artifact;
  await makeFolder(store, path.dirname(file));
  // The checksum in the name: what was copied of an earlier dump is no beginning of this one.
  const part = `${file}.${sha512.slice(0, 16)}.part`;
  const transfer = { kc, pod: arg.pod, remote: arg.path, bytes };
  const present = (await sizeOf(part)) ?? 0;
  const handle = await open(part, present > 0 ? 'r+' : 'w', 0o600);
  const counter = progress(what, bytes);
  try {
    await guarded(file, async () => {
      await eachChunk(chunksOf(bytes), async (chunk) => {
        const known = chunk.offset + chunk.length <= present ? await hashOfFile(handle, chunk) : undefined;
        if (known === undefined || known !== (await remoteHash(transfer, chunk))) {
          await fetchChunk(transfer, chunk, handle, counter.add);
        } else {
          counter.add(chunk.length);
        }
      });
      await handle.sync();
    });
  } finally {
    counter.end();
    await handle.close();
  }
  const got = await sha512OfFile(part, `checksum of ${name}`);
  if (got.sha512 !== sha512 || got.bytes !== bytes) {
    await rm(part, { force: true });
    throw fail(
      'ChecksumMismatch',
      `${name}: SHA-512 here is ${got.sha512.slice(0, 16)}… (${got.bytes} bytes), in the pod it was ` +
        `${sha512.slice(0, 16)}… (${bytes} bytes); the copy starts anew`,
    );
  }
  await rename(part, file);
  await syncFolder(path.dirname(file));
  return artifact;
}

/**
 * Puts an artifact at `path` in a pod and resolves when every chunk of it is proven to be there. `path` never shows a
 * part of it. Throws ArtifactMissing when the store's file is not the recorded one.
 */
export async function copyIn(
  kc: KubeConfig,
  store: ArtifactStore,
  arg: { world: World; artifact: Artifact; pod: PodRef; path: string },
): Promise<{ seconds: number }> {
  const started = performance.now();
  const { artifact } = arg;
  const file = artifactPath(store, arg.world, artifact.name);
  if ((await sizeOf(file)) !== artifact.bytes) {
    throw fail('ArtifactMissing', `the artifact folder has no ${artifact.name} of ${artifact.bytes} bytes`);
  }
  const part = `${arg.path}.${artifact.sha512.slice(0, 16)}.part`;
  const transfer = { kc, pod: arg.pod, remote: part, bytes: artifact.bytes };
  await inPod(transfer, 'mkdir -p -- "$1" && : >> "$2"', [path.posix.dirname(part), part]);
  const chunks = chunksOf(artifact.bytes);
  const there = await remoteHashes(transfer, chunks);
  const handle = await open(file, 'r');
  const counter = progress(`copy ${artifact.name} in`, artifact.bytes);
  try {
    // The whole is hashed while it is sent: what is proven to have arrived is then proven to be the recorded dump.
    const [whole] = await Promise.all([
      sha512OfFile(file),
      eachChunk(chunks, async (chunk) => {
        const data = await readChunk(handle, chunk);
        const hash = createHash('sha256').update(data).digest('hex');
        if (there.get(chunk.offset) !== hash) await sendChunk(transfer, chunk, data, hash);
        counter.add(chunk.length);
      }),
    ]);
    if (whole.sha512 !== artifact.sha512) {
      await inPod(transfer, 'rm -f -- "$1"', [part]);
      throw fail('ArtifactMissing', `artifact ${artifact.name} is not the recorded one any more: its SHA-512 differs`);
    }
  } finally {
    counter.end();
    await handle.close();
  }
  await inPod(transfer, 'sync; mv -f -- "$1" "$2"', [part, arg.path]);
  return { seconds: (performance.now() - started) / 1000 };
}

function chunksOf(bytes: number): Chunk[] {
  return Array.from({ length: Math.ceil(bytes / chunkBytes) }, (_, index) => ({
    offset: index * chunkBytes,
    length: Math.min(chunkBytes, bytes - index * chunkBytes),
  }));
}

/** Some chunks at a time. After a failure nothing new is begun, and what runs has ended when this throws. */
async function eachChunk(chunks: Chunk[], work: (chunk: Chunk) => Promise<void>): Promise<void> {
  const queue = [...chunks];
  let failure: unknown;
  async function lane(): Promise<void> {
    for (let chunk = queue.shift(); chunk !== undefined && failure === undefined; chunk = queue.shift()) {
      try {
        await work(chunk);
      } catch (error) {
        failure ??= error;
      }
    }
  }
  await Promise.all(Array.from({ length: inFlight }, lane));
  if (failure !== undefined) throw failure;
}

/** Data first, then its hash, in one exec: the second read comes from the page cache. */
const fetchScript = `
dd if="$1" bs=${block} skip="$2" count="$3" 2>/dev/null &&
dd if="$1" bs=${block} skip="$2" count="$3" 2>/dev/null | sha256sum`;

async function fetchChunk(
  transfer: Transfer,
  chunk: Chunk,
  handle: FileHandle,
  add: (bytes: number) => void,
): Promise<void> {
  await retried(async () => {
    const data = Buffer.alloc(chunk.length);
    let got = 0;
    let trailer = '';
    const sink = new Writable({
      write(piece: Buffer, _encoding, done) {
        const taken = piece.copy(data, got);
        got += taken;
        trailer += piece.toString('latin1', taken);
        add(taken);
        done();
      },
    });
    try {
      await inPod(transfer, fetchScript, [transfer.remote, ...blocks(chunk)], { stdout: sink });
      const said = /^([0-9a-f]{64})\s/.exec(trailer)?.[1];
      if (got !== chunk.length || said !== createHash('sha256').update(data).digest('hex')) {
        throw fail('ChecksumMismatch', `bytes ${chunk.offset} to ${chunk.offset + chunk.length} arrived changed`);
      }
    } catch (error) {
      add(-got);
      throw error;
    }
    await writeChunk(handle, chunk, data);
  });
}

async function writeChunk(handle: FileHandle, chunk: Chunk, data: Buffer): Promise<void> {
  let written = 0;
  while (written < data.length) {
    written += (await handle.write(data, written, data.length - written, chunk.offset + written)).bytesWritten;
  }
}

/**
 * The count bounds the input, because a v4 server cannot be told that it ended. Only obs is given to dd: it then collects
 * what the pipe brings in pieces. What was written is read back and hashed.
 */
const sendScript = `
head -c "$4" | dd of="$1" ibs=65536 obs=${block} seek="$2" conv=notrunc 2>&1 >/dev/null | grep -i 'space' >&2
dd if="$1" bs=${block} skip="$2" count="$3" 2>/dev/null | sha256sum`;

async function sendChunk(transfer: Transfer, chunk: Chunk, data: Buffer, hash: string): Promise<void> {
  await retried(async () => {
    const args = [transfer.remote, ...blocks(chunk), String(chunk.length)];
    const said = await inPod(transfer, sendScript, args, { stdin: data });
    if (said.slice(0, 64) !== hash) {
      throw fail(
        'ChecksumMismatch',
        `bytes ${chunk.offset} to ${chunk.offset + chunk.length} arrived changed in the pod`,
      );
    }
  });
}

const hashScript = `dd if="$1" bs=${block} skip="$2" count="$3" 2>/dev/null | sha256sum`;

async function remoteHash(transfer: Transfer, chunk: Chunk): Promise<string> {
  return (await retried(() => inPod(transfer, hashScript, [transfer.remote, ...blocks(chunk)]))).slice(0, 64);
}

/** Hashes of the chunks that an interrupted copy left in the pod, by offset. */
async function remoteHashes(transfer: Transfer, chunks: Chunk[]): Promise<Map<number, string>> {
  const size = Number(await inPod(transfer, 'wc -c < "$1"', [transfer.remote]));
  const found = new Map<number, string>();
  for (const chunk of chunks) {
    if (chunk.offset + chunk.length > size) break;
    found.set(chunk.offset, await remoteHash(transfer, chunk));
    beat({ what: 'look at what was copied before', done: chunk.offset, total: size, unit: 'bytes' });
  }
  return found;
}

function blocks(chunk: Chunk): [skip: string, count: string] {
  return [String(chunk.offset / block), String(Math.ceil(chunk.length / block))];
}

/** Runs a fixed script with values as arguments; returns stdout. A full volume in the pod is NoSpace. */
async function inPod(transfer: Transfer, script: string, args: string[], options: ExecOptions = {}): Promise<string> {
  const { pod } = transfer;
  const argv = ['sh', '-c', `umask 077\n${script}`, 'pgleap', ...args];
  const { code, stdout, stderr } = await execInPod(transfer.kc, pod, argv, { timeoutMs: chunkTimeoutMs, ...options });
  if (/no space left|quota exceeded/i.test(stderr)) {
    throw fail('NoSpace', `the volume of ${transfer.remote} in ${pod.namespace}/${pod.name} is full`);
  }
  if (code !== 0) {
    const text = stderr.trim().slice(-500);
    throw fail(
      'CommandFailed',
      `copying ${transfer.remote} in ${pod.namespace}/${pod.name} ended with ${code}: ${text}`,
    );
  }
  return stdout.toString('latin1');
}

/** A few tries here, where only one chunk is lost, before the whole activity is tried again. */
async function retried<T>(work: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await work();
    } catch (error) {
      const mayHelp = isFailure(error, 'StreamBroken', 'ChecksumMismatch', 'Unreachable', 'RateLimited');
      if (!mayHelp || attempt === attempts || abortSignal()?.aborted === true) throw error;
      await pause(500 * attempt);
    }
  }
}

async function hashOfFile(handle: FileHandle, chunk: Chunk): Promise<string> {
  return createHash('sha256')
    .update(await readChunk(handle, chunk))
    .digest('hex');
}

async function readChunk(handle: FileHandle, chunk: Chunk): Promise<Buffer> {
  const data = Buffer.alloc(chunk.length);
  let got = 0;
  while (got < chunk.length) {
    const { bytesRead } = await handle.read(data, got, chunk.length - got, chunk.offset + got);
    if (bytesRead === 0) throw fail('ArtifactMissing', 'the file became shorter while it was read');
    got += bytesRead;
  }
  return data;
}

/** Counts arriving bytes and heartbeats: a few times a second at most, and also while nothing arrives. */
function progress(what: string, total: number): { add: (bytes: number) => void; end: () => void } {
  let done = 0;
  let last = 0;
  function tell(): void {
    last = performance.now();
    beat({ what, done, total, unit: 'bytes' });
  }
  const timer = setInterval(tell, 5000);
  return {
    add(bytes) {
      done += bytes;
      if (performance.now() - last > 250) tell();
    },
    end() {
      clearInterval(timer);
      tell();
    },
  };
}
