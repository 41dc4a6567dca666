/**
 * Copies between a pod and the artifact store, in chunks. Connections into pods drop at any time and a drop can look like
 * success, so a chunk counts only when its SHA-256 is the same on both ends. Nothing but the unfinished file itself is
 * needed to go on after a crash: chunks that are already right are recognised by their hash and skipped. A chunk whose
 * connection broke goes on at the block it had come to.
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
import {
  artifactPath,
  changed,
  makeFolder,
  presentPath,
  sha512OfFile,
  sizeOf,
  syncFolder,
  type ArtifactStore,
} from './store.ts';

/** dd seeks in blocks of this size, and a broken connection costs each chunk up to one. */
const block = 1 << 18;
/** Held in memory, so that only what is proven reaches the file. */
const chunkBytes = 16 * block;
/** More than one, because every exec costs round trips; few, because they share one API server. */
const inFlight = 3;
/** How often a chunk may arrive changed. */
const attempts = 4;
/** How long nothing of a chunk may come through before the copy fails: control planes restart. */
const outageMs = 3 * 60_000;
/**
 * For one connection; a chunk that was not done by then goes on over the next one. In the pod it ends what a connection
 * that broke left behind: a command is not told, and waits for input, or for somebody to read its output.
 */
const chunkTimeoutMs = 5 * 60_000;
const bounded = `timeout ${chunkTimeoutMs / 1000 + 30}`;
/** Of what is no chunk: hashes of many of them, or waiting for the disk. */
const wholeTimeoutMs = 15 * 60_000;

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
  await makeFolder(store, path.dirname(file));
  if ((await sizeOf(file)) === bytes && (await sha512OfFile(file, what)).sha512 === sha512) return artifact;
  // The checksum in the name: what was copied of an earlier dump is no beginning of this one.
  const part = `${file}.${sha512.slice(0, 16)}.part`;
  const transfer = { kc, pod: arg.pod, remote: arg.path, bytes };
  const present = (await sizeOf(part)) ?? 0;
  const handle = await open(part, present > 0 ? 'r+' : 'w', 0o600);
  const counter = progress(what, bytes);
  try {
    const chunks = chunksOf(bytes);
    const there = await remoteHashes(transfer, Math.floor(present / chunkBytes), present);
    await eachChunk(chunks, async (chunk, data) => {
      const hash = there.get(chunk.offset);
      if (hash !== undefined && hash === (await hashOfFile(handle, chunk, data))) counter.add(chunk.length);
      else await fetchChunk(transfer, chunk, data, handle, counter.add);
    });
    await handle.sync();
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

/** A file of that name and size may be the artifact already: its chunks are looked at like those of a part, and not sent again. */
const beginPart =
  'mkdir -p -- "$1" && { [ -e "$2" ] || [ ! -f "$3" ] || [ "$(wc -c < "$3")" -ne "$4" ] || mv -- "$3" "$2"; } && : >> "$2"';

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
  const file = await presentPath(store, arg.world, artifact);
  const part = `${arg.path}.${artifact.sha512.slice(0, 16)}.part`;
  const transfer = { kc, pod: arg.pod, remote: part, bytes: artifact.bytes };
  await retried(() => inPod(transfer, beginPart, [path.posix.dirname(part), part, arg.path, String(artifact.bytes)]));
  const chunks = chunksOf(artifact.bytes);
  const size = Number(await retried(() => inPod(transfer, 'wc -c < "$1"', [part])));
  const there = await remoteHashes(transfer, Math.min(chunks.length, Math.ceil(size / chunkBytes)), size);
  const handle = await open(file, 'r');
  const counter = progress(`copy ${artifact.name} in`, artifact.bytes);
  try {
    // The whole is hashed while it is sent: what is proven to have arrived is then proven to be the recorded dump.
    const [whole] = await Promise.all([
      sha512OfFile(file),
      eachChunk(chunks, async (chunk, data) => {
        await readChunk(handle, chunk, data);
        const hash = createHash('sha256').update(data).digest('hex');
        if (there.get(chunk.offset) !== hash) await sendChunk(transfer, chunk, data, hash);
        counter.add(chunk.length);
      }),
    ]);
    if (whole.sha512 !== artifact.sha512) {
      await inPod(transfer, 'rm -f -- "$1"', [part]);
      throw changed(artifact, file);
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
async function eachChunk(chunks: Chunk[], work: (chunk: Chunk, data: Buffer) => Promise<void>): Promise<void> {
  const queue = [...chunks];
  let failure: unknown;
  async function lane(): Promise<void> {
    // One for all of a lane's chunks: buffers of one chunk each pile up until the next garbage collection.
    const room = Buffer.alloc(chunkBytes);
    for (let chunk = queue.shift(); chunk !== undefined && failure === undefined; chunk = queue.shift()) {
      try {
        await work(chunk, room.subarray(0, chunk.length));
      } catch (error) {
        failure ??= error;
      }
    }
  }
  await Promise.all(Array.from({ length: inFlight }, lane));
  if (failure !== undefined) throw failure;
}

/** What is missing first, then the hash of the whole chunk, in one exec: the second read comes from the page cache. */
const fetchScript = `
${bounded} dd if="$1" bs=${block} skip="$4" count="$5" 2>/dev/null &&
dd if="$1" bs=${block} skip="$2" count="$3" 2>/dev/null | sha256sum`;

async function fetchChunk(
  transfer: Transfer,
  chunk: Chunk,
  data: Buffer,
  handle: FileHandle,
  add: (bytes: number) => void,
): Promise<void> {
  let got = 0;
  const forget = (bytes: number) => {
    add(-bytes);
    got -= bytes;
  };
  await retried(
    async () => {
      // What came before a break stays; the hash of the whole decides in the end.
      if (got < chunk.length) forget(got % block);
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
      const rest = { offset: chunk.offset + got, length: chunk.length - got };
      await inPod(transfer, fetchScript, [transfer.remote, ...blocks(chunk), ...blocks(rest)], {
        stdout: sink,
        timeoutMs: chunkTimeoutMs,
      });
      const said = /^([0-9a-f]{64})\s/.exec(trailer)?.[1];
      if (got !== chunk.length || said !== createHash('sha256').update(data).digest('hex')) {
        forget(got);
        throw fail('ChecksumMismatch', `bytes ${chunk.offset} to ${chunk.offset + chunk.length} arrived changed`);
      }
    },
    () => got,
  );
  await writeChunk(handle, chunk, data);
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
[ -e "$1" ] || exit # What was sent before is lost with it.
${bounded} head -c "$6" | dd of="$1" ibs=65536 obs=${block} seek="$4" conv=notrunc 2>&1 >/dev/null | grep -i 'space' >&2
dd if="$1" bs=${block} skip="$2" count="$3" 2>/dev/null | sha256sum`;

async function sendChunk(transfer: Transfer, chunk: Chunk, data: Buffer, hash: string): Promise<void> {
  let sent = 0;
  let begun = false;
  await retried(
    async () => {
      if (begun) sent = await blocksThere(transfer, chunk, data);
      begun = true;
      const rest = { offset: chunk.offset + sent, length: chunk.length - sent };
      const args = [transfer.remote, ...blocks(chunk), ...blocks(rest), String(rest.length)];
      const said = await inPod(transfer, sendScript, args, { stdin: data.subarray(sent), timeoutMs: chunkTimeoutMs });
      if (said.slice(0, 64) !== hash) {
        begun = false;
        sent = 0;
        throw fail(
          'ChecksumMismatch',
          `bytes ${chunk.offset} to ${chunk.offset + chunk.length} arrived changed in the pod`,
        );
      }
    },
    () => sent,
  );
}

/** How much of a chunk a broken connection brought into the pod, in whole blocks. */
async function blocksThere(transfer: Transfer, chunk: Chunk, data: Buffer): Promise<number> {
  const hashes = (await inPod(transfer, hashesScript(1), [transfer.remote, ...blocks(chunk)])).split('\n');
  let there = 0;
  for (let at = 0; at + block <= data.length; at += block) {
    const hash = createHash('sha256')
      .update(data.subarray(at, at + block))
      .digest('hex');
    if (hashes[at / block]?.slice(0, 64) !== hash) break;
    there = at + block;
  }
  return there;
}

/** One line for every `step` blocks, from block $2, for $3 blocks. */
function hashesScript(step: number): string {
  return `
at="$2" end=$(($2 + $3))
while [ "$at" -lt "$end" ]; do
  dd if="$1" bs=${block} skip="$at" count=${step} 2>/dev/null | ${bounded} sha256sum || exit
  at=$((at + ${step}))
done`;
}

/** Hashes of the first `count` chunks of a file in the pod, which has `size` bytes, by offset. */
async function remoteHashes(transfer: Transfer, count: number, size: number): Promise<Map<number, string>> {
  const found = new Map<number, string>();
  const step = chunkBytes / block;
  if (count === 0) return found;
  await retried(
    async () => {
      let rest = '';
      const stdout = new Writable({
        write(piece: Buffer, _encoding, done) {
          const lines = (rest + piece.toString('latin1')).split('\n');
          rest = lines.pop() ?? '';
          for (const line of lines) {
            found.set(found.size * chunkBytes, line.slice(0, 64));
            const seen = Math.min(found.size * chunkBytes, size);
            beat({ what: 'look at what was copied before', done: seen, total: size, unit: 'bytes' });
          }
          done();
        },
      });
      const args = [transfer.remote, String(found.size * step), String((count - found.size) * step)];
      await inPod(transfer, hashesScript(step), args, { stdout });
    },
    () => found.size,
  );
  return found;
}

function blocks(chunk: Chunk): [skip: string, count: string] {
  return [String(Math.floor(chunk.offset / block)), String(Math.ceil(chunk.length / block))];
}

/** What a script ends with when the file or folder that it works on is gone: the volume was emptied. */
const gone = 66;
const unlessGone = (script: string) => `(${script}
)
rc=$?
[ $rc -eq 0 ] || [ -e "$1" ] || exit ${gone}
exit $rc`;

/** Runs a fixed script with values as arguments; returns stdout. A full volume in the pod is NoSpace, a lost $1 ScratchLost. */
async function inPod(transfer: Transfer, script: string, args: string[], options: ExecOptions = {}): Promise<string> {
  const { pod } = transfer;
  const argv = ['sh', '-c', `umask 077\n${unlessGone(script)}`, 'pgleap', ...args];
  const { code, stdout, stderr } = await execInPod(transfer.kc, pod, argv, { timeoutMs: wholeTimeoutMs, ...options });
  if (/no space left|quota exceeded/i.test(stderr)) {
    throw fail('NoSpace', `the volume of ${transfer.remote} in ${pod.namespace}/${pod.name} is full`);
  }
  if (code === gone) throw fail('ScratchLost', `${args[0]} in ${pod.namespace}/${pod.name} is gone`);
  if (code !== 0) {
    const text = stderr.trim().slice(-500);
    throw fail(
      'CommandFailed',
      `copying ${transfer.remote} in ${pod.namespace}/${pod.name} ended with ${code}: ${text}`,
    );
  }
  return stdout.toString('latin1');
}

/**
 * Tries again here, where only part of a chunk is lost, for as long as something comes through now and then: `done` tells
 * how much has. What arrives changed is tried a few times only.
 */
async function retried<T>(work: () => Promise<T>, done = () => 0): Promise<T> {
  let before = done();
  let since = performance.now();
  let breaks = 0;
  let mismatches = 0;
  for (;;) {
    try {
      return await work();
    } catch (error) {
      if (abortSignal()?.aborted === true) throw error;
      if (isFailure(error, 'ChecksumMismatch')) {
        mismatches += 1;
        if (mismatches === attempts) throw error;
      } else if (!isFailure(error, 'StreamBroken', 'Unreachable', 'RateLimited')) throw error;
      if (done() !== before) {
        before = done();
        since = performance.now();
        breaks = 0;
      }
      if (performance.now() - since > outageMs) throw error;
      breaks += 1;
      await pause(Math.min(250 * 2 ** breaks, 5000));
    }
  }
}

async function hashOfFile(handle: FileHandle, chunk: Chunk, data: Buffer): Promise<string> {
  await readChunk(handle, chunk, data);
  return createHash('sha256').update(data).digest('hex');
}

async function readChunk(handle: FileHandle, chunk: Chunk, data: Buffer): Promise<void> {
  let got = 0;
  while (got < chunk.length) {
    const { bytesRead } = await handle.read(data, got, chunk.length - got, chunk.offset + got);
    if (bytesRead === 0) throw fail('ArtifactMissing', 'the file became shorter while it was read');
    got += bytesRead;
  }
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
