import type { IncomingMessage } from 'node:http';
import { applyFilter, BadFilter } from './linode-filter.ts';
import { listen, readObject, sendJson } from './http.ts';
import type { Address } from './http.ts';
import { openVolumes, Refusal, SMALLEST_GB } from './linode-volumes.ts';
import type { Delays, VolumeStore } from './linode-volumes.ts';
import type { Volumes } from '../kube/volumes.ts';

export interface LinodeOptions {
  /** Volumes and their bytes live here; a second start on the same folder has them again. */
  stateDir: string;
  /** The only personal access token that is accepted. */
  token: string;
  /** What the token may do, as the API's header says it. Default `*`. */
  scopes?: string;
  /** The only region there is, e.g. `eu-central`. */
  region: string;
  /** Default 0 each. `PUT /sandbox/delays` changes them while it runs. */
  delays?: Partial<Delays>;
  /** Requests a minute, by kind of request. Default: the documented limits. */
  limits?: Partial<Record<Bucket, number>>;
  /** Default: a free port of the loopback address. */
  listen?: Address;
  log?: (line: string) => void;
}

export interface Linode {
  /** To be used in place of `https://api.linode.com`; paths begin with `/v4`. */
  url: string;
  token: string;
  /** What the cluster's CSI emulation uses; the same volumes. */
  volumes: Volumes;
  close(): Promise<void>;
}

type Bucket = 'list' | 'create' | 'other';

interface Reply {
  status?: number;
  body: unknown;
}

const DOCUMENTED_LIMITS: Record<Bucket, number> = { list: 200, create: 100, other: 1600 };
const VOLUME_FILTERABLE = ['id', 'label', 'tags', 'size', 'created'] as const;
const EVENT_FILTERABLE = ['id', 'action', 'created', 'entity.id', 'entity.type', 'status'] as const;

/** The part of the Linode API v4 that block storage needs, over volumes that are directories. */
export async function startLinode({
  stateDir,
  token,
  scopes = '*',
  region,
  delays: ordered = {},
  limits = {},
  listen: address,
  log = () => {},
}: LinodeOptions): Promise<Linode> {
  const delays: Delays = { cloneMs: 0, detachMs: 0, ...ordered };
  const store = openVolumes({ stateDir, region, delays, log });
  const limiter = startLimiter({ ...DOCUMENTED_LIMITS, ...limits });

  const server = await listen(async (request, response) => {
    const { pathname, searchParams } = new URL(request.url ?? '/', 'http://api');
    const path = /^\/v4(?:beta)?(\/.*)$/.exec(pathname)?.[1] ?? '';
    const rate = limiter(bucketOf(request.method ?? 'GET', path));
    try {
      if (rate.exceeded) throw new Refusal(429, 'Too many requests');
      if (path !== '/volumes/types' && request.headers.authorization !== `Bearer ${token}`) {
        throw new Refusal(401, 'Invalid Token');
      }
      rate.headers['x-oauth-scopes'] = scopes;
      if (request.method !== 'GET' && scopes !== '*' && !scopes.includes('volumes:read_write')) {
        throw new Refusal(401, 'Your OAuth token is not authorized to use this endpoint.');
      }
      if (pathname === '/sandbox/delays' && request.method === 'PUT') {
        sendJson(response, 200, orderDelays(await bodyOf(request)));
        return;
      }
      const { status = 200, body } = await answer(request, path, searchParams);
      sendJson(response, status, body, rate.headers);
    } catch (error) {
      if (error instanceof BadFilter) {
        sendJson(response, 400, { errors: [{ field: 'X-Filter', reason: error.message }] }, rate.headers);
      } else if (error instanceof Refusal) {
        sendJson(response, error.status, { errors: error.errors }, rate.headers);
      } else {
        throw error;
      }
    }
  }, address);

  /** No part of the provider's API: how a test makes it as slow as the provider can be. */
  function orderDelays(body: Record<string, unknown>): Delays {
    for (const name of ['cloneMs', 'detachMs'] as const) {
      if (body[name] !== undefined) delays[name] = integer(body[name], name);
    }
    return delays;
  }

  async function answer(request: IncomingMessage, path: string, query: URLSearchParams): Promise<Reply> {
    const { method = 'GET' } = request;
    const [, id, verb] = /^\/volumes\/(\d+)(?:\/(\w+))?$/.exec(path) ?? [];
    if (id !== undefined) return volumeReply(method, Number(id), verb, request);
    switch (`${method} ${path}`) {
      case 'GET /volumes':
        return { body: page(applyFilter(store.list(), filterOf(request), VOLUME_FILTERABLE), query) };
      case 'POST /volumes':
        return { body: createVolume(await bodyOf(request)) };
      case 'GET /volumes/types':
        return { body: page([VOLUME_TYPE], query) };
      case 'GET /account/events':
        return { body: page(events(request), query) };
      case 'GET /profile':
        return { body: { username: 'sandbox', email: 'sandbox@example.test', restricted: false, timezone: 'UTC' } };
      case `GET /regions/${region}`:
        return { body: { id: region, label: region, country: 'de', status: 'ok', capabilities: ['Block Storage'] } };
      default:
        throw new Refusal(404, 'Not found');
    }
  }

  async function volumeReply(
    method: string,
    id: number,
    verb: string | undefined,
    request: IncomingMessage,
  ): Promise<Reply> {
    switch (`${method} ${verb ?? ''}`) {
      case 'GET ':
        return { body: store.get(id) };
      case 'PUT ': {
        const { label, tags } = await bodyOf(request);
        return {
          body: store.update(id, {
            ...(label === undefined ? {} : { label: text(label, 'label') }),
            ...(tags === undefined ? {} : { tags: texts(tags, 'tags') }),
          }),
        };
      }
      case 'DELETE ':
        store.delete(id);
        return { body: {} };
      case 'POST clone':
        return { body: store.clone(id, text((await bodyOf(request))['label'], 'label')) };
      case 'POST attach':
        return { body: store.attach(id, integer((await bodyOf(request))['linode_id'], 'linode_id')) };
      case 'POST detach':
        // Answered before it is done, as there. The store logs what fails.
        store.detach(id).catch(() => {});
        return { body: {} };
      case 'POST resize':
        return { body: store.resize(id, integer((await bodyOf(request))['size'], 'size')) };
      default:
        throw new Refusal(404, 'Not found');
    }
  }

  function createVolume(body: Record<string, unknown>): unknown {
    const linodeId = body['linode_id'] === undefined ? undefined : integer(body['linode_id'], 'linode_id');
    if (linodeId === undefined && body['region'] === undefined) {
      throw new Refusal(400, 'Must provide a region or a Linode ID', 'region');
    }
    const made = store.create({
      label: text(body['label'], 'label'),
      size: body['size'] === undefined ? 20 : integer(body['size'], 'size'),
      region: body['region'] === undefined ? region : text(body['region'], 'region'),
      tags: body['tags'] === undefined ? [] : texts(body['tags'], 'tags'),
    });
    return linodeId === undefined ? made : store.attach(made.id, linodeId);
  }

  function events(request: IncomingMessage): unknown[] {
    // The API names nested fields with a dot in a filter.
    const rows = store.events().map((event) => ({
      event,
      row: { ...event, 'entity.id': event.entity.id, 'entity.type': event.entity.type },
    }));
    const kept = applyFilter(
      rows.map(({ row }) => row),
      filterOf(request),
      EVENT_FILTERABLE,
    );
    return kept.map((row) => rows.find((candidate) => candidate.row === row)?.event);
  }

  return {
    url: server.url,
    token,
    volumes: forCluster(store),
    async close() {
      await server.close();
      await store.idle();
    },
  };
}

function forCluster(store: VolumeStore): Volumes {
  const find = (id: number) => store.list().find((volume) => volume.id === id);
  return {
    // The CSI driver asks for the smallest size there is when a claim wants less.
    create: async ({ label, sizeGb, region }) =>
      store.create({ label, size: Math.max(SMALLEST_GB, Math.ceil(sizeGb)), region }),
    directory: (id) => store.directory(id),
    async attach(id, linodeId) {
      if (store.get(id).linode_id !== linodeId) store.attach(id, linodeId);
    },
    async detach(id) {
      if ((find(id)?.linode_id ?? null) !== null) await store.detach(id);
    },
    async resize(id, sizeGb) {
      if (store.get(id).size < sizeGb) store.resize(id, sizeGb);
    },
    async delete(id) {
      if (find(id)) store.delete(id);
    },
    async get(id) {
      const found = find(id);
      return found
        ? {
            id,
            label: found.label,
            sizeGb: found.size,
            region: found.region,
            linodeId: found.linode_id,
          }
        : null;
    },
  };
}

const VOLUME_TYPE = {
  id: 'volume',
  label: 'Storage Volume',
  price: { hourly: 0.000_15, monthly: 0.1 },
  region_prices: [
    { id: 'id-cgk', hourly: 0.000_18, monthly: 0.12 },
    { id: 'br-gru', hourly: 0.000_21, monthly: 0.14 },
  ],
  transfer: 0,
};

function bucketOf(method: string, path: string): Bucket {
  if (method === 'POST' && (path === '/volumes' || path.endsWith('/clone'))) return 'create';
  return method === 'GET' && path === '/volumes' ? 'list' : 'other';
}

function startLimiter(
  limits: Record<Bucket, number>,
): (bucket: Bucket) => { exceeded: boolean; headers: Record<string, string> } {
  const windows = new Map<Bucket, { used: number; resets: number }>();
  return (bucket) => {
    const time = Date.now();
    const open = windows.get(bucket);
    const window = open !== undefined && open.resets > time ? open : { used: 0, resets: time + 60_000 };
    window.used += 1;
    windows.set(bucket, window);
    const exceeded = window.used > limits[bucket];
    const headers: Record<string, string> = {
      'x-ratelimit-limit': String(limits[bucket]),
      'x-ratelimit-remaining': String(Math.max(0, limits[bucket] - window.used)),
      'x-ratelimit-reset': String(Math.ceil(window.resets / 1000)),
    };
    if (exceeded) headers['retry-after'] = String(Math.ceil((window.resets - time) / 1000));
    return { exceeded, headers };
  };
}

function page<T>(rows: T[], query: URLSearchParams): { data: T[]; page: number; pages: number; results: number } {
  const size = Number(query.get('page_size') ?? 100);
  const number = Number(query.get('page') ?? 1);
  if (!Number.isInteger(size) || size < 25 || size > 500) throw new Refusal(400, 'Must be 25-500', 'page_size');
  const pages = Math.max(1, Math.ceil(rows.length / size));
  if (!Number.isInteger(number) || number < 1 || number > pages) throw new Refusal(404, 'Not found');
  return { data: rows.slice((number - 1) * size, number * size), page: number, pages, results: rows.length };
}

function filterOf(request: IncomingMessage): unknown {
  const header = request.headers['x-filter'];
  if (header === undefined) return {};
  try {
    return JSON.parse(String(header)) as unknown;
  } catch {
    throw new BadFilter('X-Filter must be JSON');
  }
}

async function bodyOf(request: IncomingMessage): Promise<Record<string, unknown>> {
  const body = await readObject(request);
  if (!body) throw new Refusal(400, 'JSON must be an object');
  return body;
}

function text(value: unknown, field: string): string {
  if (value === undefined) throw new Refusal(400, `${field} is required`, field);
  if (typeof value !== 'string') throw new Refusal(400, 'Must be of type String', field);
  return value;
}

function texts(value: unknown, field: string): string[] {
  if (!Array.isArray(value)) throw new Refusal(400, 'Must be of type Array', field);
  return value.map((one) => text(one, field));
}

function integer(value: unknown, field: string): number {
  if (value === undefined) throw new Refusal(400, `${field} is required`, field);
  if (typeof value !== 'number' || !Number.isInteger(value)) throw new Refusal(400, 'Must be of type Integer', field);
  return value;
}
