/**
 * Damaged objects of the Kubernetes API, under the activities that change what nobody can put back: such an activity makes the
 * change that it makes in the right world, or none.
 */
import { createServer, type Server } from 'node:http';
import { KubeConfig } from '@kubernetes/client-node';
import { CancelledFailure } from '@temporalio/common';
import { MockActivityEnvironment } from '@temporalio/testing';
import { DefaultLogger } from '@temporalio/worker';
import * as fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createKubernetesActivities, type KubernetesActivities } from '../../src/activities/kubernetes/index.ts';
import { asText, bodies, explained, fuzz } from './fuzz.ts';
import { eraserAt, meta, pvAt, scenes, unclaimed, world, type Scene } from './fuzz-scenes.ts';

/** Bodies that this lane's server answers, by path, and what it was asked to change. */
interface Lane {
  bodies: Map<string, string>;
  changes: { call: string; body: string }[];
  removedAtProvider: number;
  activities: KubernetesActivities;
}
/** What waits for the world to become right would wait for minutes; being told to stop, it does. */
const patienceMs = 6000;
/** So many side by side, because a read is tried again after a moment when what answers is not the API. */
const width = 60;
let lanes: Lane[];
let server: Server;

beforeAll(async () => {
  server = createServer((request, response) => {
    const { method = '', url = '/' } = request;
    const [, number, path = ''] = /^\/(\d+)\/([^?]*)/.exec(url) ?? [];
    const lane = lanes[Number(number)];
    let body = '';
    request
      .on('data', (chunk: Buffer) => (body += chunk.toString()))
      .on('end', () => {
        const found = lane?.bodies.get(path);
        const changes = method !== 'GET';
        // Nothing is changed: the first try is what is looked at.
        if (changes) lane?.changes.push({ call: `${method} ${path}`, body });
        const code = changes ? 422 : found === undefined ? 404 : 200;
        const status = { kind: 'Status', code, reason: code === 404 ? 'NotFound' : 'Invalid', message: 'not here' };
        response.writeHead(code, { 'content-type': 'application/json' });
        response.end(changes || found === undefined ? JSON.stringify(status) : found);
      });
  });
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve);
  });
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  lanes = Array.from({ length: width }, (_, number) => {
    const kubeConfig = new KubeConfig();
    kubeConfig.loadFromOptions({
      clusters: [{ name: 'c', server: `http://127.0.0.1:${address.port}/${number}`, skipTLSVerify: true }],
      users: [{ name: 'u', token: 't' }],
      contexts: [{ name: 'x', cluster: 'c', user: 'u' }],
      currentContext: 'x',
    });
    const activities = createKubernetesActivities({
      kubeConfig,
      removeVolume: async () => void (lane.removedAtProvider += 1),
      provider: { hasVolume: async () => true, findClone: async () => null },
    });
    const lane: Lane = { bodies: new Map(), changes: [], removedAtProvider: 0, activities };
    return lane;
  });
});

afterAll(async () => {
  server?.closeAllConnections();
  await new Promise((resolve) => server?.close(resolve));
});

/** Runs a scene with one path's body replaced; what it tried to change, and how it ended. */
async function play(
  lane: Lane,
  scene: Scene,
  at?: string,
  body?: string,
): Promise<{ changes: string[]; body: string; error: string }> {
  const all = {
    'api/v1/namespaces/kube-system': { metadata: { ...meta('kube-system'), uid: world.clusterUid } },
    ...scene.objects,
  };
  lane.bodies = new Map(
    Object.entries(all).map(([path, right]) => [
      path,
      JSON.stringify(Array.isArray(right) ? { metadata: {}, items: right } : right),
    ]),
  );
  if (at !== undefined && body !== undefined) lane.bodies.set(at, body);
  lane.changes = [];
  const environment = new MockActivityEnvironment({}, { logger: new DefaultLogger('ERROR') });
  const cancel = setTimeout(() => environment.cancel(), patienceMs);
  let error = '';
  try {
    await explained(() =>
      environment
        .run(() => scene.does(lane.activities))
        .catch((thrown: unknown) => {
          error = String(thrown);
          throw thrown;
        }),
    );
  } catch (thrown) {
    if (!(thrown instanceof CancelledFailure)) throw thrown;
  } finally {
    clearTimeout(cancel);
  }
  expect(lane.removedAtProvider).toBe(0);
  return { changes: lane.changes.map(({ call }) => call), body: lane.changes[0]?.body ?? '', error };
}

test.each(Object.entries(scenes))('%s changes the right world', async (_, scene) => {
  const [lane] = lanes;
  if (lane === undefined) throw new Error('no lane');
  const { changes, error } = await play(lane, scene);
  expect(changes, error).toEqual([scene.change]);
});

function valueAt(value: unknown, place: string): unknown {
  return place.split('.').reduce((inner, key) => Object(inner)[key], value);
}

const cases = fc
  .constantFrom(...Object.keys(scenes))
  .chain((name) =>
    fc
      .constantFrom(...Object.entries(scenes[name]?.objects ?? {}))
      .chain(([at, right]) =>
        bodies(Array.isArray(right) ? { metadata: {}, items: right } : right).map((body) => ({ name, at, body })),
      ),
  );

fuzz(
  'objects of the Kubernetes API before a change',
  fc.array(cases, { minLength: width, maxLength: width }),
  60,
  async (all) => {
    // All of them: one that goes on would be taken for the next case of its lane.
    const ended = await Promise.allSettled(
      all.map(async ({ name, at, body }, number) => {
        const [lane, scene] = [lanes[number], scenes[name]];
        if (lane === undefined || scene === undefined) throw new Error('no lane');
        const what = `${name}, with ${at} as ${body}`;
        const { changes, body: sent } = await play(lane, scene, at, body).catch((error: unknown) => {
          throw new Error(`${what}: ${String(error)}`, { cause: error });
        });
        if (changes.length === 0) return;
        const [made = ''] = changes;
        expect(changes.length, what).toBe(1);
        const { preconditions, metadata } = JSON.parse(sent);
        // Of a damaged name: there is no object of that uid.
        if (metadata?.uid === undefined) expect([scene.change, scene.next], `${what}: ${made}`).toContain(made);
        if (made.startsWith('DELETE')) expect(preconditions.uid, what).toMatch(/./);
        if (scene.conditional) expect(metadata.resourceVersion, what).toMatch(/./);
        const passed = made === scene.next && at === eraserAt;
        const needs = passed ? [] : (scene.needs[at] ?? []);
        const read: unknown = needs.length === 0 ? undefined : JSON.parse(body);
        for (const place of needs)
          expect(valueAt(read, place), `${what}: ${place}`).toEqual(valueAt(scene.objects[at], place));
      }),
    );
    for (const one of ended) if (one.status === 'rejected') throw one.reason;
  },
  // A volume without a claim is held by none, and would go with its policy.
  [[{ name: 'restoreReclaimPolicy, to Delete', at: pvAt, body: asText(unclaimed) }]],
  width,
);
