import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { exitCodes } from '../../src/domain/exit-codes.ts';
import type { GateName } from '../../src/domain/phases.ts';
import { gateRow, type UpgradeStatus } from '../../src/domain/state.ts';
import { startHarness, type Harness } from '../workflows/harness.ts';
import { openTerminal, readmeBlocks, type Terminal } from './commands.ts';

let harness: Harness;
let terminal: Terminal;

beforeAll(async () => {
  harness = await startHarness();
  terminal = await openTerminal({ TEMPORAL_ADDRESS: harness.env.address });
  const [yaml = ''] = await readmeBlocks('Your own database', 'yaml');
  await terminal.write('upgrade.yaml', yaml);
  await terminal.write('bad.yaml', 'database:\n  namespace: db\n  workloads: pg\ntarget:\n  image: 18\nservice: []\n');
});

afterAll(async () => {
  await terminal?.close();
  await harness?.close();
});

async function until(upgrade: string, gate: GateName): Promise<UpgradeStatus> {
  const deadline = Date.now() + 20_000;
  for (;;) {
    const { code, stdout, stderr } = await terminal.type(`pgleap status ${upgrade} --json`);
    expect(code, stderr).toBe(0);
    const status = JSON.parse(stdout) as UpgradeStatus;
    if (gateRow(status, gate).state === 'open') return status;
    if (Date.now() > deadline) throw new Error(`gate ${gate} never opened`);
  }
}

describe('an upgrade by the command', () => {
  test('from plan to result', async () => {
    const { world } = harness.makeWorld({ namespace: 'databases' });
    // planPostgres has an id of its own each time.
    const { worlds } = harness;
    const known = worlds.get.bind(worlds);
    worlds.get = (id) => known(id.startsWith('pgleap-plan/') ? 'pgleap/databases/postgres' : id);

    const plan = await terminal.type('pgleap plan upgrade.yaml');
    expect(plan.code, plan.stderr).toBe(0);
    expect(plan.stdout).toContain('16.14 to 18');
    expect(plan.stdout).toContain('An upgrade may begin. Nothing was changed.');

    const start = await terminal.type('pgleap start upgrade.yaml');
    expect(start.code, start.stderr).toBe(0);
    expect(start.stdout).toContain('Started pgleap/databases/postgres.');

    const again = await terminal.type('pgleap start upgrade.yaml');
    expect(again.code).toBe(exitCodes.alreadyRunning.code);
    expect(again.stderr).toContain('pgleap status databases/postgres');

    await until('databases/postgres', 'begin');
    const status = await terminal.type('pgleap status');
    expect(status.stdout).toMatch(/pgleap approve 'pgleap\/databases\/postgres' --gate begin --evidence [0-9a-f]{64}/);

    const wrong = await terminal.type('pgleap approve --gate reopen --by Ada');
    expect(wrong.code).toBe(exitCodes.refused.code);
    expect(wrong.stderr).toContain('gate begin is');
    const stale = await terminal.type(`pgleap approve --gate begin --by Ada --evidence ${'0'.repeat(64)}`);
    expect(stale.code).toBe(exitCodes.refused.code);
    expect(stale.stderr).toContain('This evidence is not the one of gate begin now');
    const none = await terminal.type('pgleap resolve --park park-1 --action retry --by Ada');
    expect(none.code).toBe(exitCodes.refused.code);

    const watching = terminal.type('pgleap watch upgrade.yaml --json', 60_000);
    for (const gate of ['begin', 'replace', 'reopen'] as const) {
      await until('databases/postgres', gate);
      world.approvals.add(gate);
      const approved = await terminal.type(`pgleap approve upgrade.yaml --gate ${gate} --by Ada --note "seen ${gate}"`);
      expect(approved.code, approved.stderr).toBe(0);
      expect(approved.stdout).toContain(`Gate ${gate} approved by Ada.`);
    }
    const watched = await watching;
    expect(watched.code, watched.stderr).toBe(0);
    const events = watched.stdout
      .trim()
      .split('\n')
      .map((text) => JSON.parse(text) as { type: string; gate?: string });
    expect(events.at(-1)).toMatchObject({ type: 'result', result: { ok: true, outcome: 'upgraded' } });
    expect(events.filter(({ type }) => type === 'gate').map(({ gate }) => gate)).toContain('reopen');
    expect(world.broken).toEqual([]);

    const report = await terminal.type('pgleap report --save out');
    expect(report.code, report.stderr).toBe(0);
    const html = await readFile(path.join(terminal.folder, 'out/report.html'), 'utf8');
    expect(html).toContain('seen reopen');
    expect(html).not.toMatch(/<script|https?:\/\/(?!cluster)/);
    await harness.env.client.workflow.getHandle('pgleap/databases/postgres').terminate('test is over');
  }, 120_000);

  test('that is rejected ends with its own code', async () => {
    harness.makeWorld({ namespace: 'rejected' });
    await terminal.write('rejected.yaml', 'database: { namespace: rejected }\ntarget: { image: "postgres:18" }\n');
    expect((await terminal.type('pgleap start rejected.yaml')).code).toBe(0);
    await until('rejected/postgres', 'begin');
    const watching = terminal.type('pgleap watch rejected/postgres', 60_000);
    expect((await terminal.type('pgleap reject rejected/postgres --gate begin --by Ada')).code).toBe(0);
    const watched = await watching;
    expect(watched.code).toBe(exitCodes.rolledBack.code);
    expect(watched.stdout).toContain('is as it was before');
  }, 60_000);

  test('that preflight refuses names the check', async () => {
    harness.makeWorld({ namespace: 'refused', failedCheck: true });
    await terminal.write('refused.yaml', 'database: { namespace: refused }\ntarget: { image: "postgres:18" }\n');
    const watched = await terminal.type('pgleap start refused.yaml --watch', 60_000);
    expect(watched.code).toBe(exitCodes.checksFailed.code);
    expect(watched.stderr).toContain('The claim is missing.');
    expect(watched.stderr).not.toMatch(/\n\s+at /);
  }, 60_000);
});

describe('what goes wrong before anything starts', () => {
  test.each([
    ['an unknown command', 'pgleap upgrad', 'usage', "unknown command 'upgrad'"],
    ['an unknown option', 'pgleap status --loud', 'usage', "unknown option '--loud'"],
    ['an unknown gate', 'pgleap approve --gate lunch', 'usage', 'Allowed choices are begin, replace, reopen, cleanup'],
    ['a missing file', 'pgleap plan nowhere.yaml', 'usage', 'nowhere.yaml cannot be read: there is no such file'],
    ['an upgrade that does not exist', 'pgleap status no/where', 'notFound', 'There is no upgrade pgleap/no/where'],
  ] as const)('%s', async (_what, line, exit, says) => {
    const { code, stderr } = await terminal.type(line);
    expect(stderr).toContain(says);
    expect(code).toBe(exitCodes[exit].code);
    expect(stderr).not.toMatch(/\n\s+at /);
  });

  test('a bad spec: every problem with its place', async () => {
    const { code, stderr } = await terminal.type('pgleap plan bad.yaml');
    expect(code).toBe(exitCodes.invalidSpec.code);
    expect(stderr.trim().split('\n').slice(1)).toEqual([
      'bad.yaml:3:3: database.workloads: unknown key; did you mean workload?',
      'bad.yaml:5:10: target.image: found the number 18, expected text',
      'bad.yaml:6:1: service: unknown key; did you mean services?',
    ]);
  });

  test('with --json the error is JSON on stdout', async () => {
    const { code, stdout } = await terminal.type('pgleap plan bad.yaml --json');
    expect(code).toBe(exitCodes.invalidSpec.code);
    expect(JSON.parse(stdout)).toMatchObject({ ok: false, error: { exit: 'invalidSpec', code } });
  });

  test('no Temporal server', async () => {
    const { code, stderr } = await terminal.type('TEMPORAL_ADDRESS=127.0.0.1:1 pgleap status', 15_000);
    expect(code).toBe(exitCodes.noTemporal.code);
    expect(stderr).toContain('No Temporal server answers at 127.0.0.1:1');
  });

  test('a namespace that does not exist', async () => {
    const { code, stderr } = await terminal.type('TEMPORAL_NAMESPACE=nowhere pgleap status');
    expect(code).toBe(exitCodes.noTemporal.code);
    expect(stderr).toContain('has no namespace nowhere');
  });

  test('no worker: said within ten seconds, and nothing is started', async () => {
    const begun = Date.now();
    const { code, stderr } = await terminal.type('PGLEAP_TASK_QUEUE=nobody pgleap start upgrade.yaml', 20_000);
    expect(code).toBe(exitCodes.noWorker.code);
    expect(stderr).toContain('on task queue nobody');
    expect(Date.now() - begun).toBeLessThan(10_000);
  });

  test('a worker that has just died: said in bounded time', async () => {
    const handle = await harness.env.client.workflow.start('upgradePostgres', {
      workflowId: 'pgleap/orphan/postgres',
      taskQueue: 'nobody',
      args: [{}],
    });
    const { code, stderr } = await terminal.type('pgleap status orphan/postgres', 20_000);
    expect(code).toBe(exitCodes.noWorker.code);
    expect(stderr).toContain('within 10 s');
    await handle.terminate();

    // Whoever asks a queue for work looks like a worker for a while.
    const { workflowService } = harness.env.client;
    await harness.env.client
      .withDeadline(Date.now() + 3000, () =>
        workflowService.pollWorkflowTaskQueue({
          namespace: 'default',
          taskQueue: { name: 'gone', kind: 1 },
          identity: 'gone',
        }),
      )
      .catch(() => undefined);
    const plan = await terminal.type('PGLEAP_TASK_QUEUE=gone pgleap plan upgrade.yaml', 25_000);
    expect(plan.stderr).toContain('within 10 s');
    expect(plan.code).toBe(exitCodes.noWorker.code);
  }, 60_000);

  test('a worker without a cluster', async () => {
    const cluster = await terminal.type('pgleap worker');
    expect(cluster.code).toBe(exitCodes.configuration.code);
    expect(cluster.stderr).toContain('No Kubernetes cluster is configured. Set KUBECONFIG');
    await terminal.write('kubeconfig', kubeconfig('http://127.0.0.1:1'));
    const unreachable = await terminal.type(
      'KUBECONFIG=kubeconfig LINODE_TOKEN=t0ken LINODE_API_URL=http://127.0.0.1:1 pgleap worker',
    );
    expect(unreachable.code).toBe(exitCodes.unreachable.code);
    expect(unreachable.stderr).toContain('http://127.0.0.1:1');
    expect(unreachable.stderr).not.toContain('t0ken');
  });

  test('the doctor names what is missing', async () => {
    const { code, stdout } = await terminal.type('KUBECONFIG=nowhere pgleap doctor --json');
    const checks = JSON.parse(stdout) as { id: string; status: string }[];
    expect(Object.fromEntries(checks.map(({ id, status }) => [id, status]))).toEqual({
      node: 'PASSED',
      temporal: 'PASSED',
      worker: 'PASSED',
      environment: 'SKIPPED',
    });
    expect(code).toBe(0);
  });
});

test('the README’s table of exit codes is the one in the code', async () => {
  const readme = await readFile(path.resolve(import.meta.dirname, '../../README.md'), 'utf8');
  const rows = [...readme.matchAll(/^\| (\d+) +\| (.+?) +\|$/gm)].map(([, code, says]) => ({
    code: Number(code),
    says,
  }));
  expect(rows).toEqual(Object.values(exitCodes));
});

function kubeconfig(server: string): string {
  return JSON.stringify({
    clusters: [{ name: 'c', cluster: { server, 'insecure-skip-tls-verify': true } }],
    users: [{ name: 'u', user: { token: 'secret' } }],
    contexts: [{ name: 'x', context: { cluster: 'c', user: 'u' } }],
    'current-context': 'x',
  });
}
