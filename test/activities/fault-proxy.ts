import { createServer, request } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';

interface Fault {
  when: (method: string, path: string) => boolean;
  /** Drops the connection after the server behind took the request, or answers in its place. */
  instead: 'drop' | { status: number; headers?: Record<string, string>; body: unknown };
}

export interface FaultProxy {
  url: string;
  /** Every request that reached the proxy, as `METHOD /path`. */
  seen: string[];
  /** The next request for which `when` holds meets this fault, once. */
  next(fault: Fault): void;
  close(): Promise<void>;
}

/** An HTTP proxy before `target` that loses answers on demand: the request took effect, and nobody heard. */
export async function startFaultProxy(target: string): Promise<FaultProxy> {
  const faults: Fault[] = [];
  const seen: string[] = [];
  const server = createServer((incoming: IncomingMessage, outgoing: ServerResponse) => {
    const { method = 'GET', url = '/', headers } = incoming;
    seen.push(`${method} ${url}`);
    const index = faults.findIndex((fault) => fault.when(method, url));
    const fault = index === -1 ? undefined : faults.splice(index, 1)[0]?.instead;
    if (fault !== undefined && fault !== 'drop') {
      outgoing.writeHead(fault.status, { 'content-type': 'application/json', ...fault.headers });
      outgoing.end(JSON.stringify(fault.body));
      return;
    }
    const forwarded = request(new URL(url, target), { method, headers }, (answer) => {
      if (fault === 'drop') {
        answer.resume().on('end', () => outgoing.destroy());
        return;
      }
      outgoing.writeHead(answer.statusCode ?? 502, answer.headers);
      answer.pipe(outgoing);
    });
    forwarded.on('error', () => outgoing.destroy());
    incoming.pipe(forwarded);
  });
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve);
  });
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('the proxy has no port');
  return {
    url: `http://127.0.0.1:${address.port}`,
    seen,
    next: (fault) => void faults.push(fault),
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
