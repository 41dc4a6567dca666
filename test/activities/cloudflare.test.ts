import { createServer } from 'node:http';
import Cloudflare from 'cloudflare';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { cloudflareActivities } from '../../src/activities/cloudflare.ts';
import type { CloudflareActivities } from '../../src/activities/cloudflare.ts';
import { fail } from '../../src/activities/errors.ts';
import type { RouteFact, World } from '../../src/domain/facts.ts';
import type { Spec } from '../../src/domain/spec.ts';
import { MAINTENANCE_WORKER, startCloudflare } from '../../src/sandbox/clouds/cloudflare.ts';
import type { Cloudflare as Cloud } from '../../src/sandbox/clouds/cloudflare.ts';
import { failureOf, run } from './environment.ts';
import { startFaultProxy } from './fault-proxy.ts';
import type { FaultProxy } from './fault-proxy.ts';

type Maintenance = NonNullable<Spec['maintenance']>;

const TOKEN = 'secret-cloudflare-token-0123456789';
const zone = '0123456789abcdef0123456789abcdef';
const pattern = '*example.test/*';
const world: World = { clusterUid: 'c', upgradeId: 'u00000001', startedAt: new Date().toISOString(), namespace: 'db' };
let cloud: Cloud;
let proxy: FaultProxy;
let sdk: Cloudflare;
let token: string | undefined;
let activities: CloudflareActivities;

beforeAll(async () => {
  cloud = await startCloudflare({
    token: TOKEN,
    zoneId: zone,
    zoneName: 'example.test',
    scripts: { maintenance: MAINTENANCE_WORKER, shop: new URL('shop-worker.js', import.meta.url) },
    origin: async () => new Response('the website'),
  });
  proxy = await startFaultProxy(cloud.apiUrl);
  sdk = new Cloudflare({ apiToken: TOKEN, baseURL: cloud.apiUrl, maxRetries: 0 });
});
afterAll(async () => {
  await proxy.close();
  await cloud.close();
});
beforeEach(async () => {
  token = TOKEN;
  activities = make();
  for (const { id } of await list()) await sdk.workers.routes.delete(id, { zone_id: zone });
  proxy.seen.length = 0;
});

function make(options: Partial<Parameters<typeof cloudflareActivities>[0]> = {}): CloudflareActivities {
  return cloudflareActivities({
    baseUrl: `${proxy.url}/client/v4`,
    token: () => token,
    probeEveryMs: 5,
    assertWorld: async ({ clusterUid }) => {
      if (clusterUid !== 'c') throw fail('WrongWorld', 'another cluster');
    },
    ...options,
  });
}

function spec(changes: Partial<Maintenance> = {}): Maintenance {
  return {
    zone,
    script: 'maintenance',
    patterns: [pattern],
    marker: 'X-Maintenance',
    probes: [{ url: `${cloud.siteUrl}/`, host: 'www.example.test' }],
    takeOver: false,
    ...changes,
  };
}

interface Found {
  id: string;
  pattern: string;
  script?: string | null;
}

async function list(): Promise<Found[]> {
  return (await sdk.workers.routes.list({ zone_id: zone })).result;
}

/** Pattern and script of every route there is. */
async function standing(): Promise<[string, string | null][]> {
  return (await list()).map((route) => [route.pattern, route.script ?? null]);
}

async function put(text: string, script?: string): Promise<RouteFact> {
  const { id } = await sdk.workers.routes.create({ zone_id: zone, pattern: text, ...(script ? { script } : {}) });
  return { zone, pattern: text, prior: { id, script: script ?? null } };
}

const fresh: RouteFact = { zone, pattern, prior: null };
const set = (route: RouteFact, script = 'maintenance') => run(() => activities.setRoute({ world, route, script }));
const restore = (route: RouteFact) => run(() => activities.restoreRoute({ world, route, script: 'maintenance' }));

function inspect(maintenance: Spec['maintenance']) {
  return run(() => activities.inspectRoutes({ maintenance }));
}

function lose(verb: string): void {
  proxy.next({ when: (method) => method === verb, instead: 'drop' });
}

describe('inspectRoutes', () => {
  test('without maintenance there is nothing to look at', async () => {
    expect(await inspect(null)).toMatchObject({ routes: [], checks: [{ id: 'routes.none', status: 'INFO' }] });
    expect(proxy.seen).toEqual([]);
  });

  test('a zone without routes passes, and what cannot be known is said', async () => {
    const { routes, checks } = await inspect(spec());
    expect(routes).toEqual([fresh]);
    expect(checks.map(({ id, status }) => [id, status])).toEqual([
      ['routes.zone', 'PASSED'],
      ['routes.pattern', 'PASSED'],
      ['routes.script', 'INFO'],
      ['routes.probe', 'PASSED'],
    ]);
    expect(await standing()).toEqual([]);
  });

  test('a pattern that has a Worker, or a route without one, needs takeOver', async () => {
    for (const script of ['shop', undefined]) {
      const there = await put(pattern, script);
      const { routes, checks } = await inspect(spec());
      expect(routes).toEqual([there]);
      expect(checks).toContainEqual(expect.objectContaining({ id: 'routes.pattern', status: 'FAILED' }));
      const taking = await inspect(spec({ takeOver: true }));
      expect(taking.checks.map(({ status }) => status)).not.toContain('FAILED');
      await sdk.workers.routes.delete(there.prior?.id ?? '', { zone_id: zone });
    }
  });

  test('names each more specific route that goes on without the maintenance page', async () => {
    await put('api.example.test/*', 'shop');
    await put('www.example.test/health*');
    await put('www.example.test/old*', 'maintenance');
    const { checks } = await inspect(spec());
    const overriding = checks.filter(({ id }) => id === 'routes.override').map(({ message }) => message.split(' ')[0]);
    expect(overriding).toEqual(['api.example.test/*', 'www.example.test/health*']);
    expect(checks).toContainEqual(expect.objectContaining({ id: 'routes.script', status: 'PASSED' }));
  });

  test('a probe that could never show the page fails, whatever takes it away', async () => {
    await put('api.example.test/*', 'shop');
    await put('www.example.test/health*');
    const probes = [
      { url: `${cloud.siteUrl}/`, host: 'api.example.test' },
      { url: `${cloud.siteUrl}/health`, host: 'www.example.test' },
      { url: 'http://127.0.0.1:1/', host: 'example.test' },
      { url: `${cloud.siteUrl}/`, host: 'example.test' },
    ];
    const { checks } = await inspect(spec({ probes }));
    expect(checks.filter(({ id }) => id === 'routes.probe').map(({ status }) => status)).toEqual([
      'FAILED',
      'FAILED',
      'FAILED',
      'PASSED',
    ]);
    const none = await inspect(spec({ probes: [] }));
    expect(none.checks).toContainEqual(expect.objectContaining({ id: 'routes.probe', status: 'WARNING' }));
    const elsewhere = await inspect(spec({ patterns: ['example.test/*'] }));
    expect(elsewhere.checks).toContainEqual(expect.objectContaining({ id: 'routes.probe', status: 'FAILED' }));
  });

  test('patterns that Cloudflare would refuse fail before anything is made', async () => {
    for (const wrong of ['example.test/*/x', 'elsewhere.test/*', 'example.test/?a=1']) {
      const { checks } = await inspect(spec({ patterns: [wrong], probes: [] }));
      expect(checks, wrong).toContainEqual(expect.objectContaining({ id: 'routes.pattern', status: 'FAILED' }));
    }
  });

  test('a wrong token, none, or an unknown zone is a FAILED check without the token in it', async () => {
    for (const wrong of ['wrong-token-wrong-token', '', undefined]) {
      token = wrong;
      const { routes, checks } = await inspect(spec());
      expect(routes).toEqual([]);
      expect(checks).toMatchObject([{ id: 'routes.zone', status: 'FAILED', remedy: expect.stringContaining('token') }]);
      if (wrong) expect(JSON.stringify(checks)).not.toContain(wrong);
    }
    token = TOKEN;
    const unknown = await inspect(spec({ zone: 'f'.repeat(32) }));
    expect(unknown.checks).toMatchObject([
      { id: 'routes.zone', status: 'FAILED', remedy: expect.stringContaining('zone id') },
    ]);
  });

  test('a token for routes alone is enough', async () => {
    const errors = [{ code: 10_000, message: 'Authentication error' }];
    const body = { success: false, errors, messages: [], result: null };
    proxy.next({ when: (_, path) => path.endsWith(zone), instead: { status: 403, body } });
    const { checks } = await inspect(spec());
    expect(checks[0]).toMatchObject({ id: 'routes.zone', status: 'INFO' });
    expect(checks.map(({ status }) => status)).not.toContain('FAILED');
  });
});

function setWith(options: { baseUrl?: string; timeoutMs?: number }): Promise<void> {
  return run(() => make(options).setRoute({ world, route: fresh, script: 'maintenance' }));
}

describe('setRoute and restoreRoute', () => {
  test('a pattern without a route gets one, and none again', async () => {
    await set(fresh);
    await set(fresh);
    expect(await standing()).toEqual([[pattern, 'maintenance']]);
    await restore(fresh);
    await restore(fresh);
    expect(await standing()).toEqual([]);
  });

  test.each([
    ['a Worker', 'shop'],
    ['no Worker', undefined],
  ])('a route with %s is replaced and put back', async (_, script) => {
    const before = await put(pattern, script);
    await set(before);
    expect(await standing()).toEqual([[pattern, 'maintenance']]);
    await restore(before);
    await restore(before);
    expect(await list()).toMatchObject([{ id: before.prior?.id, pattern, script: script ?? null }]);
  });

  test('a site that was under maintenance before stays so', async () => {
    const before = await put(pattern, 'maintenance');
    await set(before);
    await restore(before);
    expect(await standing()).toEqual([[pattern, 'maintenance']]);
  });

  test('refuses to change what is not as planned', async () => {
    const planned = await put(pattern, 'shop');
    await failureOf(set(fresh), 'WrongWorld', [TOKEN]);
    await failureOf(set({ ...planned, prior: { id: planned.prior?.id ?? '', script: null } }), 'WrongWorld', [TOKEN]);
    await sdk.workers.routes.delete(planned.prior?.id ?? '', { zone_id: zone });
    await failureOf(set(planned), 'WrongWorld', [TOKEN]);
    expect(await standing()).toEqual([]);
    const elsewhere = { world: { ...world, clusterUid: 'x' }, route: fresh, script: 'maintenance' };
    await failureOf(
      run(() => activities.setRoute(elsewhere)),
      'WrongWorld',
      [TOKEN],
    );
    await failureOf(
      run(() => activities.restoreRoute(elsewhere)),
      'WrongWorld',
      [TOKEN],
    );
  });

  test('leaves alone what somebody else changed since', async () => {
    await set(fresh);
    const [made] = await list();
    await sdk.workers.routes.update(made?.id ?? '', { zone_id: zone, pattern, script: 'shop' });
    await restore(fresh);
    expect(await standing()).toEqual([[pattern, 'shop']]);
  });

  test('a route that is gone at the moment of its removal is removed', async () => {
    const result = [{ id: 'a'.repeat(32), pattern, script: 'maintenance' }];
    const body = { success: true, errors: [], messages: [], result };
    proxy.next({ when: (method) => method === 'GET', instead: { status: 200, body } });
    await restore(fresh);
    expect(proxy.seen.map((line) => line.split(' ')[0])).toEqual(['GET', 'DELETE', 'GET']);
  });

  test('every answer may be lost: the next attempt finds it done', async () => {
    lose('POST');
    await failureOf(set(fresh), 'Unreachable', [TOKEN]);
    await set(fresh);
    expect(await standing()).toEqual([[pattern, 'maintenance']]);
    lose('DELETE');
    await failureOf(restore(fresh), 'Unreachable', [TOKEN]);
    await restore(fresh);
    expect(await standing()).toEqual([]);

    const before = await put(pattern, 'shop');
    lose('PUT');
    await failureOf(set(before), 'Unreachable', [TOKEN]);
    await set(before);
    lose('PUT');
    await failureOf(restore(before), 'Unreachable', [TOKEN]);
    await restore(before);
    expect(await standing()).toEqual([[pattern, 'shop']]);
    expect(proxy.seen.filter((line) => line.startsWith('PUT'))).toHaveLength(2);
  });

  test('a route that appears between look and request is looked at again', async () => {
    const empty = { success: true, errors: [], messages: [], result: [] };
    const hide = () => proxy.next({ when: (method) => method === 'GET', instead: { status: 200, body: empty } });
    await put(pattern, 'maintenance');
    hide();
    await set(fresh);
    const [made] = await list();
    await sdk.workers.routes.update(made?.id ?? '', { zone_id: zone, pattern, script: 'shop' });
    hide();
    await failureOf(set(fresh), 'Conflict', [TOKEN]);
    expect(await standing()).toEqual([[pattern, 'shop']]);
  });

  test('what Cloudflare answers becomes one of pgleap’s failures, without the token', async () => {
    expect((await failureOf(set(fresh, 'missing'), 'NotFound', [TOKEN])).message).toContain('maintenance.script');
    await failureOf(set({ ...fresh, pattern: 'a.*.test/' }), 'Refused', [TOKEN]);
    await failureOf(set({ ...fresh, zone: 'f'.repeat(32) }), 'NotFound', [TOKEN]);
    const answer = (status: number, headers: Record<string, string> = {}) =>
      proxy.next({
        when: () => true,
        instead: {
          status,
          headers,
          body: { success: false, errors: [{ code: 1, message: `of ${TOKEN}` }], result: null },
        },
      });
    answer(500);
    await failureOf(set(fresh), 'Unreachable', [TOKEN]);
    answer(429, { 'retry-after': '9' });
    expect((await failureOf(set(fresh), 'RateLimited', [TOKEN])).nextRetryDelay).toBe(9000);
    answer(429);
    expect((await failureOf(set(fresh), 'RateLimited', [TOKEN])).nextRetryDelay).toBe(300_000);
    answer(418);
    await failureOf(set(fresh), 'Refused', [TOKEN]);
    token = 'wrong-token-wrong-token';
    await failureOf(set(fresh), 'AccessDenied', [TOKEN, token]);
    token = undefined;
    await failureOf(set(fresh), 'AccessDenied', [TOKEN]);
    expect(await standing()).toEqual([]);
  });

  test('nobody there, and nobody in time', async () => {
    await failureOf(setWith({ baseUrl: 'http://127.0.0.1:1/client/v4' }), 'Unreachable', [TOKEN]);
    await failureOf(setWith({ timeoutMs: 1 }), 'Unreachable', [TOKEN]);
  });

  test('sends no other credential that the environment happens to have', async () => {
    const headers: unknown[] = [];
    const spy = createServer((request, response) => {
      headers.push(request.headers);
      response.writeHead(500).end();
    });
    await new Promise<void>((resolve) => {
      spy.listen(0, '127.0.0.1', resolve);
    });
    const address = spy.address();
    const port = typeof address === 'object' ? address?.port : 0;
    process.env['CLOUDFLARE_API_KEY'] = 'ambient-key';
    process.env['CLOUDFLARE_EMAIL'] = 'ambient@example.test';
    const tried = setWith({ baseUrl: `http://127.0.0.1:${port}` });
    await failureOf(tried, 'Unreachable', [TOKEN]);
    delete process.env['CLOUDFLARE_API_KEY'];
    delete process.env['CLOUDFLARE_EMAIL'];
    spy.close();
    // One request: the SDK's own retries are off.
    expect(headers).toHaveLength(1);
    expect(JSON.stringify(headers)).not.toContain('ambient');
  });
});

function verify(
  maintenance: Maintenance,
  expected: 'maintenance' | 'normal',
  heartbeats: unknown[] = [],
  verifyMs = 5000,
): Promise<{ seconds: number }> {
  return run(() => make({ verifyMs }).verifyRoutes({ maintenance, expect: expected }), { heartbeats });
}

describe('verifyRoutes', () => {
  test('sees maintenance mode begin and end over HTTP', async () => {
    const heartbeats: unknown[] = [];
    const begins = verify(spec(), 'maintenance', heartbeats);
    await set(fresh);
    expect((await begins).seconds).toBeGreaterThanOrEqual(0);
    expect(heartbeats.length).toBeGreaterThanOrEqual(3);
    expect(heartbeats[0]).toMatchObject({ what: 'routes maintenance', total: null });
    const ends = verify(spec(), 'normal');
    await restore(fresh);
    await ends;
  });

  test('is not content while one probe answers otherwise, and says which', async () => {
    await set({ ...fresh, pattern: 'www.example.test/*' });
    const probes = [...spec().probes, { url: `${cloud.siteUrl}/`, host: 'example.test' }];
    const failed = await failureOf(verify(spec({ probes }), 'maintenance', [], 40), 'NotReady', [TOKEN]);
    expect(failed.message).toContain('(host example.test) answered 200 without the header X-Maintenance');
    expect(failed.message).not.toContain('host www');
    const gone = spec({ probes: [{ url: 'http://127.0.0.1:1/' }] });
    await failureOf(verify(gone, 'maintenance', [], 20), 'NotReady', [TOKEN]);
    await failureOf(verify(gone, 'normal', [], 20), 'NotReady', [TOKEN]);
  });

  test('does not wait for a normal page where the site stays under maintenance', async () => {
    await put(pattern, 'maintenance');
    await verify(spec(), 'normal', [], 20);
  });

  test('stops when it is cancelled', async () => {
    const cancelled = run(() => make().verifyRoutes({ maintenance: spec(), expect: 'maintenance' }), {
      cancelAfter: 2,
    });
    await expect(cancelled).rejects.toMatchObject({ name: 'CancelledFailure' });
  });
});
