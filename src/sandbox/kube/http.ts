import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer, type Server } from 'node:https';
import { createObject, deleteObject, patchObject, readObject, scaleOf, updateObject } from './api.ts';
import type { DeleteOptions, PatchType, Target } from './api.ts';
import type { ServerCertificate } from './certificates.ts';
import { discover, listKind } from './discovery.ts';
import { ApiFailure, badRequest } from './failures.ts';
import { timestamp, type AnyObject } from './objects.ts';
import { openApi } from './openapi.ts';
import { accessReview, authorize, wishOf, type Users } from './rbac.ts';
import { resourcesIn, type ResourceInfo } from './resources.ts';
import { parseFieldSelector, parseLabelSelector } from './selectors.ts';
import type { Store } from './store.ts';
import { tableOf, wantsTable } from './table.ts';
import { streamChanges } from './watch.ts';

export interface Route {
  info: ResourceInfo;
  /** Undefined when the path names none: all namespaces, or a resource without. */
  namespace: string | undefined;
  name: string | undefined;
  subresource: string | undefined;
}

export interface ServerOptions {
  store: Store;
  certificate: ServerCertificate;
  users: Users;
  /** Told about what only a mistake in the server can be. */
  onError: (where: string, error: unknown) => void;
  /** Streams a container's log. */
  logs(route: { namespace: string; name: string }, query: URLSearchParams, response: ServerResponse): Promise<void>;
}

const pageNotFound = '404 page not found';
const bodyLimit = 3 * 1024 * 1024;

const patchTypes: Record<string, PatchType> = {
  'application/json-patch+json': 'json',
  'application/merge-patch+json': 'merge',
  'application/strategic-merge-patch+json': 'strategic',
  'application/apply-patch+yaml': 'apply',
  'application/apply-patch+json': 'apply',
};

/** The API over HTTPS, not yet listening. Upgrades (exec) are the caller's. */
export function createApiServer(options: ServerOptions): Server {
  const { certificate } = options;
  const server = createServer({ cert: certificate.cert, key: certificate.key }, (request, response) => {
    handle(options, request, response).catch((error: unknown) => {
      if (!(error instanceof ApiFailure)) options.onError(`${request.method} ${request.url}`, error);
      if (response.headersSent) response.destroy();
      else sendFailure(response, error);
    });
  });
  // Node closes idle connections after 5 s, under the hands of clients that keep them; real API servers wait longer.
  server.keepAliveTimeout = 90_000;
  return server;
}

function sendFailure(response: ServerResponse, error: unknown): void {
  const failure = asFailure(error);
  if (failure.message === pageNotFound) {
    response.writeHead(404, { 'content-type': 'text/plain; charset=utf-8' }).end(`${failure.message}\n`);
    return;
  }
  send(response, failure.code, failure.body);
}

export function asFailure(error: unknown): ApiFailure {
  if (error instanceof ApiFailure) return error;
  const message = error instanceof Error ? error.message : String(error);
  return new ApiFailure(500, 'InternalError', `Internal error occurred: ${message}`);
}

function send(response: ServerResponse, code: number, body: unknown): void {
  const text = JSON.stringify(body);
  response.writeHead(code, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) });
  response.end(text);
}

/** Thrown for a path behind which there is no resource; the real server answers it in plain text, not with a Status. */
function noSuchPath(): ApiFailure {
  return new ApiFailure(404, 'NotFound', pageNotFound);
}

function decodePart(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    throw badRequest(`invalid URL escape in ${part}`);
  }
}

/** Throws 404 for a path that names no resource of the sandbox. */
export function parseRoute(store: Store, path: string): Route {
  const parts = path.split('/').slice(1).map(decodePart);
  const [group, version] = parts[0] === 'api' ? ['', parts[1]] : [parts[1] ?? '', parts[2]];
  const rest = parts.slice(parts[0] === 'api' ? 2 : 3);
  const known = parts[0] === 'api' || parts[0] === 'apis';
  let namespace: string | undefined;
  // `namespaces/x` and its subresources are the Namespace itself; anything deeper lies in it.
  if (rest[0] === 'namespaces' && rest.length > 2 && rest[2] !== 'status' && rest[2] !== 'finalize') {
    namespace = rest[1];
    rest.splice(0, 2);
  }
  const [resource = '', name, subresource] = rest;
  const info = resourcesIn(store).find(
    (one) => known && one.group === group && one.version === version && one.plural === resource,
  );
  if (info === undefined || rest.length > 3 || (namespace !== undefined && !info.namespaced)) throw noSuchPath();
  return { info, namespace, name, subresource };
}

async function handle(options: ServerOptions, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const { store, users } = options;
  const user = users.authenticate(request);
  const url = new URL(request.url ?? '/', 'https://localhost');
  authorize(store, user, wishOf(request.method ?? '', url));
  const path = url.pathname.replace(/\/+$/, '');
  if (path === '/healthz' || path === '/readyz' || path === '/livez') {
    response.end('ok');
    return;
  }
  const discovered = request.method === 'GET' ? (discover(store, path) ?? openApi(store, path)) : undefined;
  if (discovered !== undefined) return send(response, 200, discovered);
  if (path === '/apis/authorization.k8s.io/v1/selfsubjectaccessreviews' && request.method === 'POST') {
    const review = parseJson(await readText(request)) as Parameters<typeof accessReview>[2];
    return send(response, 201, accessReview(store, user, review));
  }
  if (path === '/apis/authentication.k8s.io/v1/selfsubjectreviews' && request.method === 'POST') {
    const review = parseJson(await readText(request)) as Record<string, unknown>;
    const userInfo = { username: user.name, groups: user.groups };
    return send(response, 201, { ...review, status: { userInfo } });
  }
  const route = parseRoute(store, path);
  const query = url.searchParams;
  if (route.name === undefined) return handleCollection(options, route, query, request, response);
  if (route.info.resource === 'pods' && route.subresource === 'log' && request.method === 'GET') {
    return options.logs({ namespace: route.namespace ?? '', name: route.name }, query, response);
  }
  if (route.info.resource === 'serviceaccounts' && route.subresource === 'token' && request.method === 'POST') {
    const asked = parseJson(await readText(request)) as Record<string, unknown>;
    const expirationTimestamp = timestamp(Date.now() + 3600_000);
    const status = { token: users.issue(route.namespace ?? '', route.name), expirationTimestamp };
    return send(response, 201, { ...asked, status });
  }
  await handleObject(options, { ...route, name: route.name }, query, request, response);
}

async function handleCollection(
  { store }: ServerOptions,
  route: Route,
  query: URLSearchParams,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const { info, namespace } = route;
  if (request.method === 'POST') {
    if (info.namespaced && namespace === undefined) throw methodNotAllowed(request);
    const body = parseJson(await readText(request));
    return send(response, 201, createObject(targetOf(store, route, query, request), body));
  }
  if (request.method !== 'GET') throw methodNotAllowed(request);
  const selects = selectorOf(query);
  const table = wantsTable(request.headers.accept);
  const whole = query.get('includeObject') === 'Object';
  if (flag(query, 'watch')) {
    const after = query.get('resourceVersion');
    const seconds = query.get('timeoutSeconds');
    const past = after === null || after === '' ? undefined : number(after, 'resourceVersion');
    const timeoutSeconds = seconds === null ? undefined : number(seconds, 'timeoutSeconds');
    const bookmarks = flag(query, 'allowWatchBookmarks');
    const show = (object: AnyObject) => (table ? tableOf(info, [object], {}, whole) : object);
    return streamChanges(store, { info, namespace, after: past, selects, show, timeoutSeconds, bookmarks }, response);
  }
  const all = store.list(info.resource, namespace).filter(selects);
  const from = Number(Buffer.from(query.get('continue') ?? '', 'base64').toString() || 0);
  const limit = number(query.get('limit') ?? '0', 'limit') || all.length;
  const page = all.slice(from, from + limit);
  const left = all.length - from - page.length;
  const more = left > 0 ? { continue: btoa(String(from + limit)), remainingItemCount: left } : {};
  const metadata = { resourceVersion: String(store.version()), ...more };
  if (table) return send(response, 200, tableOf(info, page, metadata, whole));
  // Items of a list carry no kind of their own, on which clients must not count.
  const items = page.map(({ apiVersion: _version, kind: _kind, ...item }) => item);
  send(response, 200, { ...listKind(info), metadata, items });
}

async function handleObject(
  { store }: ServerOptions,
  route: Route & { name: string },
  query: URLSearchParams,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const { info, name, subresource } = route;
  const known =
    subresource === undefined || (subresource === 'status' && info.status) || (subresource === 'scale' && info.scale);
  if (!known) throw noSuchPath();
  const target = targetOf(store, route, query, request);
  const show = (object: AnyObject) => (subresource === 'scale' ? scaleOf(object) : object);
  switch (request.method) {
    case 'GET': {
      const found = readObject(target, name);
      const table = subresource === undefined && wantsTable(request.headers.accept);
      const whole = query.get('includeObject') === 'Object';
      return send(response, 200, table ? tableOf(info, [found], {}, whole) : show(found));
    }
    case 'PUT':
      return send(response, 200, show(updateObject(target, name, parseJson(await readText(request)))));
    case 'PATCH': {
      const mediaType = contentType(request);
      const type = patchTypes[mediaType];
      if (type === undefined) throw unsupportedMedia(mediaType, Object.keys(patchTypes));
      const { object, created } = patchObject(target, name, type, await readText(request));
      return send(response, created ? 201 : 200, show(object));
    }
    case 'DELETE': {
      if (subresource !== undefined) throw methodNotAllowed(request);
      const text = await readText(request);
      const body = (text === '' ? {} : parseJson(text)) as DeleteOptions & { orphanDependents?: boolean };
      const grace = query.get('gracePeriodSeconds');
      return send(
        response,
        200,
        deleteObject(target, name, {
          gracePeriodSeconds: grace === null ? body.gracePeriodSeconds : number(grace, 'gracePeriodSeconds'),
          propagationPolicy: query.get('propagationPolicy') ?? body.propagationPolicy,
          preconditions: body.preconditions,
        }),
      );
    }
    default:
      throw methodNotAllowed(request);
  }
}

function targetOf(store: Store, route: Route, query: URLSearchParams, request: IncomingMessage): Target {
  const dryRun = query.get('dryRun');
  if (dryRun !== null && dryRun !== 'All') throw badRequest(`Invalid value: ["${dryRun}"]: dryRun`);
  const { subresource } = route;
  const agent = request.headers['user-agent']?.split('/')[0];
  return {
    store,
    info: route.info,
    namespace: route.namespace ?? '',
    subresource: subresource === 'status' || subresource === 'scale' ? subresource : undefined,
    dryRun: dryRun === 'All',
    manager: query.get('fieldManager') ?? agent ?? 'unknown',
  };
}

function selectorOf(query: URLSearchParams): (object: AnyObject) => boolean {
  const labels = parseLabelSelector(query.get('labelSelector') ?? '');
  const fields = parseFieldSelector(query.get('fieldSelector') ?? '');
  return (object) => labels(object.metadata.labels ?? {}) && fields(object);
}

function flag(query: URLSearchParams, name: string): boolean {
  return ['true', '1'].includes(query.get(name) ?? '');
}

function number(text: string, what: string): number {
  if (!/^\d+$/.test(text)) throw badRequest(`${what}: Invalid value: "${text}"`);
  return Number(text);
}

function methodNotAllowed(request: IncomingMessage): ApiFailure {
  return new ApiFailure(
    405,
    'MethodNotAllowed',
    `the server does not allow ${request.method} on the requested resource`,
  );
}

function unsupportedMedia(mediaType: string, accepted: string[]): ApiFailure {
  const message = `the body of the request was in an unknown format (${mediaType}) - accepted media types include: ${accepted.join(', ')}`;
  return new ApiFailure(415, 'UnsupportedMediaType', message);
}

function contentType(request: IncomingMessage): string {
  return (request.headers['content-type'] ?? 'application/json').split(';')[0]?.trim().toLowerCase() ?? '';
}

/** The body as text. Throws 413 beyond what the real server takes, 415 for what isn't JSON or YAML. */
async function readText(request: IncomingMessage): Promise<string> {
  const mediaType = contentType(request);
  const readable = /[/+](json|yaml)$/.test(mediaType);
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > bodyLimit) throw new ApiFailure(413, 'RequestEntityTooLarge', `limit is ${bodyLimit}`);
    chunks.push(chunk);
  }
  if (!readable && size > 0) throw unsupportedMedia(mediaType, ['application/json']);
  return Buffer.concat(chunks).toString('utf8');
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw badRequest(`couldn't get version/kind; json parse error: ${error instanceof Error ? error.message : ''}`);
  }
}
