import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { CoreHeaders, matchRoutes, Miniflare, parseRoutes } from 'miniflare';
import { listen, readBody, readObject, sendJson } from './http.ts';

const SIGNALS = ['SIGINT', 'SIGTERM'] as const;

/** The module of the Worker that shows the maintenance page. */
export const MAINTENANCE_WORKER = new URL('maintenance-worker.js', import.meta.url);

export interface CloudflareOptions {
  /** The only API token that is accepted. */
  token: string;
  /** 32 hex digits, as the dashboard shows it. */
  zoneId: string;
  /** E.g. `example.test`; the zone serves it and every name below it. */
  zoneName: string;
  /** Worker scripts of the account: name to the file of its module. Each sees its name as `env.SCRIPT_NAME`. */
  scripts: Record<string, URL>;
  /** Answers what no Worker answers. Its request has the visitor's URL and headers. */
  origin: (request: Request) => Promise<Response>;
  /** The address that API and zone listen at. Default: the loopback one. */
  host?: string;
  log?: (line: string) => void;
}

export interface Cloudflare {
  /** Base URL of the API, ends with `/client/v4`. */
  apiUrl: string;
  /** The zone as visitors reach it: any host of the zone, by the Host header. A bare address shows `www` of the zone. */
  siteUrl: string;
  zoneId: string;
  token: string;
  close(): Promise<void>;
}

interface Route {
  id: string;
  pattern: string;
  /** Null: requests that match pass every Worker by. */
  script: string | null;
}

class Refusal extends Error {
  readonly status: number;
  readonly code: number;

  constructor(status: number, code: number, message: string) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** The part of the Cloudflare API v4 that Worker routes need, and a zone that is served by a real Workers runtime. */
export async function startCloudflare(options: CloudflareOptions): Promise<Cloudflare> {
  const { token, zoneId, zoneName, scripts, origin, host = '127.0.0.1', log = () => {} } = options;
  const routes = new Map<string, Route>();
  const listened = new Set(SIGNALS.flatMap((signal) => process.listeners(signal)));
  // Routing lies in front of the runtime, as at Cloudflare: a changed route never restarts a Worker.
  const workers = new Miniflare({
    workers: await Promise.all(
      Object.entries(scripts).map(async ([name, file]) => ({
        name,
        modules: true as const,
        script: await readFile(file, 'utf8'),
        bindings: { SCRIPT_NAME: name },
        compatibilityDate: '2026-01-01',
      })),
    ),
  });
  await workers.ready;
  // It would end this process as soon as a signal comes, before the rest of the world is taken down.
  for (const signal of SIGNALS) {
    for (const listener of process.listeners(signal)) {
      if (!listened.has(listener)) process.off(signal, listener);
    }
  }

  const address = { host, port: 0 };
  const api = await listen(async (request, response) => {
    try {
      sendJson(response, 200, { result: await answer(request), success: true, errors: [], messages: [] });
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      const errors = [{ code: error.code, message: error.message }];
      sendJson(response, error.status, { result: null, success: false, errors, messages: [] });
    }
  }, address);

  async function answer(request: IncomingMessage): Promise<unknown> {
    const { method = 'GET' } = request;
    const { pathname, searchParams } = new URL(request.url ?? '/', 'http://api');
    const path = pathname.replace(/^\/client\/v4/, '');
    authorize(request, path);
    if (path === '/user/tokens/verify') return { id: 'f'.repeat(32), status: 'active' };
    const zone = { id: zoneId, name: zoneName, status: 'active', paused: false, type: 'full' };
    if (path === '/zones') return [zone].filter(({ name }) => name === (searchParams.get('name') ?? name));
    const [, askedZone, rest = ''] = /^\/zones\/([^/]+)(\/.*)?$/.exec(path) ?? [];
    if (askedZone !== zoneId) {
      throw new Refusal(404, 7003, `Could not route to ${path}, perhaps your object identifier is invalid?`);
    }
    if (method === 'GET' && rest === '') return zone;
    const [, routeId] = /^\/workers\/routes(?:\/([^/]+))?$/.exec(rest) ?? [null];
    if (!rest.startsWith('/workers/routes')) throw new Refusal(404, 7000, 'No route for that URI');
    if (routeId === undefined) {
      if (method === 'GET') return [...routes.values()];
      if (method === 'POST') return put(randomBytes(16).toString('hex'), await readObject(request));
    } else {
      const found = routes.get(routeId ?? '');
      if (!found) throw new Refusal(404, 10_007, 'workers.api.error.not_found');
      if (method === 'GET') return found;
      if (method === 'PUT') return put(found.id, await readObject(request));
      if (method === 'DELETE') {
        routes.delete(found.id);
        log(`cloudflare: route ${found.pattern} removed`);
        return { id: found.id };
      }
    }
    throw new Refusal(405, 10_405, 'Method not allowed for this authentication scheme');
  }

  function authorize(request: IncomingMessage, path: string): void {
    const { authorization } = request.headers;
    if (authorization === undefined) throw new Refusal(400, 9106, 'Missing X-Auth-Key, X-Auth-Email or Authorization');
    if (authorization === `Bearer ${token}`) return;
    if (path === '/user/tokens/verify') throw new Refusal(401, 1000, 'Invalid API Token');
    throw new Refusal(403, 10_000, 'Authentication error');
  }

  function put(id: string, body: Record<string, unknown> | undefined): Route {
    const { pattern, script } = body ?? {};
    if (typeof pattern !== 'string' || !allowed(pattern, zoneName)) {
      throw new Refusal(400, 10_022, 'workers.api.error.invalid_route_pattern');
    }
    for (const other of routes.values()) {
      if (other.pattern === pattern && other.id !== id) {
        throw new Refusal(409, 10_020, 'workers.api.error.duplicate_route');
      }
    }
    const name = typeof script === 'string' && script !== '' ? script : null;
    if (name !== null && !Object.hasOwn(scripts, name)) {
      throw new Refusal(404, 10_019, 'workers.api.error.script_not_found');
    }
    const route = { id, pattern, script: name };
    routes.set(id, route);
    log(`cloudflare: route ${pattern} -> ${name ?? 'no Worker'}`);
    return route;
  }

  const site = await listen(async (request, response) => {
    const url = visitedUrl(request, zoneName);
    if (url === undefined) {
      response.writeHead(403, { 'content-type': 'text/plain' }).end('error code: 1003');
      return;
    }
    const id = matchRoutes(parseRoutes(new Map([...routes.values()].map((route) => [route.id, [route.pattern]]))), url);
    const script = id === null ? null : routes.get(id)?.script;
    const { method = 'GET' } = request;
    const headers = Object.entries(request.headers).flatMap(([name, value]) =>
      HOP_BY_HOP.has(name) ? [] : [value ?? []].flat().map((one): [string, string] => [name, one]),
    );
    const body = method === 'GET' || method === 'HEAD' ? null : await readBody(request);
    if (script === null || script === undefined) {
      await relay(await origin(new Request(url, { method, headers, body })), response);
    } else {
      const answered = await workers.dispatchFetch(url, {
        method,
        headers: [...headers, [CoreHeaders.ROUTE_OVERRIDE, script]],
        body,
        redirect: 'manual',
      });
      await relay(
        new Response(await answered.arrayBuffer(), { status: answered.status, headers: [...answered.headers] }),
        response,
      );
    }
  }, address);

  return {
    apiUrl: `${api.url}/client/v4`,
    siteUrl: site.url,
    zoneId,
    token,
    async close() {
      await Promise.all([api.close(), site.close()]);
      await workers.dispose();
    },
  };
}

/** They describe one connection and not the message; `host` is in the URL. */
const HOP_BY_HOP = new Set([
  'host',
  'connection',
  'keep-alive',
  'transfer-encoding',
  'upgrade',
  'content-length',
  'te',
]);

/** Only `*`, only at the start of the host and the end of the path, no query, and inside the zone. */
function allowed(pattern: string, zoneName: string): boolean {
  const [, host = '', path = ''] = /^(?:https?:\/\/)?([^/?#]+)(\/[^?#]*)?$/i.exec(pattern) ?? [];
  const plainHost = host.replace(/^\*\.?/, '');
  const inZone = plainHost === zoneName || plainHost.endsWith(`.${zoneName}`);
  return inZone && !plainHost.includes('*') && !path.slice(0, -1).includes('*');
}

/** What the visitor asked for. The zone ends TLS in front of this server, so the scheme is always https. */
function visitedUrl(request: IncomingMessage, zoneName: string): URL | undefined {
  const host = (request.headers.host ?? '').replace(/:\d+$/, '').toLowerCase();
  const path = request.url ?? '/';
  if (host === '127.0.0.1' || host === 'localhost') return new URL(`https://www.${zoneName}${path}`);
  return host === zoneName || host.endsWith(`.${zoneName}`) ? new URL(`https://${host}${path}`) : undefined;
}

async function relay(answer: Response, response: ServerResponse): Promise<void> {
  response.writeHead(answer.status, [...answer.headers].filter(([name]) => !HOP_BY_HOP.has(name)).flat());
  try {
    for await (const chunk of answer.body ?? []) response.write(chunk);
    response.end();
  } catch {
    // The origin went away in the middle; a visitor sees a connection that breaks, not a short page.
    response.destroy();
  }
}
