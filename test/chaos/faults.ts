import { createServer, request as httpRequest, type IncomingMessage, type ServerResponse } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { vi } from 'vitest';

/** What can become of a request. Each meets one request of an activity, once. */
export const faults = [
  'timeout',
  'reset before',
  'reset after',
  '401',
  '403',
  '404',
  '409',
  '422',
  '429',
  '500',
  '503',
  'slow',
  'garbage',
] as const;

export type Fault = (typeof faults)[number];

/** A slow answer comes close below the client's limit, so that a limit that became shorter is noticed. */
export const closeBelow = (limitMs: number) => limitMs * 0.75;
export const retryAfterSeconds = 2;

export interface Proxy {
  url: string;
  /**
   * Every request since `forget`, as method and pattern. Commands in pods are counted; the fourth and all later ones are one.
   * So are changes: the second and all later ones of one pattern are one.
   */
  seen: string[];
  forget(): void;
  /** The next request of this method and pattern meets the fault. */
  next(call: string, fault: Fault): void;
  /** Whether the fault ordered last has happened. */
  happened(): boolean;
  /** The fault ordered last does not happen any more. */
  withdraw(): void;
  close(): Promise<void>;
}

/**
 * Stands before a server, plain in front of HTTP or TLS alike, writes down what passes, and lets one request meet a fault.
 * Its answers echo the caller's credentials, as proxies and gateways in debug mode do. `slow` resolves when
 * a slow one comes.
 */
export async function startProxy(
  target: string,
  patternOf: (path: string, query: URLSearchParams) => string,
  errorBody: (status: number, echo: string) => unknown,
  slow: () => Promise<unknown> = () => sleep(250),
): Promise<Proxy> {
  const behind = new URL(target);
  const forward = behind.protocol === 'https:' ? httpsRequest : httpRequest;
  const seen: string[] = [];
  let ordered: { call: string; fault: Fault } | undefined;

  const callOf = ({ method = 'GET', url = '/' }: IncomingMessage) => {
    const { pathname, searchParams } = new URL(url, 'http://proxy');
    return `${method} ${patternOf(pathname, searchParams)}`;
  };
  const take = (asked: string): Fault | undefined => {
    const isCommand = asked.endsWith('/exec');
    const isSame = (one: string) => one === asked || one.startsWith(`${asked}, ${isCommand ? 'command' : 'again'}`);
    const earlier = seen.filter(isSame).length;
    const again = earlier > 0 && !isCommand && !asked.startsWith('GET');
    const call = isCommand ? `${asked}, command ${Math.min(earlier + 1, 4)}` : again ? `${asked}, again` : asked;
    seen.push(call);
    if (ordered?.call !== call) return undefined;
    const { fault } = ordered;
    ordered = undefined;
    return fault;
  };
  const send = (incoming: IncomingMessage) =>
    forward(new URL(incoming.url ?? '/', behind), {
      method: incoming.method,
      headers: { ...incoming.headers, host: behind.host },
      rejectUnauthorized: false,
    });
  const refusal = (incoming: IncomingMessage, fault: Fault) => {
    const status = Number(fault);
    const text = JSON.stringify(errorBody(status, echoOf(incoming)));
    return { status, text, headers: status === 429 ? { 'retry-after': String(retryAfterSeconds) } : {} };
  };
  const page = (incoming: IncomingMessage) => `<html>Please log in. You sent ${echoOf(incoming)}</html>`;

  async function handle(incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> {
    const fault = take(callOf(incoming));
    if (fault === 'timeout') return;
    if (fault === 'reset before') return void incoming.socket.destroy();
    if (fault !== undefined && /^\d/.test(fault)) {
      const { status, text, headers } = refusal(incoming, fault);
      outgoing.writeHead(status, { 'content-type': 'application/json', ...headers }).end(text);
      return;
    }
    if (fault === 'slow') await slow();
    const forwarded = send(incoming);
    forwarded.on('response', (answer) => {
      if (fault === 'reset after') answer.resume().on('end', () => incoming.socket.destroy());
      else if (fault === 'garbage') {
        // It took effect, and what comes back is the page of some gateway.
        answer.resume().on('end', () => outgoing.writeHead(200, { 'content-type': 'text/html' }).end(page(incoming)));
      } else {
        outgoing.writeHead(answer.statusCode ?? 502, answer.headers);
        answer.pipe(outgoing);
      }
    });
    forwarded.on('error', () => outgoing.destroy());
    incoming.pipe(forwarded);
  }

  const server = createServer((incoming, outgoing) => {
    handle(incoming, outgoing).catch(() => outgoing.destroy());
  });
  server.on('upgrade', (incoming, socket: Duplex, head: Buffer) => {
    const fault = take(callOf(incoming));
    socket.on('error', () => {});
    if (fault === 'timeout') return;
    if (fault === 'reset before') {
      socket.destroy();
      return;
    }
    if (fault !== undefined && /^\d/.test(fault)) {
      const { status, text, headers } = refusal(incoming, fault);
      const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
      socket.end(
        `HTTP/1.1 ${status} Refused\r\n${lines.join('')}content-length: ${Buffer.byteLength(text)}\r\n\r\n${text}`,
      );
      return;
    }
    if (fault === 'garbage') {
      const text = page(incoming);
      socket.end(`HTTP/1.1 200 OK\r\ncontent-length: ${Buffer.byteLength(text)}\r\n\r\n${text}`);
      return;
    }
    const begin = () => {
      const forwarded = send(incoming);
      forwarded.on('error', () => socket.destroy());
      forwarded.on('response', () => socket.destroy());
      forwarded.on('upgrade', (answer, far, farHead) => {
        far.on('error', () => socket.destroy());
        socket.on('close', () => far.destroy());
        const headers = Object.entries(answer.headers).map(([name, value]) => `${name}: ${String(value)}\r\n`);
        socket.write(`HTTP/1.1 101 Switching Protocols\r\n${headers.join('')}\r\n`);
        socket.write(farHead);
        if (head.length > 0) far.write(head);
        socket.pipe(far);
        if (fault === 'reset after') {
          // The command runs to its end; what it said is lost.
          far.resume().on('close', () => socket.destroy());
          setTimeout(() => socket.destroy(), 1500);
        } else far.pipe(socket);
      });
      forwarded.end();
    };
    void (fault === 'slow' ? slow() : Promise.resolve()).then(begin);
  });
  // The server itself forgets those that became WebSockets, and nobody reads from one that met silence.
  const sockets = new Set<Duplex>();
  server.on('connection', (socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
  });
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve);
  });
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('the proxy has no port');
  return {
    url: `http://127.0.0.1:${address.port}`,
    seen,
    forget() {
      seen.length = 0;
      ordered = undefined;
    },
    next: (call, fault) => void (ordered = { call, fault }),
    happened: () => ordered === undefined,
    withdraw: () => void (ordered = undefined),
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        for (const socket of sockets) socket.destroy();
      }),
  };
}

/** All that could give a caller away, with and without what surrounds it. */
function echoOf({ headers, url }: IncomingMessage): string {
  const authorization = headers.authorization ?? '';
  return `authorization: ${authorization}, or ${authorization.replace(/^\w+ /, '')}, for ${url}`;
}

/** What a WebSocket's handshake may take; ws keeps it as a time limit of the socket. */
const handshakeMs = 20_000;
const socketLimit = Object.getOwnPropertyDescriptor(Socket.prototype, 'setTimeout')?.value as Socket['setTimeout'];
const signalLimit = AbortSignal.timeout.bind(AbortSignal);

async function withLimits<T>(
  run: () => Promise<T>,
  ofSignal: typeof AbortSignal.timeout,
  ofSocket: (socket: Socket, ms: number) => number,
): Promise<T> {
  const spies = [
    vi.spyOn(AbortSignal, 'timeout').mockImplementation(ofSignal),
    vi.spyOn(Socket.prototype, 'setTimeout').mockImplementation(function (this: Socket, ms, then) {
      return socketLimit.call(this, ofSocket(this, ms), then);
    }),
  ];
  try {
    return await run();
  } finally {
    for (const spy of spies) spy.mockRestore();
  }
}

/** Time limits of requests pass twenty times as fast while `run` runs, so that a silent server is noticed soon. */
export function impatiently<T>(run: () => Promise<T>): Promise<T> {
  return withLimits(
    run,
    (ms) => signalLimit(ms / 20),
    (_, ms) => (ms === handshakeMs ? ms / 20 : ms),
  );
}

/** Time limits of requests that began while `run` of `passingBy` runs. */
const limits = new Set<{ ms: number; end: () => void }>();

/** While `run` runs, time of which nobody has to wait for the end can be let pass. */
export async function passingBy<T>(run: () => Promise<T>): Promise<T> {
  try {
    return await withLimits(
      run,
      (ms) => {
        const controller = new AbortController();
        limits.add({ ms, end: () => controller.abort(new DOMException('a time limit passed', 'TimeoutError')) });
        return AbortSignal.any([controller.signal, signalLimit(ms)]);
      },
      (socket, ms) => {
        // Servers end kept connections after some five seconds.
        if (ms >= 10_000) limits.add({ ms, end: () => void socket.emit('timeout') });
        return ms;
      },
    );
  } finally {
    limits.clear();
  }
}

/** So much time passes for the limits of requests that run. The rest of the world does not notice. */
export async function pass(ms: number): Promise<void> {
  for (const limit of limits) if (limit.ms <= ms) limit.end();
  await sleep(50);
}
