import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  attachVolume,
  baseRequest,
  cloneVolume,
  createVolume,
  deleteVolume,
  detachVolume,
  getEvents,
  getProfile,
  getRegion,
  getVolume,
  getVolumes,
  getVolumeTypes,
  resizeVolume,
  updateVolume,
} from '@linode/api-v4';
import type { Filter, Volume } from '@linode/api-v4';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { z } from 'zod';
import { startLinode } from '../../src/sandbox/clouds/linode.ts';
import type { Linode } from '../../src/sandbox/clouds/linode.ts';

let stateDir: string;
let cloud: Linode;
let token = 'lin-token';

beforeAll(async () => {
  stateDir = await mkdtemp(join(tmpdir(), 'linode-'));
  cloud = await startLinode({ stateDir, token, region: 'eu-central', delays: { cloneMs: 50 } });
  baseRequest.interceptors.request.use((config) => {
    config.url = (config.url ?? '').replace('https://api.linode.com', cloud.url);
    config.headers.set('Authorization', `Bearer ${token}`);
    return config;
  });
});
afterAll(async () => {
  await cloud.close();
  await rm(stateDir, { recursive: true });
});

const httpError = z.object({
  response: z.object({
    status: z.number(),
    data: z.object({ errors: z.array(z.object({ field: z.string().optional(), reason: z.string() })) }),
  }),
});

/** The status and the reasons of a call that the API, and not the SDK's own validation, refuses. */
async function refusal(
  call: Promise<unknown>,
): Promise<{ status: number; errors: { field?: string | undefined; reason: string }[] }> {
  const reason = await call.then(
    () => undefined,
    (error: unknown) => error,
  );
  const { response } = httpError.parse(reason);
  return { status: response.status, errors: response.data.errors };
}

async function labels(filter: Filter): Promise<string[]> {
  return (await getVolumes({}, filter)).data.map(({ label }) => label);
}

function untilActive(id: number): Promise<Volume> {
  return vi.waitUntil(async () => {
    const volume = await getVolume(id);
    return volume.status === 'active' && volume;
  });
}

test('a clone is a full copy of the bytes that is creating first', async () => {
  const source = await createVolume({ label: 'pvc-source', region: 'eu-central', size: 12, tags: ['kept'] });
  expect(source).toMatchObject({
    status: 'active',
    linode_id: null,
    filesystem_path: expect.stringMatching(/pvc-source$/),
  });
  await writeFile(join(cloud.volumes.directory(source.id), 'bytes'), 'first');
  const begun = await cloneVolume(source.id, { label: 'the-clone' });
  expect(begun).toMatchObject({ status: 'creating', size: 12, tags: [], linode_id: null, region: 'eu-central' });
  expect(begun.id).not.toBe(source.id);
  expect((await refusal(cloneVolume(begun.id, { label: 'of-clone' }))).status).toBe(400);

  const clone = await untilActive(begun.id);
  await writeFile(join(cloud.volumes.directory(source.id), 'bytes'), 'second');
  expect(await readFile(join(cloud.volumes.directory(clone.id), 'bytes'), 'utf8')).toBe('first');
  const events = await getEvents({}, { action: 'volume_clone', 'entity.id': clone.id });
  expect(events.data).toMatchObject([{ status: 'finished', percent_complete: 100 }]);
  await deleteVolume(clone.id);
  expect(await refusal(getVolume(clone.id))).toEqual({ status: 404, errors: [{ reason: 'Not found' }] });
});

test('labels follow the rules and are unique', async () => {
  const { id } = await createVolume({ label: 'taken', region: 'eu-central', size: 10 });
  for (const label of ['a', '1abc', 'with--two', 'with__two', 'has space', 'ünicode', 'x'.repeat(33), 'taken']) {
    expect(await refusal(cloneVolume(id, { label })), label).toMatchObject({
      status: 400,
      errors: [{ field: 'label' }],
    });
  }
  expect(await updateVolume(id, { tags: ['one', 'two'] })).toMatchObject({ label: 'taken', tags: ['one', 'two'] });
});

test('filters, orders and pages', async () => {
  for (const n of [1, 2, 3])
    await createVolume({ label: `many-${n}`, region: 'eu-central', size: 10 + n, tags: ['many'] });
  expect(await labels({ label: 'many-2' })).toEqual(['many-2']);
  expect(await labels({ tags: 'many', '+order_by': 'size', '+order': 'desc' })).toEqual(['many-3', 'many-2', 'many-1']);
  expect(await labels({ '+or': [{ label: 'many-1' }, { size: { '+gte': 13 } }] })).toEqual(['many-1', 'many-3']);
  expect(await labels({ '+and': [{ tags: 'many' }, { label: { '+contains': '-3' } }] })).toEqual(['many-3']);
  expect((await refusal(getVolumes({}, { region: 'eu-central' }))).status).toBe(400);
  expect(await refusal(getVolumes({ page_size: 5 }))).toMatchObject({ status: 400, errors: [{ field: 'page_size' }] });
  expect(await getVolumes({ page: 1, page_size: 25 }, { tags: 'many' })).toMatchObject({
    page: 1,
    pages: 1,
    results: 3,
  });
});

test('attaches, refuses to delete what is attached, detaches', async () => {
  const { id } = await createVolume({ label: 'moving', region: 'eu-central', size: 10 });
  expect(await attachVolume(id, { linode_id: 7 })).toMatchObject({ linode_id: 7 });
  expect((await refusal(attachVolume(id, { linode_id: 8 }))).status).toBe(400);
  expect((await refusal(deleteVolume(id))).status).toBe(400);
  expect(await detachVolume(id)).toEqual({});
  expect(await getVolume(id)).toMatchObject({ linode_id: null });

  expect(await resizeVolume(id, { size: 20 })).toMatchObject({ size: 20 });
  expect((await refusal(resizeVolume(id, { size: 10 }))).status).toBe(400);
  expect(await deleteVolume(id)).toEqual({});
});

test('a detach takes as long as ordered, and the volume is held until it is over', async () => {
  const order = (delays: object, bearer = token) =>
    fetch(`${cloud.url}/sandbox/delays`, {
      method: 'PUT',
      headers: { authorization: `Bearer ${bearer}`, 'content-type': 'application/json' },
      body: JSON.stringify(delays),
    });
  expect((await order({ detachMs: 400 }, 'wrong')).status).toBe(401);
  expect(await (await order({ detachMs: 400 })).json()).toEqual({ cloneMs: 50, detachMs: 400 });
  const { id } = await createVolume({ label: 'slow', region: 'eu-central', size: 10 });
  await attachVolume(id, { linode_id: 7 });
  const began = Date.now();
  expect(await detachVolume(id)).toEqual({});
  expect(await detachVolume(id)).toEqual({});
  expect(await getVolume(id)).toMatchObject({ linode_id: 7 });
  expect(await refusal(attachVolume(id, { linode_id: 7 }))).toMatchObject({ errors: [{ reason: 'Linode busy.' }] });
  expect((await refusal(deleteVolume(id))).status).toBe(400);
  await vi.waitUntil(async () => (await getVolume(id)).linode_id === null, { timeout: 5000 });
  expect(Date.now() - began).toBeGreaterThanOrEqual(400);
  await order({ detachMs: 0 });
  expect(await attachVolume(id, { linode_id: 7 })).toMatchObject({ linode_id: 7 });
});

test('what the cluster does to a volume is what the API shows', async () => {
  const { volumes } = cloud;
  const { id } = await volumes.create({ label: 'from-claim', sizeGb: 1, region: 'eu-central' });
  expect(await getVolume(id)).toMatchObject({ size: 10, linode_id: null });
  expect((await stat(join(volumes.directory(id), 'lost+found'))).isDirectory()).toBe(true);
  await volumes.attach(id, 5);
  await volumes.attach(id, 5);
  expect(await getVolume(id)).toMatchObject({ linode_id: 5 });
  await expect(volumes.attach(id, 6)).rejects.toThrow('already attached');
  await expect(volumes.delete(id)).rejects.toThrow('detached');
  await volumes.detach(id);
  await volumes.detach(id);
  expect(await volumes.get(id)).toEqual({ id, label: 'from-claim', sizeGb: 10, region: 'eu-central', linodeId: null });
  await volumes.delete(id);
  await volumes.delete(id);
  expect(await volumes.get(id)).toBeNull();
});

test('a restart on the same folder has the volumes again and never reuses an id', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'linode-'));
  const first = await startLinode({ stateDir: folder, token, region: 'eu-central' });
  const kept = await first.volumes.create({ label: 'kept', sizeGb: 10, region: 'eu-central' });
  const gone = await first.volumes.create({ label: 'gone', sizeGb: 10, region: 'eu-central' });
  await first.volumes.delete(gone.id);
  await first.close();
  const second = await startLinode({ stateDir: folder, token, region: 'eu-central' });
  expect(await second.volumes.get(kept.id)).toMatchObject({ label: 'kept' });
  expect((await second.volumes.create({ label: 'new', sizeGb: 10, region: 'eu-central' })).id).toBeGreaterThan(gone.id);
  await second.close();
  await rm(folder, { recursive: true });
});

test('prices, profile, region, a wrong token, and the limit of requests', async () => {
  expect((await getVolumeTypes()).data).toMatchObject([{ id: 'volume', price: { monthly: 0.1 } }]);
  expect((await getProfile()).username).toBe('sandbox');
  expect((await getRegion('eu-central')).id).toBe('eu-central');
  token = 'wrong';
  expect(await refusal(getVolumes())).toEqual({ status: 401, errors: [{ reason: 'Invalid Token' }] });
  token = 'lin-token';

  const busy = await startLinode({
    stateDir: join(stateDir, 'busy'),
    token,
    region: 'eu-central',
    limits: { list: 1 },
  });
  const list = () => fetch(`${busy.url}/v4/volumes`, { headers: { authorization: `Bearer ${token}` } });
  expect((await list()).headers.get('x-ratelimit-remaining')).toBe('0');
  const refused = await list();
  expect(refused.status).toBe(429);
  expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0);
  expect(await refused.json()).toEqual({ errors: [{ reason: 'Too many requests' }] });
  await busy.close();
});
