/** What `pgleap recover` shows of the artifact folder, with every way in which a file can be other than it was copied. */
import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, rm, symlink, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { filesText, seeFiles, seldom } from '../../src/client/recover-artifacts.ts';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'pgleap-seen-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const now = Date.parse('2026-01-01T12:00:00Z');

async function write(name: string, text: string): Promise<void> {
  const file = path.join(folder, name);
  await mkdir(path.dirname(file), { recursive: true });
  await writeFile(file, text);
  await utimes(file, new Date(now), new Date(now - 90_000));
}

const copied = (name: string, text: string) => ({
  name,
  bytes: text.length,
  sha512: createHash('sha512').update(text).digest('hex'),
});

test('each file beside what the journal says of it', async () => {
  const dump = 'dump'.repeat(1000);
  await write('dump.sql.zst', dump);
  await write('dump-2.sql.zst', dump.replace('p', 'b'));
  await write('fingerprint-source.txt', 'half');
  await write('manifests/a/postgres.yaml', 'kind: Deployment');
  await write('report.html', '<p>');
  await symlink('/etc/hostname', path.join(folder, 'fingerprint-trial.txt'));
  const kept = [
    copied('dump.sql.zst', dump),
    copied('dump-2.sql.zst', dump),
    copied('fingerprint-source.txt', 'the whole of it'),
    copied('manifests/a/postgres.yaml', 'kind: Deployment'),
    copied('fingerprint-trial.txt', 'moved away'),
    copied('../../../etc/hostname', 'elsewhere'),
  ];
  const told: number[] = [];
  const files = await seeFiles(folder, kept, ({ done }) => told.push(done));
  expect(files.map(({ name, compared }) => [name, compared])).toEqual([
    ['dump-2.sql.zst', 'differs'],
    ['dump.sql.zst', 'agrees'],
    ['fingerprint-source.txt', 'differs'],
    ['manifests/a/postgres.yaml', 'agrees'],
    ['report.html', 'unknown'],
    ['fingerprint-trial.txt', 'missing'],
    ['../../../etc/hostname', 'missing'],
  ]);
  expect(files[1]).toMatchObject({ bytes: 4000, at: '2026-01-01T11:58:30.000Z' });
  expect(told).toEqual([4000, 4000, 16]);
  const text = filesText(folder, files, now);
  expect(text).toContain(`Artifacts in ${folder}:`);
  expect(text).toMatch(/^ {2}dump\.sql\.zst +4\.0 kB {2}1 min 30 s old +SHA-512 agrees with the journal$/m);
  expect(text).toMatch(/^ {2}dump-2\.sql\.zst .* DIFFERS from what the journal says was copied$/m);
  expect(text).toMatch(/^ {2}fingerprint-trial\.txt +IS NOT THERE, but the journal says/m);

  // A size that differs is seen without reading the file.
  const quick = await seeFiles(folder, kept, null);
  expect(quick.map(({ compared }) => compared).slice(0, 3)).toEqual(['unchecked', 'unchecked', 'differs']);
});

test('progress is told when it takes more than two seconds, and then every two', () => {
  const said: string[] = [];
  const clock = vi.spyOn(Date, 'now').mockReturnValue(now);
  try {
    const tell = seldom((text) => said.push(text));
    for (const [second, done] of [0.5, 1.5, 2.5, 3.5, 5].entries()) {
      clock.mockReturnValue(now + done * 1000);
      tell({ what: 'SHA-512 of dump.sql.zst', done: (second + 1) * 1e9, total: 8e9, unit: 'bytes' });
    }
  } finally {
    clock.mockRestore();
  }
  expect(said).toEqual([
    'SHA-512 of dump.sql.zst  3.0 GB of 8.0 GB (37 %)',
    'SHA-512 of dump.sql.zst  5.0 GB of 8.0 GB (62 %)',
  ]);
});
