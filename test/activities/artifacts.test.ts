import { createHash, randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, readdir, readFile, rename, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { compareFingerprintFiles } from '../../src/activities/artifacts/compare.ts';
import { copyIn, copyOut } from '../../src/activities/artifacts/copy.ts';
import { artifactPath, openStore, writeArtifact, type ArtifactStore } from '../../src/activities/artifacts/store.ts';
import type { Progress } from '../../src/activities/types.ts';
import type { Artifact, World } from '../../src/domain/facts.ts';
import { run } from './environment.ts';
import { pod, startExecServer, type Manners } from './exec-server.ts';

const MiB = 1 << 20;
const world: World = { clusterUid: 'c', upgradeId: 'u0badcafe', startedAt: '2026-01-01T00:00:00Z', namespace: 'db' };

let folder: string;
let store: ArtifactStore;
let manners: Manners;
let server: Awaited<ReturnType<typeof startExecServer>>;

beforeEach(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'pgleap-artifacts-'));
  await mkdir(path.join(folder, 'pod'));
  store = await openStore(path.join(folder, 'store'));
  manners = { paths: { '/pgleap': path.join(folder, 'pod') } };
  server = await startExecServer(manners);
});

afterEach(async () => {
  await server.close();
  await rm(folder, { recursive: true, force: true });
});

/** A file in the pod that is no multiple of anything, and its checksum. */
async function fileInPod(bytes: number, name = 'dump'): Promise<{ data: Buffer; arg: Parameters<typeof copyOut>[2] }> {
  const data = randomBytes(bytes);
  await writeFile(path.join(folder, 'pod', name), data);
  return { data, arg: { world, pod, path: `/pgleap/${name}`, bytes, sha512: sha512(data), name: 'dump.sql.gz' } };
}

async function stored(data: Buffer): Promise<Artifact> {
  const file = artifactPath(store, world, 'dump.sql.gz');
  await mkdir(path.dirname(file), { recursive: true });
  await writeFile(file, data);
  return { name: 'dump.sql.gz', bytes: data.length, sha512: sha512(data) };
}

function sha512(data: Buffer): string {
  return createHash('sha512').update(data).digest('hex');
}

/** How often a whole chunk was asked for or sent, as opposed to only its hash. */
function transfers(): number {
  return server.seen.argv.filter((argv) => /dd .*&&|head -c/s.test(argv[2] ?? '')).length;
}

describe('the artifact folder', () => {
  test('is its owner’s only and keeps its queue’s name', async () => {
    const again = await openStore(store.folder);
    expect(again.queue).toBe(store.queue);
    expect(store.queue).toMatch(/^pgleap-artifacts-[0-9a-f]{12}$/);
    expect((await stat(store.folder)).mode & 0o777).toBe(0o700);
    expect((await stat(path.join(store.folder, 'queue'))).mode & 0o777).toBe(0o600);
  });

  test('gives two workers that start at once the same queue', async () => {
    const fresh = path.join(folder, 'shared');
    const stores = await Promise.all(Array.from({ length: 5 }, () => openStore(fresh)));
    expect(new Set(stores.map(({ queue }) => queue)).size).toBe(1);
    expect(await readdir(fresh)).toEqual(['queue']);
  });

  test.each(['../x', '/etc/passwd', '..', '.', 'a/../../x'])('refuses the name %s', (name) => {
    expect(() => artifactPath(store, world, name)).toThrow(/is not a name/);
  });

  test('refuses an upgrade id that leads elsewhere', () => {
    expect(() => artifactPath(store, { upgradeId: '../..' }, 'x')).toThrow(/is not a name/);
  });

  test('describes the files it writes', async () => {
    const artifact = await writeArtifact(store, world, 'manifests/a/b.yaml', 'kind: Ж\n');
    const file = artifactPath(store, world, artifact.name);
    expect(artifact).toEqual({ name: 'manifests/a/b.yaml', bytes: 9, sha512: sha512(await readFile(file)) });
    expect((await stat(file)).mode & 0o777).toBe(0o600);
    expect((await stat(path.dirname(file))).mode & 0o777).toBe(0o700);
  });
});

describe('copying out', () => {
  test('brings every byte, with progress', async () => {
    const { data, arg } = await fileInPod(20 * MiB + 12_345);
    const heartbeats: Progress[] = [];
    const artifact = await run(() => copyOut(server.kc, store, arg), { heartbeats });
    const file = artifactPath(store, world, 'dump.sql.gz');
    expect(artifact).toEqual({ name: 'dump.sql.gz', bytes: data.length, sha512: sha512(data) });
    expect(data.equals(await readFile(file))).toBe(true);
    expect((await stat(file)).mode & 0o777).toBe(0o600);
    expect(await readdir(path.dirname(file))).toEqual(['dump.sql.gz']);
    const copied = heartbeats.filter(({ what }) => what === 'copy dump.sql.gz out');
    expect(copied.at(-1)).toMatchObject({ done: data.length, total: data.length, unit: 'bytes' });
  });

  test('copies an empty file', async () => {
    const { arg } = await fileInPod(0);
    expect((await copyOut(server.kc, store, arg)).bytes).toBe(0);
  });

  test('a second time asks the pod for nothing', async () => {
    const { arg } = await fileInPod(3 * MiB);
    await copyOut(server.kc, store, arg);
    server.seen.argv.length = 0;
    await copyOut(server.kc, store, arg);
    expect(server.seen.argv).toEqual([]);
  });

  test('goes on where a worker that was killed left it', async () => {
    const { data, arg } = await fileInPod(41 * MiB + 1);
    manners.dropAfter = 30 * MiB;
    const cancelWhen = expect.poll(() => server.seen.stdoutSent > 31 * MiB, { timeout: 60_000 }).toBe(true);
    await expect(run(() => copyOut(server.kc, store, arg), { cancelWhen })).rejects.toMatchObject({
      name: 'CancelledFailure',
    });
    delete manners.dropAfter;
    server.seen.argv.length = 0;
    await copyOut(server.kc, store, arg);
    expect(data.equals(await readFile(artifactPath(store, world, 'dump.sql.gz')))).toBe(true);
    // Eleven chunks in all; some had arrived before.
    expect(transfers()).toBeLessThan(11);
  });

  test('does not believe an earlier attempt’s bytes', async () => {
    const { data, arg } = await fileInPod(20 * MiB);
    const part = `${artifactPath(store, world, arg.name)}.${arg.sha512.slice(0, 16)}.part`;
    await mkdir(path.dirname(part), { recursive: true });
    // Right in its first chunks, holes and rubbish after it.
    await writeFile(part, Buffer.concat([data.subarray(0, 8 * MiB), Buffer.alloc(8 * MiB), randomBytes(100)]));
    await copyOut(server.kc, store, arg);
    expect(data.equals(await readFile(artifactPath(store, world, arg.name)))).toBe(true);
    expect(transfers()).toBe(3);
  });

  test('refuses a file that is not the one that was hashed', async () => {
    const { arg } = await fileInPod(2 * MiB);
    await writeFile(path.join(folder, 'pod', 'dump'), randomBytes(2 * MiB));
    await expect(copyOut(server.kc, store, arg)).rejects.toMatchObject({
      type: 'ChecksumMismatch',
      nonRetryable: false,
    });
    expect(await readdir(path.join(store.folder, world.upgradeId))).toEqual([]);
  });

  test('refuses a file that became shorter', async () => {
    const { arg } = await fileInPod(9 * MiB);
    await truncate(path.join(folder, 'pod', 'dump'), 5 * MiB);
    await expect(copyOut(server.kc, store, arg)).rejects.toMatchObject({ type: 'ChecksumMismatch' });
  });

  test.each([0, 5 * MiB])('says that the file is gone from the pod, when %d bytes of it were there', async (size) => {
    const { data, arg } = await fileInPod(9 * MiB);
    await stored(data.subarray(0, size));
    const part = `dump.sql.gz.${arg.sha512.slice(0, 16)}.part`;
    await rename(artifactPath(store, world, arg.name), path.join(store.folder, world.upgradeId, part));
    await rm(path.join(folder, 'pod', 'dump'));
    await expect(copyOut(server.kc, store, arg)).rejects.toMatchObject({
      type: 'ScratchLost',
      nonRetryable: true,
      message: '/pgleap/dump in databases/postgres-0 is gone',
    });
  });
});

describe('copying in', () => {
  test.each(['v4.channel.k8s.io', 'v5.channel.k8s.io'] as const)('brings every byte over %s', async (protocol) => {
    manners.protocol = protocol;
    const data = randomBytes(17 * MiB + 777);
    const artifact = await stored(data);
    await copyIn(server.kc, store, { world, artifact, pod, path: '/pgleap/in/dump.sql.gz' });
    const there = path.join(folder, 'pod', 'in');
    expect(data.equals(await readFile(path.join(there, 'dump.sql.gz')))).toBe(true);
    expect(await readdir(there)).toEqual(['dump.sql.gz']);
  });

  test('sends only what is not there yet', async () => {
    const data = randomBytes(25 * MiB);
    const artifact = await stored(data);
    const part = path.join(folder, 'pod', `dump.${artifact.sha512.slice(0, 16)}.part`);
    await writeFile(
      part,
      Buffer.concat([data.subarray(0, 8 * MiB), randomBytes(8 * MiB), data.subarray(16 * MiB, 18 * MiB)]),
    );
    await copyIn(server.kc, store, { world, artifact, pod, path: '/pgleap/dump' });
    expect(data.equals(await readFile(path.join(folder, 'pod', 'dump')))).toBe(true);
    expect(transfers()).toBe(5);
  });

  test.each([
    ['the same', 0],
    ['one with two wrong chunks', 2],
  ])('a file of that name: %s', async (_name, sent) => {
    const data = randomBytes(25 * MiB);
    const artifact = await stored(data);
    const file = path.join(folder, 'pod', 'dump');
    await writeFile(file, sent === 0 ? data : Buffer.concat([randomBytes(8 * MiB), data.subarray(8 * MiB)]));
    await copyIn(server.kc, store, { world, artifact, pod, path: '/pgleap/dump' });
    expect(data.equals(await readFile(file))).toBe(true);
    expect(await readdir(path.join(folder, 'pod'))).toEqual(['dump']);
    expect(transfers()).toBe(sent);
  });

  test('makes no file with holes when what was sent is gone', async () => {
    const data = randomBytes(25 * MiB);
    const artifact = await stored(data);
    const there = path.join(folder, 'pod');
    const copying = copyIn(server.kc, store, { world, artifact, pod, path: '/pgleap/dump' });
    const lost = expect(copying).rejects.toMatchObject({ type: 'ScratchLost', nonRetryable: true });
    await expect.poll(transfers, { interval: 5 }).toBeGreaterThan(1);
    const part = path.join(there, `dump.${artifact.sha512.slice(0, 16)}.part`);
    const emptying = setInterval(() => void rm(part, { force: true }), 5);
    await lost;
    clearInterval(emptying);
    expect(await readdir(there)).toEqual([]);
    await copyIn(server.kc, store, { world, artifact, pod, path: '/pgleap/dump' });
    expect(data.equals(await readFile(path.join(there, 'dump')))).toBe(true);
  });

  test('never shows an artifact that is not the recorded one', async () => {
    const artifact = await stored(randomBytes(3 * MiB));
    await writeFile(artifactPath(store, world, artifact.name), randomBytes(3 * MiB));
    const copying = copyIn(server.kc, store, { world, artifact, pod, path: '/pgleap/dump' });
    await expect(copying).rejects.toMatchObject({ type: 'ArtifactMissing', nonRetryable: true });
    expect(await readdir(path.join(folder, 'pod'))).toEqual([]);
  });

  test('says that the artifact is not in this folder', async () => {
    const artifact = { name: 'other.gz', bytes: 5, sha512: 'a'.repeat(128) };
    const copying = copyIn(server.kc, store, { world, artifact, pod, path: '/pgleap/dump' });
    await expect(copying).rejects.toMatchObject({ type: 'ArtifactMissing' });
  });
});

async function compare(a: string[], b: string[]) {
  const files = [path.join(folder, 'a'), path.join(folder, 'b')] as const;
  await writeFile(files[0], `${a.join('\n')}\n`);
  await writeFile(files[1], `${b.join('\n')}\n`);
  return compareFingerprintFiles(...files);
}

describe('comparing fingerprints', () => {
  test('equal ones are equal, whatever their notes say', async () => {
    const lines = ['database\tapp\tapp\tUTF8', 'table\tapp\tpublic.t\t3 abc'];
    expect(await compare(lines, [...lines.slice(0, 1), 'note\tapp\tversion\t18', ...lines.slice(1)])).toEqual({
      equal: true,
      differing: 0,
      differences: [],
    });
  });

  test('names what differs, is missing, or is too much', async () => {
    const found = await compare(
      ['role\t\tada\tlogin', 'table\tapp\tpublic."Ж"\t3 abc', 'table\tapp\tpublic.t\t3 abc'],
      ['table\tapp\tpublic."Ж"\t4 def', 'table\tapp\tpublic.t\t3 abc', 'view\tapp\tpublic.v\txyz'],
    );
    expect(found.equal).toBe(false);
    expect(found.differing).toBe(3);
    expect(found.differences).toEqual([
      'role  ada: only in the source',
      'table app public."Ж": 3 abc in the source, 4 def in the other',
      'view app public.v: not in the source',
    ]);
  });

  test('counts all and shows twenty', async () => {
    const found = await compare(
      Array.from({ length: 5000 }, (_, i) => `table\tapp\tt${String(i).padStart(5, '0')}\t1`),
      [],
    );
    expect(found.differing).toBe(5000);
    expect(found.differences).toHaveLength(20);
  });
});
