import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { GateName } from '../../src/domain/phases.ts';
import { gateRow, type UpgradeStatus } from '../../src/domain/state.ts';
import { startHarness, type Harness } from '../workflows/harness.ts';
import { openTerminal, readmeBlocks, type Terminal } from './commands.ts';

/*
 * The commands of the README's section on plain temporal, word for word and in its order, through the real binary. Only the
 * hash of the evidence is put in, as a person would.
 */

let harness: Harness;
let terminal: Terminal;
let lines: string[];

beforeAll(async () => {
  harness = await startHarness();
  terminal = await openTerminal({ TEMPORAL_ADDRESS: harness.env.address });
  const [block = ''] = await readmeBlocks('With plain temporal', 'sh');
  lines = block.trim().split('\n');
  const [yaml = ''] = await readmeBlocks('Your own database', 'yaml');
  await terminal.write('upgrade.yaml', yaml);
});

afterAll(async () => {
  await terminal?.close();
  await harness?.close();
});

/** The one line of the README that holds all of these. */
function line(...parts: string[]): string {
  const found = lines.filter((text) => parts.every((part) => text.includes(part)));
  expect(found, `lines with ${parts.join(' ')}`).toHaveLength(1);
  return found[0] ?? '';
}

async function evidenceAt(gate: GateName): Promise<string> {
  const deadline = Date.now() + 20_000;
  for (;;) {
    const { code, stdout, stderr } = await terminal.type(`${line('query')} --output json`);
    expect(code, stderr).toBe(0);
    const { queryResult } = JSON.parse(stdout) as { queryResult: UpgradeStatus[] };
    const row = queryResult[0] && gateRow(queryResult[0], gate);
    if (row?.state === 'open') return row.evidence?.hash ?? '';
    if (Date.now() > deadline) throw new Error(`gate ${gate} never opened: ${row?.state}`);
  }
}

test('every command of the README works as it stands there', async () => {
  const { world } = harness.makeWorld({ namespace: 'databases' });
  expect(lines).toHaveLength(6);

  expect((await terminal.type(line('pgleap spec'))).code).toBe(0);
  const started = await terminal.type(line('workflow start'));
  expect(started, started.stderr).toMatchObject({ code: 0 });

  world.approvals.add('begin');
  const approve = line('update execute', 'approve').replace('EVIDENCE', await evidenceAt('begin'));
  const approved = await terminal.type(approve);
  expect(approved.code, approved.stderr).toBe(0);
  expect(approved.stdout).toContain('Gate begin approved by Ada.');

  // The same again is refused, with the reason, and the command fails.
  const refused = await terminal.type(approve);
  expect(refused.code).not.toBe(0);
  expect(refused.stderr).toContain('Gate begin was approved already, by Ada.');

  // An update that is no JSON object of the right shape does not even reach the history.
  const malformed = await terminal.type(approve.replace('"gate": "begin"', '"gate": "lunch"'));
  expect(malformed.code).not.toBe(0);
  expect(malformed.stderr).toContain('must be begin, replace, reopen or cleanup');

  world.approvals.add('replace');
  const signal = line('signal', 'approve').replace('EVIDENCE', await evidenceAt('replace'));
  expect((await terminal.type(signal)).code).toBe(0);

  await evidenceAt('reopen');
  const rollback = await terminal.type(line('rollback'));
  expect(rollback.code, rollback.stderr).toBe(0);
  const handle = harness.env.client.workflow.getHandle('pgleap/databases/postgres');
  await expect(handle.result()).resolves.toMatchObject({ ok: false, outcome: 'rolled-back' });
  const status = await handle.query<UpgradeStatus>('status');
  expect(
    status.attempts.filter(({ accepted }) => accepted).map(({ how, message, by }) => `${how} ${message} ${by}`),
  ).toEqual(['update approve Ada', 'signal approve Ada', 'update rollback Ada']);
  expect(world.broken).toEqual([]);
}, 90_000);

test('the commands of docs/gates.md work: a named starter, two approvals, an answer to a park', async () => {
  const { world } = harness.makeWorld({ namespace: 'databases' });
  const gatesMd = await readFile(new URL('../../docs/gates.md', import.meta.url), 'utf8');
  const commands = [...gatesMd.matchAll(/^temporal .*$/gm)].map(([text]) => text);
  const command = (...parts: string[]) => {
    const found = commands.filter((text) => parts.every((part) => text.includes(part)));
    expect(found, parts.join(' ')).toHaveLength(1);
    return found[0] ?? '';
  };
  await terminal.write(
    'two.yaml',
    'database: { namespace: databases }\ntarget: { image: "postgres:18" }\nstarterMayApprove: false\n' +
      'approvers: [Ada, Grace, Linus]\ngates: { begin: { approvals: 2 } }\n',
  );
  expect((await terminal.type('pgleap spec two.yaml > upgrade.json')).code).toBe(0);
  const started = await terminal.type(command('--memo').replace('"Ada"', '"Linus"'));
  expect(started, started.stderr).toMatchObject({ code: 0 });

  const approve = command('update execute', '--name approve').replace('HASH', await evidenceAt('begin'));
  const own = await terminal.type(approve.replace('"Ada"', '"Linus"'));
  expect(own.stderr).toContain('Linus started this upgrade');
  expect((await terminal.type(approve)).stdout).toContain('counts: 1 of 2');
  world.approvals.add('begin');
  world.failOn('setRoute');
  world.failOn('stopService');
  expect((await terminal.type(approve.replace('"Ada"', '"Grace"'))).stdout).toContain('approved by Ada and Grace');

  await world.until(() => world.told.some(({ kind }) => kind === 'park'));
  const resolved = await terminal.type(command('--name resolve').replace('retry', 'rollback'));
  expect(resolved.stdout, resolved.stderr).toContain('park-1: rollback, by Ada.');
  const handle = harness.env.client.workflow.getHandle('pgleap/databases/postgres');
  await expect(handle.result()).resolves.toMatchObject({ outcome: 'rolled-back' });
  expect(await handle.query<UpgradeStatus>('status')).toMatchObject({ startedBy: 'Linus' });
  expect(world.broken).toEqual([]);
}, 90_000);
