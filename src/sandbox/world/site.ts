import { request as httpRequest } from 'node:http';
import type { Duplex } from 'node:stream';
import type { V1Pod } from '@kubernetes/client-node';
import { readyPods, type Access } from './access.ts';
import { SITE_HOST } from './world.ts';

/** Opens a TCP connection to a pod: each cluster has its own way there. */
export type Connect = (pod: V1Pod, port: number) => Promise<Duplex>;

/** What the load balancer in front of the cluster does: passes the request to a ready pod of the website, or answers 502. */
export async function visitSite(access: Access, connect: Connect, request: Request): Promise<Response> {
  const pods = await readyPods(access, 'web', 'site').catch(() => []);
  const pod = pods[Math.floor(Math.random() * pods.length)];
  if (pod === undefined) return new Response('no backend is ready\n', { status: 502 });
  const { pathname, search } = new URL(request.url);
  try {
    const stream = await connect(pod, 8080);
    return await new Promise((resolve, reject) => {
      const sent = httpRequest(
        {
          method: request.method,
          path: pathname + search,
          headers: { host: SITE_HOST, connection: 'close' },
          createConnection: () => stream,
        },
        (answer) => {
          const parts: Buffer[] = [];
          answer.on('data', (part: Buffer) => parts.push(part));
          answer.on('error', reject);
          answer.on('end', () => {
            const headers = Object.entries(answer.headers).map(([name, value]): [string, string] => [
              name,
              String(value),
            ]);
            resolve(new Response(Buffer.concat(parts), { status: answer.statusCode ?? 502, headers }));
          });
        },
      );
      sent.setTimeout(5000, () => sent.destroy(new Error('timeout')));
      sent.on('error', reject);
      sent.end();
    });
  } catch {
    return new Response('the backend did not answer\n', { status: 502 });
  }
}
