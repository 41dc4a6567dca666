import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { phases } from '../../src/domain/phases.ts';
import { onCluster } from '../support/world.ts';

const run = promisify(execFile);
const demo = join(import.meta.dirname, '..', '..', 'src', 'sandbox', 'demo.ts');

const [from, where] = onCluster ? [15, ['--cluster']] : [16, []];

test(`the demo goes from ${from} to 18, proves it and leaves nothing behind`, { timeout: 900_000 }, async () => {
  const { stdout, stderr } = await run(process.execPath, [demo, '--yes', '--json', '--size', '1', ...where]);
  const result: Record<string, unknown> = JSON.parse(stdout.trim().split('\n').at(-1) ?? '');
  expect(result).toMatchObject({
    ok: true,
    from: expect.stringMatching(new RegExp(`^${from}\\.`)),
    to: expect.stringMatching(/^18\./),
    strategy: 'runbook',
    workflowId: 'pgleap/databases/postgres',
    fingerprintsEqual: true,
    servicesRestored: true,
    routesRestored: true,
    lostWrites: 0,
  });
  expect(result['rows']).toBeGreaterThan(1000);
  expect(result['downtimeSeconds']).toBeGreaterThan(1);
  const told = (result['phases'] as { name: string }[]).map(({ name }) => name);
  expect(told).toEqual(phases.map(({ name }) => name).filter((name) => name !== 'rehearse'));
  expect(existsSync(String(result['report']))).toBe(true);
  expect(stderr).toContain("temporal workflow update execute --workflow-id 'pgleap/databases/postgres' --name approve");
  const folder = /\S+pgleap-demo-\w+/.exec(stderr)?.[0] ?? '';
  expect(folder).not.toBe('');
  expect(existsSync(folder)).toBe(false);
  expect(await commandsWith(folder)).toEqual([]);
});

test('without a terminal and without --yes the demo says so and starts nothing', async () => {
  await expect(run(process.execPath, [demo, '--json'])).rejects.toMatchObject({
    code: 2,
    stdout: '',
    stderr: expect.stringContaining('Add --yes'),
  });
});

/** Command lines of processes that name the folder. */
async function commandsWith(folder: string): Promise<string[]> {
  const { stdout } = await run('ps', ['-eo', 'args']);
  return stdout.split('\n').filter((line) => line.includes(folder));
}
