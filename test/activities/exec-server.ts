import { spawn } from 'node:child_process';
import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { KubeConfig } from '@kubernetes/client-node';
import { WebSocket, WebSocketServer } from 'ws';

/** The one pod the server has. */
export const pod = { namespace: 'databases', name: 'postgres-0', uid: 'u', container: 'postgres' };

const made = { resourceVersion: '1', creationTimestamp: '2026-01-01T00:00:00Z' };

/** How the server misbehaves. */
export interface Manners {
  protocol?: 'v4.channel.k8s.io' | 'v5.channel.k8s.io';
  /** Ends the TCP connection after so many bytes of stdout. */
  dropAfter?: number;
  /** Sends CLOSE frames (255) for stdout before the status, as text and as bytes. */
  closeFrames?: boolean;
  /** Closes politely, but without a status. */
  noStatus?: boolean;
  /** Answers the upgrade with this HTTP status. */
  refuse?: { code: number; body: string };
  /** Replaced in arguments, so that container paths lie in a folder of the test. */
  paths?: Record<string, string>;
  /** Reads nothing from stdin. */
  deaf?: boolean;
  /** What the API says of the pod; null when it is gone. */
  pod?: { metadata?: object; spec?: object; status?: object } | null;
}

/** A server of the exec protocol that runs commands on this machine. */
export async function startExecServer(manners: Manners) {
  const seen: { stdoutSent: number; argv: string[][]; looks: number } = { stdoutSent: 0, argv: [], looks: 0 };
  const http = createServer(({ url }, response) => {
    if (url === '/api/v1/namespaces/kube-system') {
      response.writeHead(200, { 'content-type': 'application/json' });
      response.end(JSON.stringify({ metadata: { name: 'kube-system', uid: 'c', ...made } }));
      return;
    }
    seen.looks += 1;
    if (manners.pod === null || url !== `/api/v1/namespaces/${pod.namespace}/pods/${pod.name}`) {
      response.writeHead(404, { 'content-type': 'application/json' });
      response.end(JSON.stringify({ kind: 'Status', code: 404, reason: 'NotFound' }));
      return;
    }
    response.writeHead(200, { 'content-type': 'application/json' });
    const { namespace, name, uid, container } = pod;
    const { metadata, ...more } = manners.pod ?? {};
    const found = {
      metadata: { namespace, name, uid, ...made, ...metadata },
      spec: { containers: [{ name: container }] },
      status: { phase: 'Running' },
      ...more,
    };
    response.end(JSON.stringify(found));
  });
  const sockets = new WebSocketServer({
    noServer: true,
    handleProtocols: (offered) => {
      const wanted = manners.protocol ?? 'v5.channel.k8s.io';
      return offered.has(wanted) ? wanted : false;
    },
  });
  http.on('upgrade', (request: IncomingMessage, socket, head) => {
    if (manners.refuse !== undefined) {
      const { code, body } = manners.refuse;
      socket.end(
        `HTTP/1.1 ${code} No\r\nContent-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
      );
      return;
    }
    sockets.handleUpgrade(request, socket, head, (client) => serve(client, request));
  });

  function serve(client: WebSocket, request: IncomingMessage): void {
    const query = new URL(request.url ?? '', 'http://x').searchParams;
    const argv = query.getAll('command').map((arg) => {
      let mapped = arg;
      for (const [from, to] of Object.entries(manners.paths ?? {})) mapped = mapped.replaceAll(from, to);
      return mapped;
    });
    seen.argv.push(argv);
    const child = spawn(argv[0] ?? '', argv.slice(1), { stdio: ['pipe', 'pipe', 'pipe'] });
    const send = (channel: number, data: Buffer, done?: () => void) => {
      if (client.readyState !== WebSocket.OPEN) return;
      client.send(Buffer.concat([Buffer.from([channel]), data]), () => done?.());
    };
    child.stdin.on('error', () => {});
    if (query.get('stdin') !== 'true') child.stdin.end();
    if (manners.deaf === true) client.pause();
    client.on('message', (message: Buffer) => {
      if (message[0] === 255) child.stdin.end();
      else if (message[0] === 0) child.stdin.write(message.subarray(1));
    });
    child.stdout.on('data', (data: Buffer) => {
      seen.stdoutSent += data.length;
      child.stdout.pause();
      send(1, data, () => child.stdout.resume());
      if (manners.dropAfter !== undefined && seen.stdoutSent >= manners.dropAfter) client.terminate();
    });
    child.stderr.on('data', (data: Buffer) => send(2, data));
    const finish = (status: object) => {
      if (manners.closeFrames === true) {
        client.send(Buffer.from([255, 1]));
        client.send(String.fromCharCode(255, 1));
      }
      if (manners.noStatus !== true) send(3, Buffer.from(JSON.stringify(status)));
      client.close();
    };
    child.on('error', (error) => {
      finish({
        status: 'Failure',
        reason: 'InternalError',
        message: `exec: ${error.message}: no such file or directory`,
      });
    });
    child.on('close', (code, signal) => {
      const exit = signal === null ? (code ?? 1) : 137;
      finish(
        exit === 0
          ? { status: 'Success' }
          : {
              status: 'Failure',
              reason: 'NonZeroExitCode',
              message: `command terminated with non-zero exit code: exit status ${exit}`,
              details: { causes: [{ reason: 'ExitCode', message: String(exit) }] },
            },
      );
    });
    client.on('close', () => child.stdin.destroy());
  }

  await new Promise<void>((resolve) => http.listen(0, '127.0.0.1', resolve));
  const { port } = http.address() as AddressInfo;
  const kc = new KubeConfig();
  kc.loadFromOptions({
    clusters: [{ name: 'test', server: `http://127.0.0.1:${port}`, skipTLSVerify: true }],
    users: [{ name: 'test', token: 'secret-of-the-test' }],
    contexts: [{ name: 'test', cluster: 'test', user: 'test' }],
    currentContext: 'test',
  });
  return {
    kc,
    seen,
    close: async () => {
      for (const client of sockets.clients) client.terminate();
      await new Promise((resolve) => http.close(resolve));
    },
  };
}
