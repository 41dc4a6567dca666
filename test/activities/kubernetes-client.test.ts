import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { text } from 'node:stream/consumers';
import { KubeConfig } from '@kubernetes/client-node';
import { MockActivityEnvironment } from '@temporalio/testing';
import { afterEach, describe, expect, test } from 'vitest';
import { rightsFor } from '../../src/domain/rights.ts';
import { specSchema } from '../../src/domain/spec.ts';
import { accessChecks } from '../../src/activities/kubernetes/access.ts';
import { createKube } from '../../src/activities/kubernetes/client.ts';

type Answer = { code: number; body: unknown; headers?: Record<string, string> };

const closers: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  await Promise.all(closers.splice(0).map((close) => close()));
});

/** An API server that says whatever it is told to. */
async function serve(answer: (request: IncomingMessage, body: string) => Answer) {
  const server = createServer();
  const respond = async (request: IncomingMessage, response: ServerResponse) => {
    const { code, body, headers } = answer(request, await text(request));
    response.writeHead(code, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body));
  };
  server.on('request', (request, response) => void respond(request, response));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  closers.push(() => new Promise((resolve) => server.close(resolve)));
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  return createKube(configFor(`http://127.0.0.1:${address.port}`));
}

function configFor(server: string): KubeConfig {
  const kubeConfig = new KubeConfig();
  kubeConfig.loadFromOptions({
    clusters: [{ name: 'test', server, skipTLSVerify: true }],
    users: [{ name: 'test', token: 'secret-of-the-test' }],
    contexts: [{ name: 'test', cluster: 'test', user: 'test' }],
    currentContext: 'test',
  });
  return kubeConfig;
}

/** As little as passes for one. */
const meta = (name: string) => ({
  name,
  namespace: 'a',
  uid: 'u',
  resourceVersion: '1',
  creationTimestamp: '2026-01-01T00:00:00Z',
});
const podOf = (metadata: object) => ({ metadata, spec: { containers: [{ name: 'c' }] } });

describe('the client', () => {
  test.each([
    [401, 'AccessDenied', true],
    [403, 'AccessDenied', true],
    [404, 'NotFound', true],
    [409, 'Conflict', false],
    [400, 'Refused', true],
    [422, 'Refused', true],
    [429, 'RateLimited', false],
    [500, 'Unreachable', false],
    [503, 'Unreachable', false],
  ])('maps %i to %s, with the server’s words and no secrets', async (code, type, nonRetryable) => {
    const kube = await serve(() => ({
      code,
      body: { kind: 'Status', message: 'because of reasons', reason: 'Some' },
      headers: { 'retry-after': '7', 'set-cookie': 'hush' },
    }));
    const error: unknown = await kube.get('Pod', { namespace: 'a', name: 'b' }).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ type, nonRetryable, message: expect.stringContaining('because of reasons') });
    expect(error).toMatchObject({ message: expect.stringContaining('GET /api/v1/namespaces/a/pods/b') });
    if (code === 429) expect(error).toMatchObject({ nextRetryDelay: 7000 });
    expect(JSON.stringify(error)).not.toMatch(/secret-of-the-test|hush/);
  });

  test.each([
    [
      'persistentvolumeclaims "pgleap-u1-scratch" is forbidden: exceeded quota: team, requested: requests.storage=10Gi, used: requests.storage=10Gi, limited: requests.storage=15Gi',
      'Refused',
      'raise the namespace’s ResourceQuota or LimitRange',
    ],
    [
      'pods "pgleap-u1-candidate" is forbidden: failed quota: team: must specify limits.memory for: postgres',
      'Refused',
      'raise the namespace’s ResourceQuota or LimitRange',
    ],
    [
      'persistentvolumeclaims "pgleap-u1-scratch" is forbidden: maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 10Gi',
      'Refused',
      'raise the namespace’s ResourceQuota or LimitRange',
    ],
    [
      'persistentvolumeclaims is forbidden: User "pgleap" cannot create resource "persistentvolumeclaims" in API group "" in the namespace "a"',
      'AccessDenied',
      'docs/rbac.md',
    ],
  ])('tells what admission refuses from a right that is missing: %s', async (message, type, remedy) => {
    const kube = await serve(() => ({
      code: 403,
      body: { kind: 'Status', status: 'Failure', message, reason: 'Forbidden', code: 403 },
    }));
    const claim = { metadata: { namespace: 'a', name: 'pgleap-u1-scratch' }, spec: {} };
    const error: unknown = await kube.create('PersistentVolumeClaim', claim).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ type, nonRetryable: true, message: expect.stringContaining(message) });
    expect(error).toMatchObject({ message: expect.stringContaining(remedy) });
  });

  test('says where it looked when nobody answers', async () => {
    const kube = createKube(configFor('http://127.0.0.1:9'));
    await expect(kube.get('Namespace', { name: 'x' })).rejects.toMatchObject({
      type: 'Unreachable',
      message: expect.stringMatching(/127\.0\.0\.1:9 .*check the address/),
    });
  });

  test('waits out an outage where an activity waits anyway, and never sends a change twice', async () => {
    let seen = 0;
    const kube = await serve(() => {
      seen += 1;
      return seen < 4 ? { code: 503, body: { message: 'restarting' } } : { code: 200, body: podOf(meta('b')) };
    });
    const at = { namespace: 'a', name: 'b' };
    await expect(kube.patch('Pod', at, {})).rejects.toMatchObject({ type: 'Unreachable' });
    expect(seen).toBe(1);
    const quick = new MockActivityEnvironment();
    await expect(quick.run(() => kube.get('Pod', at))).rejects.toMatchObject({ type: 'Unreachable' });
    expect(seen).toBe(3);
    seen = 0;
    const waiting = new MockActivityEnvironment({ heartbeatTimeoutMs: 30_000 });
    expect(await waiting.run(() => kube.get('Pod', at))).toEqual(podOf(meta('b')));
  });

  test('sends merge patches, conditional deletes and reads page by page', async () => {
    const seen: string[] = [];
    const kube = await serve(({ method, url, headers }, body) => {
      seen.push(`${method} ${url} ${headers['content-type'] ?? ''} ${body}`);
      if (method === 'PATCH') return { code: 200, body: { metadata: meta('b') } };
      const more = url?.includes('continue=') === false;
      return {
        code: 200,
        body: { metadata: more ? { continue: 'next' } : {}, items: [podOf(meta(String(more)))] },
      };
    });
    await kube.patch('CronJob', { namespace: 'a', name: 'b' }, { spec: { replicas: 0 } });
    await kube.remove('PersistentVolumeClaim', { namespace: 'a', name: 'b' }, 'the-uid');
    expect(seen[0]).toMatch(/^PATCH .*application\/merge-patch\+json \{"spec":\{"replicas":0\}\}$/);
    expect(seen[1]).toMatch(/^DELETE .*"preconditions":\{"uid":"the-uid"\}/);
    const pods = await kube.list('Pod', { namespace: 'a', labels: 'app=x' });
    expect(pods.map(({ metadata }) => metadata?.name)).toEqual(['true', 'false']);
  });
});

describe('an object', () => {
  const at = { namespace: 'a', name: 'b' };
  const { uid: _uid, ...nameless } = meta('b');

  test.each([
    ['of another name', podOf(meta('c'))],
    ['of another namespace', podOf({ ...meta('b'), namespace: 'c' })],
    ['without uid', podOf(nameless)],
    ['with a container’s list that is none', { ...podOf(meta('b')), spec: { containers: {} } }],
    ['with labels that are none', podOf({ ...meta('b'), labels: 'app=b' })],
  ])('%s is not believed', async (_, body) => {
    const kube = await serve(() => ({ code: 200, body }));
    await expect(kube.get('Pod', at)).rejects.toMatchObject({ type: 'Unreachable' });
  });
});

describe('an object that is gone', () => {
  const at = { namespace: 'a', name: 'b' };

  test('is so by the API server’s own word', async () => {
    const kube = await serve(() => ({ code: 404, body: { kind: 'Status', reason: 'NotFound', message: 'not found' } }));
    expect(await kube.find('PersistentVolume', at)).toBeUndefined();
    await kube.remove('PersistentVolume', at, 'the-uid');
  });

  test.each([{}, { message: 'no such page' }, { kind: 'Status', reason: 'Other' }])(
    'is not so by the 404 of a gateway: %j',
    async (body) => {
      const kube = await serve(() => ({ code: 404, body }));
      await expect(kube.find('PersistentVolume', at)).rejects.toMatchObject({ type: 'Unreachable' });
      await expect(kube.remove('PersistentVolume', at, 'the-uid')).rejects.toMatchObject({ type: 'Unreachable' });
    },
  );
});

describe('kube.access', () => {
  test('is skipped where the server does not review access', async () => {
    const kube = await serve(() => ({ code: 404, body: {} }));
    expect(
      await accessChecks(
        kube,
        rightsFor(specSchema.parse({ database: { namespace: 'a' }, target: { image: 'b:18' } })),
      ),
    ).toMatchObject([{ status: 'SKIPPED' }]);
  });
});
