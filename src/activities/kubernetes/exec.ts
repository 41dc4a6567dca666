import type { KubeConfig } from '@kubernetes/client-node';
import { ApplicationFailure } from '@temporalio/common';
import type { IncomingMessage } from 'node:http';
import type { RequestOptions } from 'node:https';
import type { Readable, Writable } from 'node:stream';
import { WebSocket, type ClientOptions } from 'ws';
import type { PodRef } from '../../domain/facts.ts';
import { abortSignal, requireLeave } from '../context.ts';
import { fail, messageOf } from '../errors.ts';
import { fromResponse, unreachable } from './failures.ts';
import { assertSamePod } from './pod.ts';

/*
 * Commands in pods, over a WebSocket of our own. The client library's handler has no backpressure, never notices a dropped
 * connection, and throws an uncaught exception on a CLOSE frame (255); here each is handled, once.
 */

const protocols = ['v5.channel.k8s.io', 'v4.channel.k8s.io'];
const stdinChannel = 0;
const stdoutChannel = 1;
const stderrChannel = 2;
const statusChannel = 3;
const closeChannel = 255;

const chunkBytes = 64 * 1024;
const stderrLimit = 64 * 1024;
const pingMs = 10_000;
const silenceMs = 60_000;

export interface ExecOptions {
  /**
   * v4 servers cannot be told that stdin ended: the command must bound its input itself (`timeout <s> head -c <bytes>`). And
   * it must count it: a connection that is cut on its way in ends the input early, while the exit code still comes back.
   */
  stdin?: Buffer | Readable;
  /** Receives stdout instead of the result's buffer. Not ended; all of it is flushed when the call resolves. */
  stdout?: Writable;
  /** Default 30 s. The command itself may go on in the pod when it passes: see execInPod. */
  timeoutMs?: number;
  /** Default: that of the running activity. */
  signal?: AbortSignal;
  /** Bytes of stdout that are kept when no `stdout` is given; more is a failure. Default 16 MiB. */
  maxOutput?: number;
}

export interface ExecResult {
  code: number;
  stdout: Buffer;
  /** At most its last 64 KiB. */
  stderr: string;
}

interface Status {
  status?: string;
  reason?: string;
  message?: string;
  details?: { causes?: { reason?: string; message?: string }[] };
}

/**
 * Runs `argv` in a pod and returns its exit code, whatever it is. A connection that ends without one is StreamBroken, and
 * so are a command that was killed, passing `timeoutMs`, and a minute of silence. Refused connections are AccessDenied,
 * Unreachable; PodLost when the pod of that uid is no more.
 *
 * A command whose connection broke is not ended. It may wait for ever for input, or with more output than pipes hold (128 KB),
 * so that it must bound itself, and only its last process: the orphans of a shell that is killed fall to the postmaster,
 * which takes them for crashed backends.
 */
export async function execInPod(
  kc: KubeConfig,
  pod: PodRef,
  argv: string[],
  options: ExecOptions = {},
): Promise<ExecResult> {
  const signal = options.signal ?? abortSignal();
  signal?.throwIfAborted();
  const where = `${pod.namespace}/${pod.name}`;
  await assertSamePod(kc, pod);
  await requireLeave();
  const socket = await connect(kc, pod, argv, options.stdin !== undefined, signal);
  const stdout: Buffer[] = [];
  let stdoutBytes = 0;
  let stderr = Buffer.alloc(0);
  let status: Status | undefined;
  let flushed: Promise<unknown> = Promise.resolve();
  let heard = performance.now();

  const { promise: broken, reject: breakOff } = Promise.withResolvers<never>();
  broken.catch(() => {});
  const stop = (error: unknown) => {
    breakOff(error);
    socket.terminate();
  };
  const takeOutput = (data: Buffer) => {
    stdoutBytes += data.length;
    if (options.stdout !== undefined) {
      const writer = options.stdout;
      let room = true;
      // Writes complete in order, so that waiting for the last one is enough.
      flushed = new Promise((resolve) => (room = writer.write(data, resolve)));
      // Paused until the writer has taken it: nothing else holds the server back.
      if (!room && !socket.isPaused) {
        socket.pause();
        writer.once('drain', () => {
          heard = performance.now();
          socket.resume();
          if (status !== undefined) socket.close();
        });
      }
    } else if (stdoutBytes > (options.maxOutput ?? 16 * 1024 * 1024)) {
      stop(
        fail(
          'CommandFailed',
          `${argv[0]} in ${where} wrote more than the ${options.maxOutput ?? '16 Mi'} bytes expected`,
        ),
      );
    } else {
      stdout.push(data);
    }
  };
  socket.on('message', (message: Buffer, isBinary: boolean) => {
    heard = performance.now();
    if (!isBinary || message.length === 0) return;
    const data = message.subarray(1);
    switch (message[0]) {
      case stdoutChannel:
        if (data.length > 0) takeOutput(data);
        break;
      case stderrChannel:
        stderr = Buffer.concat([stderr, data]).subarray(-stderrLimit);
        break;
      case statusChannel:
        if (data.length > 0) {
          status = parseStatus(data);
          // What the server sent before it answers this close still arrives.
          if (!socket.isPaused) socket.close();
        }
        break;
      case closeChannel: // One of its streams ended; the status still comes.
        break;
      default:
        break;
    }
  });
  socket.on('pong', () => (heard = performance.now()));
  socket.on('error', (error) => {
    // With the exit code at hand it no longer matters how the connection ends.
    if (status === undefined) stop(fail('StreamBroken', `the connection into ${where} broke: ${error.message}`));
  });
  options.stdout?.on('error', stop);
  const onAbort = () => stop(reasonOf(signal));
  signal?.addEventListener('abort', onAbort, { once: true });
  const limit = options.timeoutMs ?? 30_000;
  const timer = setTimeout(() => {
    stop(fail('StreamBroken', `${argv[0]} in ${where} gave no exit code within ${limit / 1000} s`));
  }, limit);
  const pinger = setInterval(() => {
    if (socket.isPaused) return;
    if (status !== undefined) {
      socket.terminate();
    } else if (performance.now() - heard > silenceMs) {
      stop(fail('StreamBroken', `the connection into ${where} has been silent for ${silenceMs / 1000} s`));
    } else if (socket.readyState === WebSocket.OPEN) {
      socket.ping();
    }
  }, pingMs);
  const closed = new Promise((resolve) => socket.once('close', resolve));
  try {
    if (options.stdin !== undefined) {
      sendAll(socket, options.stdin).catch((error: unknown) => {
        // A command that ends without reading all of its input closes the stream under us.
        if (status === undefined) stop(fail('StreamBroken', `could not send input to ${where}: ${messageOf(error)}`));
      });
    }
    await Promise.race([closed, broken]);
    await Promise.race([flushed, broken]);
  } finally {
    clearTimeout(timer);
    clearInterval(pinger);
    signal?.removeEventListener('abort', onAbort);
    options.stdout?.off('error', stop);
  }
  if (status === undefined) {
    throw fail('StreamBroken', `the connection into ${where} ended before ${argv[0]} gave its exit code`);
  }
  const { code, ...said } = exitOf(status, stderr.toString('utf8'), where);
  // SIGKILL's: the next attempt sees whether the pod is gone, too.
  if (code === 137)
    throw fail('StreamBroken', `${argv[0]} in ${where} was killed: with its pod, or for want of memory`);
  return { code, ...said, stdout: Buffer.concat(stdout) };
}

/** Like execInPod, but any exit code other than 0 is CommandFailed with the end of stderr. Returns stdout as text. */
export async function runInPod(
  kc: KubeConfig,
  pod: PodRef,
  argv: string[],
  options: ExecOptions & { says?: string } = {},
): Promise<string> {
  const { code, stdout, stderr } = await execInPod(kc, pod, argv, options);
  if (code !== 0) {
    const what = options.says ?? argv[0] ?? '';
    const text = stderr.trim().slice(-2000);
    throw fail(
      'CommandFailed',
      `${what} in ${pod.namespace}/${pod.name} ended with ${code}${text === '' ? '' : `: ${text}`}`,
    );
  }
  return stdout.toString('utf8');
}

function parseStatus(data: Buffer): Status {
  try {
    const status: Status = JSON.parse(data.toString('utf8'));
    return status;
  } catch {
    return { status: 'Failure', message: data.toString('utf8').slice(0, 500) };
  }
}

/** The exit code of the status that the server sends last; 127 when the container has no such program. */
function exitOf(status: Status, stderr: string, where: string): { code: number; stderr: string } {
  if (status.status === 'Success') return { code: 0, stderr };
  const cause = status.details?.causes?.find((one) => one.reason === 'ExitCode');
  if (status.reason === 'NonZeroExitCode' && cause !== undefined) return { code: Number(cause.message), stderr };
  const message = status.message ?? JSON.stringify(status);
  // Below /proc it is the container's own process that is missing: it ended just then.
  if (/executable file not found|no such file or directory/i.test(message) && !message.includes('/proc/')) {
    return { code: 127, stderr: `${stderr}${message}` };
  }
  throw fail('StreamBroken', `the command in ${where} could not be run to its end: ${message}`);
}

/** Sends all of it, a chunk at a time: only when one has left this process does the next one go. */
async function sendAll(socket: WebSocket, stdin: Buffer | Readable): Promise<void> {
  // One for all of them: frames of their own pile up until the next garbage collection.
  const frame = Buffer.allocUnsafe(1 + chunkBytes);
  const send = (channel: number, data: Buffer) =>
    new Promise<void>((resolve, reject) => {
      frame[0] = channel;
      data.copy(frame, 1);
      socket.send(frame.subarray(0, 1 + data.length), (error) => (error instanceof Error ? reject(error) : resolve()));
    });
  for await (const part of Buffer.isBuffer(stdin) ? [stdin] : stdin) {
    const buffer = Buffer.isBuffer(part) ? part : Buffer.from(String(part));
    for (let at = 0; at < buffer.length; at += chunkBytes) {
      await send(stdinChannel, buffer.subarray(at, at + chunkBytes));
    }
  }
  if (socket.protocol === 'v5.channel.k8s.io') await send(closeChannel, Buffer.from([stdinChannel]));
}

async function connect(
  kc: KubeConfig,
  pod: PodRef,
  argv: string[],
  withStdin: boolean,
  signal: AbortSignal | undefined,
): Promise<WebSocket> {
  const cluster = kc.getCurrentCluster();
  if (cluster === null) throw fail('Unreachable', 'the kubeconfig names no current cluster; set current-context in it');
  const server = cluster.server.replace(/^http/, 'ws').replace(/\/$/, '');
  const pairs: [string, string][] = [
    ['container', pod.container],
    ['stdout', 'true'],
    ['stderr', 'true'],
    ['stdin', String(withStdin)],
    ['tty', 'false'],
    ...argv.map((arg): [string, string] => ['command', arg]),
  ];
  const path = `/api/v1/namespaces/${pod.namespace}/pods/${pod.name}/exec`;
  // Asks for https's options; gets what ws takes.
  const tls: RequestOptions & ClientOptions = {};
  await kc.applyToHTTPSOptions(tls);
  // It may have come since the call began, and is not told to who listens after it.
  signal?.throwIfAborted();
  const socket = new WebSocket(`${server}${path}?${new URLSearchParams(pairs).toString()}`, protocols, {
    ...tls,
    handshakeTimeout: 20_000,
    perMessageDeflate: false,
    // Masks protect proxies from web pages. One of zeros saves a copy of all that is sent.
    generateMask: (mask) => mask.fill(0),
  });
  return await new Promise((resolve, reject) => {
    const settle = (then: () => void) => {
      signal?.removeEventListener('abort', onAbort);
      then();
    };
    const onAbort = () => {
      settle(() => reject(reasonOf(signal)));
      socket.terminate();
    };
    signal?.addEventListener('abort', onAbort, { once: true });
    socket.once('open', () => {
      socket.pause();
      settle(() => resolve(socket));
      setImmediate(() => socket.resume());
    });
    socket.on('error', (error) => settle(() => reject(unreachable(kc, error))));
    socket.once('unexpected-response', (_request, response) => {
      void refusal(kc, pod, response)
        .then((error) => settle(() => reject(error)))
        .finally(() => socket.terminate());
    });
  });
}

function reasonOf(signal: AbortSignal | undefined): Error {
  const reason: unknown = signal?.reason;
  return reason instanceof Error ? reason : new Error(String(reason));
}

async function refusal(kc: KubeConfig, pod: PodRef, response: IncomingMessage): Promise<Error> {
  const what = `an exec in ${pod.namespace}/${pod.name}`;
  try {
    const body = await readSome(response);
    if (response.statusCode !== 401 && response.statusCode !== 403) await assertSamePod(kc, pod, true);
    // 400: the container has not started yet, or has ended; asking again can help.
    return response.statusCode === 400
      ? fail('StreamBroken', `${what} was refused: ${body}`)
      : fromResponse(response.statusCode ?? 0, body, response.headers, what);
  } catch (error) {
    return error instanceof ApplicationFailure ? error : unreachable(kc, error);
  }
}

async function readSome(response: IncomingMessage): Promise<string> {
  let text = '';
  for await (const chunk of response) {
    text += String(chunk);
    if (text.length > 4000) break;
  }
  return text;
}
