/** Commands that documents give and no other suite types, through the real `temporal` and a real server. */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { gateRow, type UpgradeStatus } from '../../src/domain/state.ts';
import { openTerminal, type Terminal } from '../client/commands.ts';
import { startHarness, type Harness } from '../workflows/harness.ts';

let harness: Harness;
let terminal: Terminal;
beforeAll(async () => {
  harness = await startHarness();
  terminal = await openTerminal({ TEMPORAL_ADDRESS: harness.env.address });
});
afterAll(async () => {
  await terminal?.close();
  await harness?.close();
});

/** The line of a document's shell blocks that holds all of these, for another workflow than its example. */
async function command(document: string, workflowId: string, ...parts: string[]): Promise<string> {
  const text = await readFile(path.resolve(import.meta.dirname, '../..', document), 'utf8');
  const lines = [...text.matchAll(/^```sh\n([\s\S]*?)^```$/gm)].flatMap(([, block = '']) => block.split('\n'));
  const found = lines.filter((line) => parts.every((part) => line.includes(part)));
  expect(found, parts.join(' ')).toHaveLength(1);
  return (found[0] ?? '').replace('pgleap/databases/postgres', workflowId);
}

async function typed(line: string): Promise<string> {
  const { code, stdout, stderr } = await terminal.type(line);
  expect(code, stderr).toBe(0);
  return stdout;
}

test('a terminated upgrade is taken up again by a reset, under its own upgrade id', async () => {
  const upgrade = await harness.start({ spec: { gates: { begin: { policy: 'auto' }, cleanup: { policy: 'auto' } } } });
  const before = await upgrade.until((status) => gateRow(status, 'replace').state === 'open');
  await upgrade.handle.terminate('by a test');
  const { workflowId } = upgrade.handle;
  await typed(await command('docs/errors.md', workflowId, 'temporal workflow reset'));

  const again = harness.env.client.workflow.getHandle(workflowId);
  const status = () => again.query<UpgradeStatus>('status');
  for (const gate of ['replace', 'reopen'] as const) {
    await expect.poll(async () => gateRow(await status(), gate).state, { timeout: 20_000 }).toBe('open');
    upgrade.world.approvals.add(gate);
    const { evidence } = gateRow(await status(), gate);
    await again.executeUpdate('approve', { args: [{ gate, by: 'ada', evidence: evidence?.hash }] });
  }
  await expect(again.result()).resolves.toMatchObject({ ok: true, outcome: 'upgraded' });
  expect((await status()).upgradeId).toBe(before.upgradeId);
  expect(upgrade.world.broken).toEqual([]);
}, 90_000);

test('a parked failure is answered, and a gate rejected without evidence', async () => {
  const upgrade = await harness.start();
  upgrade.world.failOn('setReclaimPolicy', 'NotFound');
  const { workflowId } = upgrade.handle;
  await upgrade.parked();
  const resolve = await command('docs/gates.md', workflowId, 'temporal workflow update', '--name resolve');
  expect(await typed(resolve)).toContain('park-1: retry, by Ada.');
  await upgrade.until((status) => gateRow(status, 'begin').state === 'open');
  const reject = await command('docs/gates.md', workflowId, 'temporal workflow update', '--name reject');
  expect(await typed(reject)).toContain('Gate begin rejected by Ada.');
  await expect(upgrade.handle.result()).resolves.toMatchObject({ ok: false, outcome: 'rolled-back' });
  expect(upgrade.world.broken).toEqual([]);
}, 60_000);
