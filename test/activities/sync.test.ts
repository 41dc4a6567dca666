/** What the target's disk says of what was written, in the words of the programs that an image may have. */
import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { script } from '../../src/activities/postgres/psql.ts';

let folder: string;
let mark: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'pgleap-sync-'));
  mark = `pgleap-unsynced-${randomUUID()}`;
  await program('psql', 'echo /var/lib/data');
});

afterEach(async () => {
  await rm(join('/dev/shm', mark), { force: true });
  await rm(folder, { recursive: true, force: true });
});

async function program(name: string, body: string): Promise<void> {
  const file = join(folder, name);
  await writeFile(file, `#!/bin/sh\n${body}\n`);
  await chmod(file, 0o755);
}

/** A sync that notes how it was called; `help` is what it says of itself. */
const makeSync = async (help: string, body: string) =>
  program(
    'sync',
    `[ "$1" = --help ] && { cat <<'END'\n${help}\nEND\nexit 0; }\necho "sync $*" >>${folder}/calls\n${body}`,
  );

const gnu = 'Usage: sync [OPTION] [FILE]...\n  -f, --file-system      sync the file systems that contain the files';
const busybox = 'Usage: sync [-df] [FILE]...\n\n\t-d\tAvoid syncing metadata\n\t-f\tSync filesystems underlying FILEs';
const plain = 'BusyBox multi-call binary.\n\nUsage: sync\n\nWrite all buffered blocks to disk';

async function sync(): Promise<{ code: number; stderr: string; calls: string }> {
  const env = { ...process.env, PATH: `${folder}:${process.env['PATH']}` };
  const argv = ['-c', script('sync.sh'), 'pgleap', '', '5432', 'shop', mark];
  const { code, stderr } = await new Promise<{ code: number; stderr: string }>((resolve) => {
    const child = execFile('bash', argv, { env }, (_error, _out, text) =>
      resolve({ code: child.exitCode ?? -1, stderr: text }),
    );
  });
  return { code, stderr, calls: await readFile(join(folder, 'calls'), 'utf8').catch(() => '') };
}

test.each([gnu, busybox])('the file systems of data and WAL are asked: %s', async (help) => {
  await makeSync(help, 'exit 0');
  expect(await sync()).toEqual({ code: 0, stderr: '', calls: 'sync -f /var/lib/data /var/lib/data/pg_wal\n' });
});

test('a sync that knows no file systems syncs all', async () => {
  await makeSync(plain, 'exit 0');
  expect(await sync()).toEqual({ code: 0, stderr: '', calls: 'sync \n' });
});

test('what a disk did not take is not forgotten, though the kernel tells it once', async () => {
  await makeSync(gnu, 'echo "sync: error syncing: Input/output error" >&2; exit 1');
  const failed = { code: 74, stderr: 'sync: error syncing: Input/output error\n' };
  expect(await sync()).toMatchObject(failed);
  await makeSync(gnu, 'exit 0');
  expect(await sync()).toMatchObject({ ...failed, calls: 'sync -f /var/lib/data /var/lib/data/pg_wal\n' });
});

test('without a server that says where its data is nothing is said to be synced', async () => {
  await program('psql', 'echo "no such socket" >&2; exit 2');
  await makeSync(gnu, 'exit 0');
  expect(await sync()).toEqual({ code: 2, stderr: 'no such socket\n', calls: '' });
});
