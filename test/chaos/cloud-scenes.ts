/** Block storage, routes, pages and the chat room behind proxies, and the scenes at them. */
import { createServer } from 'node:http';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import Cloudflare from 'cloudflare';
import { afterAll, beforeAll } from 'vitest';
import { z } from 'zod';
import { cloudflareActivities, type CloudflareActivities } from '../../src/activities/cloudflare.ts';
import { linodeActivities, type LinodeActivities } from '../../src/activities/linode.ts';
import { notifyActivities } from '../../src/activities/notify.ts';
import type { Check } from '../../src/domain/checks.ts';
import type { BlockVolumeFact, CloneFact, World } from '../../src/domain/facts.ts';
import { MAINTENANCE_WORKER, startCloudflare, type Cloudflare as Zone } from '../../src/sandbox/clouds/cloudflare.ts';
import { startLinode, type Linode } from '../../src/sandbox/clouds/linode.ts';
import { cleaner } from '../../src/worker/secrets.ts';
import { run } from '../activities/environment.ts';
import type { Stage } from './cells.ts';
import { closeBelow, pass, startProxy, type Proxy } from './faults.ts';
import type { Scene } from './scene.ts';

export interface Table {
  title: string;
  scenes: Scene[];
  stage: () => Stage;
}

const linodeToken = 'canary-linode-0123456789abcdef';
const cloudflareToken = 'canary-cloudflare-0123456789abcdef';
const webhookSecret = 'canary-webhook-0123456789abcdef';
const zone = '0123456789abcdef0123456789abcdef';
const pattern = '*example.test/*';
const world: World = { clusterUid: 'c', upgradeId: 'u00000001', startedAt: new Date().toISOString(), namespace: 'db' };
const label = `pgleap-${world.upgradeId}-data`;
const assertWorld = async () => {};
/** Of a request of the two SDKs. */
const limitMs = 3000;
/** Of a visit to a page, and of a word to the chat room. */
const shortMs = 10_000;

let folder: string;
let storage: Linode;
let storageProxy: Proxy;
let provider: LinodeActivities;
let volume: BlockVolumeFact;
let clone: CloneFact;
/** An original that is not needed any more. */
let left: BlockVolumeFact;
let site: Zone;
let zoneProxy: Proxy;
let pageProxy: Proxy;
let routes: CloudflareActivities;
let pageRoutes: CloudflareActivities;
let sdk: Cloudflare;
let room: ReturnType<typeof createServer>;
let roomProxy: Proxy;
let posts = 0;
let notify: ReturnType<typeof notifyActivities>;

const linodeBody = (_status: number, echo: string) => ({ errors: [{ reason: `no. You sent ${echo}` }] });
const cloudflareBody = (_status: number, echo: string) => ({
  result: null,
  success: false,
  errors: [{ code: 1, message: `no. You sent ${echo}` }],
  messages: [],
});

/** Has them there for all tests of a file. */
export function atTheClouds(): void {
  beforeAll(raise, 120_000);
  afterAll(close, 60_000);
}

async function raise(): Promise<void> {
  folder = await mkdtemp(join(tmpdir(), 'pgleap-faults-'));
  const limits = { list: 1e6, create: 1e6, other: 1e6 };
  storage = await startLinode({ stateDir: folder, token: linodeToken, region: 'eu-central', limits });
  storageProxy = await startProxy(
    storage.url,
    (path) => path.replace(/\/\d+/g, '/:id'),
    linodeBody,
    () => sleep(closeBelow(limitMs)),
  );
  provider = linodeActivities({
    baseUrl: storageProxy.url,
    token: () => linodeToken,
    pollMs: 20,
    timeoutMs: limitMs,
    assertWorld,
  });
  const made = await storage.volumes.create({ label: 'pvc-1', sizeGb: 10, region: 'eu-central' });
  volume = { ...made, region: 'eu-central', sizeGb: 10, encryption: 'disabled', monthlyPrice: 1 };

  site = await startCloudflare({
    token: cloudflareToken,
    zoneId: zone,
    zoneName: 'example.test',
    scripts: { maintenance: MAINTENANCE_WORKER },
    origin: async () => new Response('the website'),
  });
  zoneProxy = await startProxy(
    new URL(site.apiUrl).origin,
    (path) => path.replace(/[0-9a-f]{32}/g, ':id'),
    cloudflareBody,
    () => sleep(closeBelow(limitMs)),
  );
  pageProxy = await startProxy(
    site.siteUrl,
    (path) => path,
    () => 'no',
    () => pass(closeBelow(shortMs)),
  );
  const client = { token: () => cloudflareToken, timeoutMs: limitMs, assertWorld, probeEveryMs: 5, verifyMs: 20_000 };
  routes = cloudflareActivities({ ...client, baseUrl: `${zoneProxy.url}/client/v4` });
  pageRoutes = cloudflareActivities({ ...client, baseUrl: site.apiUrl });
  sdk = new Cloudflare({ apiToken: cloudflareToken, baseURL: site.apiUrl, maxRetries: 0 });

  room = createServer((request, response) => {
    posts += 1;
    request.resume().on('end', () => response.end('ok'));
  });
  await new Promise<void>((resolve) => {
    room.listen(0, '127.0.0.1', resolve);
  });
  const address = room.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  roomProxy = await startProxy(
    `http://127.0.0.1:${address.port}`,
    () => '/hook',
    (_status, echo) => `no. ${echo}`,
    () => pass(closeBelow(shortMs)),
  );
  notify = notifyActivities(`${roomProxy.url}/hooks/${webhookSecret}?token=${webhookSecret}`);
}

async function close(): Promise<void> {
  for (const one of [storageProxy, zoneProxy, pageProxy, roomProxy]) await one?.close();
  room?.close();
  await storage?.close();
  await site?.close();
  await rm(folder, { recursive: true, force: true });
}

const secrets = () => [linodeToken, cloudflareToken, webhookSecret];
const stageOf = (proxy: () => Proxy, state: () => Promise<unknown>) => (): Stage => ({
  proxy: proxy(),
  world: state,
  secrets,
  // The activities are to be clean by themselves here.
  clean: cleaner([]),
});

const volumes = z.object({ data: z.array(z.object({ id: z.number(), label: z.string(), tags: z.array(z.string()) })) });
async function allVolumes() {
  const answer = await fetch(`${storage.url}/v4/volumes`, { headers: { authorization: `Bearer ${linodeToken}` } });
  return volumes.parse(await answer.json()).data;
}
/** Each clone has a number of its own. */
const ofClone = (found: CloneFact | null) => found && { ...found, id: found.id === clone.id };
const startClone = async () => (clone = await provider.startClone({ world, volume, label }));
/** All volumes but the original. */
async function removeClones(): Promise<void> {
  for (const { id } of await allVolumes()) if (id !== volume.id) await storage.volumes.delete(id);
}

export const linode: Table = {
  title: 'faults at Linode',
  scenes: [
    {
      activity: 'inspectVolume',
      run: () =>
        provider.inspectVolume({
          volume: {
            pv: 'p',
            pvUid: 'u',
            reclaimPolicy: 'Retain',
            driver: 'linodebs.csi.linode.com',
            handle: `${volume.id}-${volume.label}`,
            spec: {},
          },
        }),
    },
    { activity: 'awaitDetached', run: () => provider.awaitDetached({ world, volume }) },
    {
      activity: 'startClone',
      // Whose clone it is, the tag says; it may be given later.
      also: (call) => (call.startsWith('PUT') ? ['mended'] : []),
      run: async () => {
        await provider.awaitClone({ world, clone: await startClone() });
        return clone;
      },
      told: ofClone,
      after: removeClones,
    },
    {
      activity: 'awaitClone',
      before: () => run(startClone),
      run: () => provider.awaitClone({ world, clone }),
      after: removeClones,
    },
    {
      activity: 'removeClone',
      before: () => run(startClone),
      run: () => provider.removeClone({ world, source: volume, label }),
      after: removeClones,
    },
    {
      activity: 'hasVolume',
      run: () => provider.hasVolume(volume),
      orTold: (found, _, fault) => fault === '404' && !found,
    },
    {
      activity: 'findClone',
      before: () => run(startClone),
      run: () => provider.findClone({ world, source: volume, label }),
      told: ofClone,
      after: removeClones,
    },
    {
      activity: 'removeVolume',
      before: async () => {
        const made = await storage.volumes.create({ label: 'pvc-2', sizeGb: 10, region: 'eu-central' });
        left = { ...volume, ...made };
      },
      run: () => provider.removeVolume({ world, volume: left }),
      after: removeClones,
    },
  ],
  stage: stageOf(
    () => storageProxy,
    async () => (await allVolumes()).map(({ label: name, tags }) => [name, [...tags].sort()]),
  ),
};

const maintenance = (url: string) => ({
  zone,
  script: 'maintenance',
  patterns: [pattern],
  marker: 'X-Maintenance',
  probes: [{ url: `${url}/`, host: 'www.example.test' }],
  takeOver: false,
});
const route = { zone, pattern, prior: null };
const setRoute = () => routes.setRoute({ world, route, script: 'maintenance' });
async function standing() {
  return (await sdk.workers.routes.list({ zone_id: zone })).result;
}
async function clearRoutes(): Promise<void> {
  for (const { id } of await standing()) await sdk.workers.routes.delete(id, { zone_id: zone });
}
const statusOf = (checks: Check[], id: string) => checks.find((check) => check.id === id)?.status;
const routesNow = async () => (await standing()).map(({ pattern: text, script }) => [text, script]);

export const cloudflare: Table = {
  title: 'faults at Cloudflare',
  scenes: [
    {
      activity: 'inspectRoutes',
      // The zone's name is nice to have; a token need not be allowed to read it.
      also: (call) => (call.endsWith('/zones/:id') ? ['mended'] : []),
      orTold: ({ checks }, call, fault) =>
        call.endsWith('/zones/:id') && /40[13]/.test(fault) && statusOf(checks, 'routes.zone') === 'INFO',
      run: () => routes.inspectRoutes({ maintenance: maintenance(site.siteUrl) }),
    },
    { activity: 'setRoute', run: setRoute, after: clearRoutes },
    {
      activity: 'restoreRoute',
      before: () => run(setRoute),
      run: () => routes.restoreRoute({ world, route, script: 'maintenance' }),
      after: clearRoutes,
    },
    {
      activity: 'verifyRoutes',
      run: () => routes.verifyRoutes({ maintenance: maintenance(site.siteUrl), expect: 'normal' }),
      told: ({ seconds }) => seconds >= 0,
    },
  ],
  stage: stageOf(() => zoneProxy, routesNow),
};

export const pages: Table = {
  title: 'faults at pages',
  scenes: [
    {
      activity: 'verifyRoutes',
      where: 'pages',
      // Whatever a page answers, it is asked again until it is the right one.
      also: () => ['mended'],
      before: () => run(() => pageRoutes.setRoute({ world, route, script: 'maintenance' })),
      run: () => pageRoutes.verifyRoutes({ maintenance: maintenance(pageProxy.url), expect: 'maintenance' }),
      told: ({ seconds }) => seconds >= 0,
      after: clearRoutes,
    },
  ],
  stage: stageOf(() => pageProxy, routesNow),
};

export const chatRoom: Table = {
  title: 'faults at the chat room',
  scenes: [
    {
      activity: 'notify',
      also: (_, fault) => (fault.startsWith('4') ? ['Refused'] : []),
      run: () => notify.notify({ upgradeId: 'u00000001', kind: 'gate', text: 'a gate is open' }),
    },
  ],
  stage: stageOf(
    () => roomProxy,
    async () => posts > 0,
  ),
};
