import { request } from 'node:http';
import Cloudflare, { APIError } from 'cloudflare';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { MAINTENANCE_WORKER, startCloudflare } from '../../src/sandbox/clouds/cloudflare.ts';
import type { Cloudflare as StandIn } from '../../src/sandbox/clouds/cloudflare.ts';

const zone_id = '0123456789abcdef0123456789abcdef';
let cloud: StandIn;
let client: Cloudflare;
const listened = process.listenerCount('SIGTERM');

beforeAll(async () => {
  cloud = await startCloudflare({
    token: 'cf-token',
    zoneId: zone_id,
    zoneName: 'example.test',
    scripts: { maintenance: MAINTENANCE_WORKER, other: MAINTENANCE_WORKER },
    origin: async ({ method, url }) => new Response(`origin of ${method} ${url}`, { headers: { 'x-origin': 'yes' } }),
  });
  client = new Cloudflare({ apiToken: 'cf-token', baseURL: cloud.apiUrl, maxRetries: 0 });
});
afterAll(() => cloud.close());

test('leaves it to its process what a signal does', () => {
  expect(process.listenerCount('SIGTERM')).toBe(listened);
});

beforeEach(async () => {
  for await (const { id } of client.workers.routes.list({ zone_id }))
    await client.workers.routes.delete(id, { zone_id });
});

interface Answer {
  status: number | undefined;
  headers: NodeJS.Dict<string | string[]>;
  body: string;
}

function visit(host: string, path = '/', method = 'GET'): Promise<Answer> {
  return new Promise((resolve, reject) => {
    request(cloud.siteUrl + path, { method, headers: { host } }, (response) => {
      let body = '';
      response.setEncoding('utf8');
      response.on('data', (chunk: string) => (body += chunk));
      response.on('end', () => resolve({ status: response.statusCode, headers: response.headers, body }));
    })
      .on('error', reject)
      .end();
  });
}

async function refusal(call: PromiseLike<unknown>): Promise<{ status: unknown; codes: number[] }> {
  try {
    await call;
  } catch (error) {
    if (error instanceof APIError) {
      return { status: error.status as unknown, codes: error.errors.map(({ code }) => code ?? 0) };
    }
    throw error;
  }
  throw new Error('the call was not refused');
}

test('keeps routes as the real API does', async () => {
  const { routes } = client.workers;
  const made = await routes.create({ zone_id, pattern: 'example.test/*', script: 'maintenance' });
  expect(made).toMatchObject({ pattern: 'example.test/*', script: 'maintenance' });
  expect(await routes.get(made.id, { zone_id })).toEqual(made);
  expect(await routes.update(made.id, { zone_id, pattern: 'example.test/*' })).toMatchObject({ script: null });
  expect((await routes.list({ zone_id })).result).toHaveLength(1);
  expect(await routes.delete(made.id, { zone_id })).toEqual({ id: made.id });
  expect((await routes.list({ zone_id })).result).toEqual([]);
  expect(await refusal(routes.get(made.id, { zone_id }))).toMatchObject({ status: 404 });
});

test('answers in the error codes of the real API', async () => {
  const { routes } = client.workers;
  await routes.create({ zone_id, pattern: 'example.test/*', script: 'maintenance' });
  const create = (pattern: string, script?: string) =>
    routes.create({ zone_id, pattern, ...(script === undefined ? {} : { script }) });
  expect(await refusal(create('example.test/*'))).toEqual({ status: 409, codes: [10_020] });
  expect(await refusal(create('a.example.test/*', 'missing'))).toEqual({ status: 404, codes: [10_019] });
  for (const pattern of ['', 'elsewhere.test/*', 'a.*.example.test/', 'example.test/*/x', 'example.test/?q']) {
    expect(await refusal(create(pattern)), pattern).toEqual({ status: 400, codes: [10_022] });
  }
  expect(await refusal(routes.list({ zone_id: 'f'.repeat(32) }))).toEqual({ status: 404, codes: [7003] });
  const stranger = new Cloudflare({ apiToken: 'wrong', baseURL: cloud.apiUrl, maxRetries: 0 });
  expect(await refusal(stranger.workers.routes.list({ zone_id }))).toEqual({ status: 403, codes: [10_000] });
  expect(await refusal(stranger.user.tokens.verify())).toEqual({ status: 401, codes: [1000] });
});

test('knows its zone and its token', async () => {
  expect(await client.zones.get({ zone_id })).toMatchObject({ name: 'example.test', status: 'active' });
  expect((await client.zones.list({ name: 'example.test' })).result).toHaveLength(1);
  expect((await client.zones.list({ name: 'elsewhere.test' })).result).toHaveLength(0);
  expect(await client.user.tokens.verify()).toMatchObject({ status: 'active' });
});

test('serves the zone: a Worker where a route says so, the origin elsewhere, changed at once', async () => {
  const { routes } = client.workers;
  expect(await visit('www.example.test', '/a?b=1')).toMatchObject({
    status: 200,
    body: 'origin of GET https://www.example.test/a?b=1',
    headers: { 'x-origin': 'yes' },
  });
  const all = await routes.create({ zone_id, pattern: '*example.test/*', script: 'maintenance' });
  const page = await visit('www.example.test');
  expect(page).toMatchObject({ status: 503, headers: { 'x-maintenance': 'maintenance' } });
  expect(Number(page.headers['retry-after'])).toBeGreaterThan(0);
  expect(await visit('example.test', '/', 'HEAD')).toMatchObject({ status: 503, body: '' });
  expect(await visit('example.test', '/form', 'POST')).toMatchObject({ status: 503 });

  await routes.update(all.id, { zone_id, pattern: '*example.test/*', script: 'other' });
  expect((await visit('www.example.test')).headers['x-maintenance']).toBe('other');
  // More specific wins, and a route without a script lets requests through.
  await routes.create({ zone_id, pattern: 'api.example.test/*', script: 'maintenance' });
  await routes.create({ zone_id, pattern: 'api.example.test/health*' });
  expect((await visit('api.example.test')).headers['x-maintenance']).toBe('maintenance');
  expect((await visit('api.example.test', '/health/db')).status).toBe(200);

  for await (const { id } of routes.list({ zone_id })) await routes.delete(id, { zone_id });
  expect((await visit('api.example.test')).status).toBe(200);
  expect((await visit('other.test')).status).toBe(403);
});
