import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { z } from 'zod';
import { withLeave } from '../../src/activities/context.ts';
import { fail } from '../../src/activities/errors.ts';
import { linodeActivities, volumeId } from '../../src/activities/linode.ts';
import type { LinodeActivities } from '../../src/activities/linode.ts';
import type { BlockVolumeFact, VolumeFact, World } from '../../src/domain/facts.ts';
import { startLinode } from '../../src/sandbox/clouds/linode.ts';
import type { Linode } from '../../src/sandbox/clouds/linode.ts';
import { failureOf, run } from './environment.ts';
import { startFaultProxy } from './fault-proxy.ts';
import type { FaultProxy } from './fault-proxy.ts';

const TOKEN = 'secret-linode-token-0123456789';
let stateDir: string;
let cloud: Linode;
let proxy: FaultProxy;
let token: string | undefined;
let activities: LinodeActivities;
let volume: BlockVolumeFact;
let world: World;
let count = 0;

beforeAll(async () => {
  stateDir = await mkdtemp(join(tmpdir(), 'linode-'));
  cloud = await startLinode({ stateDir, token: TOKEN, region: 'eu-central', delays: { cloneMs: 100 } });
  proxy = await startFaultProxy(cloud.url);
});
afterAll(async () => {
  await proxy.close();
  await cloud.close();
  await rm(stateDir, { recursive: true });
});
beforeEach(async () => {
  count += 1;
  token = TOKEN;
  world = {
    clusterUid: 'the-cluster',
    upgradeId: `u0000000${count.toString(16)}`,
    startedAt: new Date().toISOString(),
    namespace: 'databases',
  };
  activities = make();
  const made = await cloud.volumes.create({ label: `pvc-${count}`, sizeGb: 12, region: 'eu-central' });
  await writeFile(join(cloud.volumes.directory(made.id), 'bytes'), `of ${made.id}`);
  volume = {
    id: made.id,
    label: made.label,
    region: 'eu-central',
    sizeGb: 12,
    encryption: 'disabled',
    monthlyPrice: 1.2,
  };
});

function make(options: Partial<Parameters<typeof linodeActivities>[0]> = {}): LinodeActivities {
  return linodeActivities({
    baseUrl: proxy.url,
    token: () => token,
    pollMs: 20,
    assertWorld: async ({ clusterUid }) => {
      if (clusterUid !== 'the-cluster') throw fail('WrongWorld', 'another cluster');
    },
    ...options,
  });
}

function pv(handle: string, driver = 'linodebs.csi.linode.com'): VolumeFact {
  return { pv: 'pvc-1', pvUid: 'u', reclaimPolicy: 'Retain', driver, handle, spec: {} };
}

function cloneName(): string {
  return `pgleap-${world.upgradeId}-data`;
}

async function api(path: string): Promise<{ id: number; label: string; tags: string[] }[]> {
  const response = await fetch(`${cloud.url}/v4${path}`, { headers: { authorization: `Bearer ${TOKEN}` } });
  return z
    .object({ data: z.array(z.object({ id: z.number(), label: z.string(), tags: z.array(z.string()) })) })
    .parse(await response.json()).data;
}
async function labelled(text: string): Promise<{ id: number; tags: string[] }[]> {
  return (await api('/volumes')).filter((one) => one.label === text);
}

describe('inspectVolume', () => {
  test('finds the volume of a PV with its price', async () => {
    const { facts, checks } = await run(() => activities.inspectVolume({ volume: pv(`${volume.id}-${volume.label}`) }));
    expect(facts).toEqual(volume);
    expect(checks.map(({ id, status }) => [id, status])).toEqual([
      ['volume.provider', 'PASSED'],
      ['volume.label', 'PASSED'],
      ['volume.token', 'PASSED'],
      ['volume.cost', 'INFO'],
    ]);
    expect(checks.at(-1)?.message).toContain('1.20 US dollars');
  });

  test.each([
    ['12-x', 'ebs.csi.aws.com'],
    ['abc', 'linodebs.csi.linode.com'],
    ['12', 'linodebs.csi.linode.com'],
    ['12-', 'linodebs.csi.linode.com'],
    ['0-x', 'linodebs.csi.linode.com'],
    ['99999999999999999999-x', 'linodebs.csi.linode.com'],
  ])('refuses the handle %s of the driver %s', async (handle, driver) => {
    expect(volumeId({ handle, driver })).toBeNull();
    const { facts, checks } = await run(() => activities.inspectVolume({ volume: pv(handle, driver) }));
    expect(facts).toBeNull();
    expect(checks).toMatchObject([{ id: 'volume.driver', status: 'FAILED', remedy: expect.any(String) }]);
  });

  test('names a volume that is missing or renamed', async () => {
    expect(await run(() => activities.inspectVolume({ volume: pv('424242-gone') }))).toMatchObject({
      facts: null,
      checks: [{ id: 'volume.provider', status: 'FAILED' }],
    });
    const renamed = await run(() => activities.inspectVolume({ volume: pv(`${volume.id}-another`) }));
    expect(renamed.checks).toContainEqual(expect.objectContaining({ id: 'volume.label', status: 'WARNING' }));
  });

  test('a wrong token, none, or one that may not write is a FAILED check without the token in it', async () => {
    for (const wrong of ['wrong-token-wrong-token', '', undefined]) {
      token = wrong;
      const { facts, checks } = await run(() => activities.inspectVolume({ volume: pv(`${volume.id}-x`) }));
      expect(facts).toBeNull();
      expect(checks).toMatchObject([{ id: 'volume.token', status: 'FAILED' }]);
      if (wrong) expect(JSON.stringify(checks)).not.toContain(wrong);
    }
    token = TOKEN;
    const limited = await startLinode({
      stateDir: join(stateDir, 'limited'),
      token: TOKEN,
      region: 'eu-central',
      scopes: 'volumes:read_only linodes:read_write',
    });
    const there = await limited.volumes.create({ label: 'there', sizeGb: 10, region: 'eu-central' });
    const { checks } = await run(() =>
      make({ baseUrl: limited.url }).inspectVolume({ volume: pv(`${there.id}-there`) }),
    );
    expect(checks).toContainEqual(expect.objectContaining({ id: 'volume.token', status: 'FAILED' }));
    await limited.close();
  });
});

describe('awaitDetached', () => {
  test('waits with heartbeats until the volume is attached nowhere', async () => {
    await cloud.volumes.attach(volume.id, 7);
    const heartbeats: unknown[] = [];
    const waiting = run(() => activities.awaitDetached({ world, volume }), { heartbeats });
    await vi.waitUntil(() => heartbeats.length > 2);
    await cloud.volumes.detach(volume.id);
    await waiting;
    expect(heartbeats.at(-1)).toMatchObject({ what: 'detach', total: null, unit: 'seconds' });
  });

  test('names the Linode that holds it, and stops when it is cancelled', async () => {
    await cloud.volumes.attach(volume.id, 7);
    const held = await failureOf(
      run(() => make({ detachMs: 60 }).awaitDetached({ world, volume })),
      'NotStopped',
      [TOKEN],
    );
    expect(held.message).toContain('Linode 7');
    const cancelled = run(() => activities.awaitDetached({ world, volume }), { cancelAfter: 2 });
    await expect(cancelled).rejects.toMatchObject({ name: 'CancelledFailure' });
  });
});

describe('startClone and awaitClone', () => {
  test('makes nothing where it may change nothing any more', async () => {
    let over = false;
    const ask = async () => {
      if (over) throw fail('Refused', 'this upgrade is over');
      await Promise.resolve();
    };
    // Frozen before it looks, until the upgrade has ended.
    const late = make({
      async assertWorld() {
        over = true;
        vi.useFakeTimers({ toFake: ['Date'] });
        vi.advanceTimersByTime(60_000);
        await Promise.resolve();
      },
    });
    const made = run(() => withLeave(ask, () => late.startClone({ world, volume, label: cloneName() })));
    await failureOf(made, 'Refused', [TOKEN]).finally(() => vi.useRealTimers());
    expect(proxy.seen.filter((call) => call.includes(`/volumes/${volume.id}`))).toEqual([
      `GET /v4/volumes/${volume.id}`,
    ]);
  });

  test('clones the bytes under the label, tags the clone, and adopts it when asked again', async () => {
    const clone = await run(() => activities.startClone({ world, volume, label: cloneName() }));
    expect(clone).toEqual({ id: expect.any(Number), label: cloneName(), sizeGb: 12, region: 'eu-central' });
    expect(await run(() => activities.startClone({ world, volume, label: cloneName() }))).toEqual(clone);
    const heartbeats: unknown[] = [];
    await run(() => activities.awaitClone({ world, clone }), { heartbeats });
    expect(heartbeats[0]).toMatchObject({ what: 'clone', unit: 'seconds' });
    expect(await readFile(join(cloud.volumes.directory(clone.id), 'bytes'), 'utf8')).toBe(`of ${volume.id}`);
    expect(await labelled(cloneName())).toMatchObject([
      { id: clone.id, tags: ['pgleap', `pgleap-${world.upgradeId}`] },
    ]);
  });

  test('an answer that was lost makes no second clone', async () => {
    proxy.next({ when: (method, path) => method === 'POST' && path.endsWith('/clone'), instead: 'drop' });
    await failureOf(
      run(() => activities.startClone({ world, volume, label: cloneName() })),
      'Unreachable',
      [TOKEN],
    );
    const clone = await run(() => activities.startClone({ world, volume, label: cloneName() }));
    expect(await labelled(cloneName())).toMatchObject([
      { id: clone.id, tags: ['pgleap', `pgleap-${world.upgradeId}`] },
    ]);
  });

  test('a clone that appears between look and request is ours too', async () => {
    const taken = { data: [], page: 1, pages: 1, results: 0 };
    const clone = await run(() => activities.startClone({ world, volume, label: cloneName() }));
    await run(() => activities.awaitClone({ world, clone }));
    proxy.next({
      when: (method, path) => method === 'GET' && path === '/v4/volumes',
      instead: { status: 200, body: taken },
    });
    expect(await run(() => activities.startClone({ world, volume, label: cloneName() }))).toEqual(clone);
  });

  test('a label of the operator’s own is adopted only after this upgrade announced it', async () => {
    const own = `before-the-upgrade-${count}`;
    const heartbeats: unknown[] = [];
    proxy.next({ when: (method, path) => method === 'POST' && path.endsWith('/clone'), instead: 'drop' });
    await failureOf(
      run(() => activities.startClone({ world, volume, label: own }), { heartbeats }),
      'Unreachable',
      [TOKEN],
    );
    const refused = await failureOf(
      run(() => activities.startClone({ world, volume, label: own })),
      'Refused',
      [TOKEN],
    );
    expect(refused.message).toContain(world.upgradeId);
    const clone = await run(() => activities.startClone({ world, volume, label: own }), { last: heartbeats.at(-1) });
    expect(await labelled(own)).toMatchObject([{ id: clone.id }]);
  });

  test.each([
    ['made before the upgrade', { startedAt: new Date(Date.now() + 5000).toISOString() }, {}, 'before this upgrade'],
    ['too small', {}, { sizeGb: 13 }, '12 GB'],
    ['in another region', {}, { region: 'us-east' }, 'us-east'],
    ['of another upgrade', { upgradeId: 'uffffffff' }, {}, 'uffffffff'],
  ])('never adopts a volume that is %s', async (_, otherWorld, otherVolume, says) => {
    await run(() => activities.startClone({ world, volume, label: cloneName() }));
    const arg = { world: { ...world, ...otherWorld }, volume: { ...volume, ...otherVolume }, label: cloneName() };
    const refused = await failureOf(
      run(() => activities.startClone(arg)),
      'Refused',
      [TOKEN],
    );
    expect(refused.message).toContain(says);
  });

  test('never takes the original for its clone', async () => {
    const arg = { world, volume, label: volume.label };
    expect(
      (
        await failureOf(
          run(() => activities.startClone(arg)),
          'Refused',
          [TOKEN],
        )
      ).message,
    ).toContain('the original itself');
  });

  test('clones nothing that is attached, not as planned, or in another cluster’s plan', async () => {
    const start = (arg: object) => run(() => activities.startClone({ world, volume, label: cloneName(), ...arg }));
    await failureOf(start({ world: { ...world, clusterUid: 'elsewhere' } }), 'WrongWorld', [TOKEN]);
    await failureOf(start({ volume: { ...volume, label: 'was-this' } }), 'WrongWorld', [TOKEN]);
    await cloud.volumes.attach(volume.id, 3);
    await failureOf(start({}), 'NotStopped', [TOKEN]);
    await failureOf(start({ volume: { ...volume, id: 424_242 } }), 'NotFound', [TOKEN]);
    expect(await labelled(cloneName())).toEqual([]);
  });

  test('a volume that Linode gave up is a refusal with a hint', async () => {
    const clone = await run(() => activities.startClone({ world, volume, label: cloneName() }));
    const body = {
      id: clone.id,
      label: clone.label,
      status: 'contact_support',
      size: 12,
      region: 'eu-central',
      tags: [],
      linode_id: null,
      created: '2026-01-01T00:00:00',
    };
    proxy.next({ when: (method) => method === 'GET', instead: { status: 200, body } });
    const stuck = await failureOf(
      run(() => activities.awaitClone({ world, clone })),
      'Refused',
      [TOKEN],
    );
    expect(stuck.message).toContain('support');
  });
});

describe('an answer that is not Linode’s', () => {
  test('is no volume, no empty list and no deletion', async () => {
    const clone = await run(() => activities.startClone({ world, volume, label: cloneName() }));
    for (const body of ['<html>Please log in</html>', {}, { data: null }]) {
      proxy.next({ when: (method) => method === 'GET', instead: { status: 200, body } });
      await failureOf(
        run(() => activities.removeClone({ world, source: volume, label: clone.label })),
        'Unreachable',
        [TOKEN],
      );
    }
    expect(await labelled(clone.label)).toHaveLength(1);
    proxy.next({ when: (method) => method === 'DELETE', instead: { status: 404, body: { errors: [] } } });
    await failureOf(
      run(() => activities.removeClone({ world, source: volume, label: clone.label })),
      'Conflict',
      [TOKEN],
    );
    expect(await labelled(clone.label)).toHaveLength(1);
  });
});

describe('removeClone and removeVolume', () => {
  test('removes the clone, also one still in the making, and is content when it is gone', async () => {
    const clone = await run(() => activities.startClone({ world, volume, label: cloneName() }));
    await run(() => activities.removeClone({ world, source: volume, label: cloneName() }));
    await run(() => activities.removeClone({ world, source: volume, label: cloneName() }));
    expect(await cloud.volumes.get(clone.id)).toBeNull();
    expect(await cloud.volumes.get(volume.id)).not.toBeNull();
  });

  test('a deletion whose answer was lost is found done', async () => {
    const clone = await run(() => activities.startClone({ world, volume, label: cloneName() }));
    await run(() => activities.awaitClone({ world, clone }));
    proxy.next({ when: (method) => method === 'DELETE', instead: 'drop' });
    await failureOf(
      run(() => activities.removeClone({ world, source: volume, label: cloneName() })),
      'Unreachable',
      [TOKEN],
    );
    await run(() => activities.removeClone({ world, source: volume, label: cloneName() }));
  });

  test('removes nothing that is not its own, is attached, or is the original', async () => {
    const remove = (arg: object) =>
      run(() => activities.removeClone({ world, source: volume, label: cloneName(), ...arg }));
    const clone = await run(() => activities.startClone({ world, volume, label: cloneName() }));
    await run(() => activities.awaitClone({ world, clone }));
    await failureOf(remove({ world: { ...world, upgradeId: 'uffffffff' } }), 'Refused', [TOKEN]);
    await failureOf(remove({ world: { ...world, clusterUid: 'elsewhere' } }), 'WrongWorld', [TOKEN]);
    await failureOf(remove({ label: volume.label }), 'Refused', [TOKEN]);
    await cloud.volumes.attach(clone.id, 9);
    await failureOf(remove({}), 'Refused', [TOKEN]);
    expect(await cloud.volumes.get(clone.id)).not.toBeNull();
    expect(await cloud.volumes.get(volume.id)).not.toBeNull();
  });

  test('removes the original only as it was recorded and at rest', async () => {
    const remove = (arg: object) => run(() => activities.removeVolume({ world, volume: { ...volume, ...arg } }));
    await failureOf(remove({ label: 'another' }), 'WrongWorld', [TOKEN]);
    await failureOf(remove({ sizeGb: 99 }), 'WrongWorld', [TOKEN]);
    await cloud.volumes.attach(volume.id, 9);
    await failureOf(remove({}), 'Refused', [TOKEN]);
    await cloud.volumes.detach(volume.id);
    await remove({});
    await remove({});
    expect(await cloud.volumes.get(volume.id)).toBeNull();
  });
});

function startOwn(): Promise<unknown> {
  return run(() => activities.startClone({ world, volume, label: cloneName() }));
}

function answer(status: number, reason: string, headers: Record<string, string> = {}): void {
  proxy.next({ when: () => true, instead: { status, headers, body: { errors: [{ reason }] } } });
}

describe('what Linode may answer', () => {
  test('becomes one of pgleap’s failures, without the token', async () => {
    answer(503, `down, ${TOKEN}`);
    await failureOf(startOwn(), 'Unreachable', [TOKEN]);
    answer(403, 'Unauthorized');
    await failureOf(startOwn(), 'AccessDenied', [TOKEN]);
    answer(400, 'Linode busy.');
    await failureOf(startOwn(), 'Conflict', [TOKEN]);
    answer(400, `odd request of ${TOKEN}`);
    await failureOf(startOwn(), 'Refused', [TOKEN]);
    answer(429, 'Too many requests', { 'retry-after': '17' });
    expect((await failureOf(startOwn(), 'RateLimited', [TOKEN])).nextRetryDelay).toBe(17_000);
    answer(429, 'Too many requests');
    expect((await failureOf(startOwn(), 'RateLimited', [TOKEN])).nextRetryDelay).toBe(60_000);
    token = 'wrong-token-wrong-token';
    await failureOf(startOwn(), 'AccessDenied', [TOKEN, token]);
  });

  test('what the SDK itself refuses is a failure too, and not an array', async () => {
    await failureOf(
      run(() => activities.startClone({ world, volume, label: '' })),
      'Refused',
      [TOKEN],
    );
    await failureOf(
      run(() => activities.startClone({ world, volume, label: 'not a label!' })),
      'Refused',
      [TOKEN],
    );
  });

  test('nobody there, and nobody in time', async () => {
    const nobody = make({ baseUrl: 'http://127.0.0.1:1' });
    await failureOf(
      run(() => nobody.startClone({ world, volume, label: cloneName() })),
      'Unreachable',
      [TOKEN],
    );
    const slow = make({ timeoutMs: 1 });
    await failureOf(
      run(() => slow.startClone({ world, volume, label: cloneName() })),
      'Unreachable',
      [TOKEN],
    );
  });

  test('a rotated token is used at the next request', async () => {
    token = 'wrong-token-wrong-token';
    await failureOf(startOwn(), 'AccessDenied', [TOKEN]);
    token = TOKEN;
    await startOwn();
  });
});
