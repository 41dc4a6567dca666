import { request as httpRequest } from 'node:http';
import type { IncomingHttpHeaders } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { abortSignal } from './context.ts';
import { messageOf } from './errors.ts';

export interface Probe {
  url: string;
  /** Host header (and TLS server name) to send, where the URL names an address. `fetch` cannot do that. */
  host?: string | undefined;
}

export type Visit = { status: number; headers: IncomingHttpHeaders } | { error: string };

/** What a visitor sees: one GET on a new connection, redirects not followed, past every cache. Never rejects. */
export function visit({ url, host }: Probe, timeoutMs: number): Promise<Visit> {
  return new Promise((resolve) => {
    const target = new URL(url);
    const secure = target.protocol === 'https:';
    const signal = abortSignal();
    const request = (secure ? httpsRequest : httpRequest)(target, {
      // A connection that is kept may still lead to a place that has the old routes.
      agent: false,
      headers: {
        'user-agent': 'pgleap',
        'cache-control': 'no-cache',
        accept: 'text/html,*/*',
        ...(host === undefined ? {} : { host }),
      },
      ...(secure && host !== undefined ? { servername: host.replace(/:\d+$/, '') } : {}),
      signal: AbortSignal.any([AbortSignal.timeout(timeoutMs), ...(signal === undefined ? [] : [signal])]),
    });
    request.on('response', (response) => {
      response.on('error', () => undefined);
      resolve({ status: response.statusCode ?? 0, headers: response.headers });
      response.destroy();
    });
    request.on('error', (error) => resolve({ error: messageOf(error) }));
    request.end();
  });
}
