import type { ChildProcess } from 'node:child_process';
import type { IncomingMessage } from 'node:http';
import type { Duplex, Readable } from 'node:stream';
import { WebSocketServer, type RawData, type WebSocket } from 'ws';
import type { RunningContainer } from '../runtime/types.ts';
import { ApiFailure, notFound, type StatusBody } from './failures.ts';
import { asFailure, parseRoute } from './http.ts';
import type { Pod } from './objects.ts';
import { authorize, wishOf, type Users } from './rbac.ts';
import { infoOf } from './resources.ts';
import type { Store } from './store.ts';

export interface ExecOptions {
  store: Store;
  users: Users;
  containerOf: (pod: Pod) => RunningContainer | undefined;
}

/** The versions with a status channel; v5 alone can close stdin. The first one that the client offers is taken. */
const protocols = ['v5.channel.k8s.io', 'v4.channel.k8s.io'];
const channel = { stdin: 0, stdout: 1, stderr: 2, error: 3, resize: 4, close: 255 };
/** Bytes that may wait in a socket or pipe before its other side has to pause. */
const highWater = 1024 * 1024;

export interface ExecServer {
  upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void;
  close(): void;
}

/** `pods/exec` over WebSockets. A refusal is answered as plain HTTP with a Status, as long as it isn't upgraded. */
export function createExecServer(options: ExecOptions): ExecServer {
  const server = new WebSocketServer({
    noServer: true,
    // Like the real server, nothing is compressed.
    perMessageDeflate: false,
    handleProtocols: (offered) => protocols.find((one) => offered.has(one)) ?? false,
  });
  return {
    upgrade(request, socket, head) {
      socket.on('error', () => socket.destroy());
      try {
        const start = prepare(options, request);
        server.handleUpgrade(request, socket, head, (ws) => serve(ws, start));
      } catch (error) {
        refuse(socket, asFailure(error));
      }
    },
    close() {
      for (const ws of server.clients) ws.terminate();
      server.close();
    },
  };
}

function refuse(socket: Duplex, failure: ApiFailure): void {
  const body = JSON.stringify(failure.body);
  const head = `HTTP/1.1 ${failure.code} ${failure.body.reason}\r\ncontent-type: application/json\r\n`;
  socket.end(`${head}content-length: ${Buffer.byteLength(body)}\r\nconnection: close\r\n\r\n${body}`);
}

interface Start {
  child: () => ChildProcess;
  wants: { stdin: boolean; stdout: boolean; stderr: boolean };
}

function prepare({ store, users, containerOf }: ExecOptions, request: IncomingMessage): Start {
  const user = users.authenticate(request);
  const url = new URL(request.url ?? '/', 'https://localhost');
  authorize(store, user, wishOf('GET', url));
  const { info, namespace = '', name = '', subresource } = parseRoute(store, url.pathname);
  if (info.resource !== 'pods' || subresource !== 'exec') {
    throw new ApiFailure(400, 'BadRequest', 'only pods/exec can be upgraded to a WebSocket');
  }
  const offered = (request.headers['sec-websocket-protocol'] ?? '').split(',').map((one) => one.trim());
  if (!offered.some((one) => protocols.includes(one))) {
    throw new ApiFailure(400, 'BadRequest', `unable to negotiate a protocol: offered ${offered.join(', ')}`);
  }
  const query = url.searchParams;
  const argv = query.getAll('command');
  if (argv.length === 0) throw new ApiFailure(400, 'BadRequest', 'you must specify at least 1 command');
  const pod = store.get('pods', namespace, name);
  if (pod === undefined) throw notFound(infoOf('pods'), name);
  if (pod.spec.nodeName === undefined)
    throw new ApiFailure(400, 'BadRequest', `pod ${name} does not have a host assigned`);
  const container = query.get('container') || pod.spec.containers[0]?.name;
  if (!pod.spec.containers.some((one) => one.name === container)) {
    throw new ApiFailure(400, 'BadRequest', `container ${container} is not valid for pod ${name}`);
  }
  const running = container === pod.spec.containers[0]?.name ? containerOf(pod) : undefined;
  if (running === undefined) {
    const message = `unable to upgrade connection: container not found ("${container}")`;
    throw new ApiFailure(500, 'InternalError', message);
  }
  const flag = (key: string) => ['true', '1'].includes(query.get(key) ?? '');
  const wants = { stdin: flag('stdin'), stdout: flag('stdout'), stderr: flag('stderr') };
  return { child: () => running.exec(argv), wants };
}

function serve(ws: WebSocket, { child: start, wants }: Start): void {
  let child: ChildProcess;
  try {
    child = start();
  } catch (error) {
    finish(ws, { status: 'Failure', reason: 'InternalError', message: String(error), code: 500 });
    return;
  }
  const output = [
    pipeOut(ws, channel.stdout, child.stdout, wants.stdout),
    pipeOut(ws, channel.stderr, child.stderr, wants.stderr),
  ];
  pipeIn(ws, child, wants.stdin);
  child.on('error', (error) => {
    finish(ws, { status: 'Failure', reason: 'InternalError', message: error.message, code: 500 });
  });
  // 'close' comes after both streams have ended, so that the status is the last message.
  let says = '';
  child.stderr?.once('data', (data: Buffer) => (says = data.toString()));
  child.on('close', (code, signal) => {
    // A client that is paused by a full stdin would else never be read to its end.
    ws.resume();
    void Promise.all(output).then(() => finish(ws, exitStatus(code ?? signalCode(signal), says)));
  });
  // A client that goes leaves the process running, as with a real kubelet; only its stdin ends.
  ws.on('close', () => child.stdin?.end());
  ws.on('error', () => child.stdin?.end());
  // What it left unread would hold its pipes open for ever.
  child.on('exit', () => {
    if (ws.readyState === ws.OPEN) return;
    child.stdout?.destroy();
    child.stderr?.destroy();
  });
}

function signalCode(signal: NodeJS.Signals | null): number {
  return signal === 'SIGKILL' ? 137 : 143;
}

function exitStatus(code: number, says: string): Partial<StatusBody> {
  if (code === 0) return { status: 'Success' };
  // The container ended just then: what enters it says so, and not the program. The words are runc's.
  if (code === 1 && says.startsWith('nsenter: cannot open /proc/')) {
    const message = `OCI runtime exec failed: exec failed: lstat ${says.split(' ')[3]} no such file or directory`;
    return { status: 'Failure', reason: 'InternalError', message, code: 500 };
  }
  return {
    status: 'Failure',
    reason: 'NonZeroExitCode',
    message: `command terminated with non-zero exit code: exit status ${code}`,
    details: { causes: [{ reason: 'ExitCode', message: String(code) }] },
  };
}

function frame(number: number, data: Buffer): Buffer {
  return Buffer.concat([Buffer.from([number]), data]);
}

function finish(ws: WebSocket, status: Partial<StatusBody>): void {
  ws.send(frame(channel.error, Buffer.from(JSON.stringify({ metadata: {}, ...status }))), () => ws.close(1000));
}

/** Sends a stream until its end, no faster than the client reads. Unwanted output is thrown away. */
async function pipeOut(ws: WebSocket, number: number, stream: Readable | null, wanted: boolean): Promise<void> {
  if (stream === null) return;
  // Like the real server, an empty message shows at once that the channel is open.
  if (wanted) ws.send(frame(number, Buffer.alloc(0)));
  await new Promise<void>((resolve) => {
    let pending = 0;
    let ended = false;
    stream.on('data', (data: Buffer) => {
      if (!wanted || ws.readyState !== ws.OPEN) return;
      pending += data.length;
      if (pending >= highWater) stream.pause();
      ws.send(frame(number, data), () => {
        pending -= data.length;
        if (pending < highWater / 2 && ws.readyState === ws.OPEN) stream.resume();
        if (ended && pending === 0) resolve();
      });
    });
    stream.on('end', () => {
      ended = true;
      if (pending === 0) resolve();
    });
    stream.on('error', () => resolve());
    // As containerd does at times: what nobody reads any more stops the process, and nothing ends it.
    ws.on('close', () => {
      stream.pause();
      resolve();
    });
  });
}

function pipeIn(ws: WebSocket, child: ChildProcess, wanted: boolean): void {
  const stdin = child.stdin;
  if (stdin === null) return;
  // The process may end without reading all of it.
  stdin.on('error', () => undefined);
  if (!wanted) stdin.end();
  // Not at once when write() says so: a pipe takes 16 KB, and each pause costs a turn of the socket.
  stdin.on('drain', () => ws.resume());
  ws.on('message', (message: RawData) => {
    const data = Buffer.isBuffer(message)
      ? message
      : Buffer.concat(Array.isArray(message) ? message : [Buffer.from(message)]);
    const [number, closed] = data;
    if (number === channel.close && closed === channel.stdin) stdin.end();
    else if (number === channel.stdin && stdin.writable) {
      stdin.write(data.subarray(1));
      if (stdin.writableLength > highWater) ws.pause();
    }
  });
}
