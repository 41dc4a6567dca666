import { execFileSync } from 'node:child_process';
import { describe, expect, test } from 'vitest';
import { details, headline } from '../../src/domain/details.ts';
import { duration } from '../../src/domain/text.ts';
import { evidenceFor } from '../../src/domain/evidence.ts';
import { writesSince, type Back, type Compared, type Writes } from '../../src/domain/old-world.ts';
import type { GateName } from '../../src/domain/phases.ts';
import { gateRow, phaseRow, recordAttempt, type UpgradeStatus } from '../../src/domain/state.ts';
import { facts, planned } from './status.ts';

const now = '2026-01-01T03:12:05.000Z';

function atGate(name: GateName): UpgradeStatus {
  const status = planned();
  status.stage = 'waiting';
  status.downtime.from = name === 'begin' ? null : '2026-01-01T03:00:00.000Z';
  const row = gateRow(status, name);
  row.state = 'open';
  row.openedAt = now;
  row.evidence = evidenceFor(name, status, facts, now);
  return status;
}

function parked(status = planned()): UpgradeStatus {
  status.stage = 'parked';
  status.park = {
    id: 'park-1',
    phase: 'backup',
    type: 'NoSpace',
    message: 'the volume | is `full`\n<script>',
    failed: { activity: 'dump', doing: 'dump the source', code: 'SQLSTATE 53100' },
    world: ['Services | are <down>.'],
    prospects: [
      { action: 'retry', says: ['Phase backup begins again.'] },
      { action: 'rollback', says: ['Put back, in this order:', '1. lift the fence of the source'] },
      { action: 'abort', says: ['Everything stays as it stands now.'] },
    ],
    policy: { answer: 'rollback', at: '2026-01-01T03:22:05.000Z' },
    note: null,
    options: ['retry', 'rollback', 'abort'],
    since: now,
    action: null,
    by: null,
  };
  return status;
}

/** The JSON of every `--input '…'` on the page. */
function inputs(page: string): unknown[] {
  return [...page.matchAll(/--input '([^']*)'/g)].map(([, json]) => JSON.parse(json ?? '') as unknown);
}

/** The blocks of commands on the page. */
function blocks(page: string): string[] {
  return [...page.matchAll(/```\n([^`]*)\n```/g)].map(([, block = '']) => block);
}

/** What a shell makes of commands that are typed: their arguments, as the two tools would get them. */
function typed(block: string): string[][] {
  const tools = ['temporal', 'pgleap'].map((tool) => `${tool}() { printf '%s\\0' ${tool} "$@"; printf '\\n'; }`);
  const out = execFileSync('bash', ['-c', [...tools, block].join('\n')], { encoding: 'utf8' });
  return out
    .split('\0\n')
    .slice(0, -1)
    .map((line) => line.split('\0'));
}

test('an upgrade that went back says what is not as it was, and that writes are lost', () => {
  const equal: Compared = { area: 'volume', what: 'v', expected: 'a', found: 'a', equal: true };
  const says = (compared: Compared[], lostWrites: Writes | null) => {
    const back: Back = {
      compared,
      volume: 'original',
      kept: null,
      cloneKept: null,
      lostWrites,
      switchedOff: [],
      missedRuns: [],
    };
    const result = { ok: false, outcome: 'rolled-back', why: 'too slow', back } as UpgradeStatus['result'];
    return headline({ ...planned(), stage: 'ended', result });
  };
  expect(says([equal], null)).toBe('Rolled back: everything is as it was before. too slow');
  const lost = writesSince(null, { nextTransaction: '9', databases: [] }, [], now);
  expect(says([equal], lost)).toContain('and what was written after the commit point is lost');
  expect(says([equal, { ...equal, found: 'b', equal: false }, { ...equal, equal: null }], null)).toBe(
    'Rolled back, but 2 of 3 things are not as before, or were not seen. too slow',
  );
});

test('the first line says where the upgrade is and what it waits for', () => {
  expect(details(planned()).split('\n')[0]).toBe('**Under way, working. Nothing is waited for.**');
  expect(headline(atGate('replace'))).toBe(
    'Waiting for a person’s yes or no at gate replace: The backup is proven. Replace the volume?',
  );
  expect(headline(parked())).toContain('Phase backup failed');
});

describe('at a gate', () => {
  test.each(['begin', 'replace', 'reopen', 'cleanup'] as const)('%s: what to type, with the hash filled in', (gate) => {
    const status = atGate(gate);
    const page = details(status);
    const evidence = gateRow(status, gate).evidence?.hash;
    expect(inputs(page).slice(0, 2)).toEqual([
      { gate, by: 'YOUR NAME', evidence },
      { gate, by: 'YOUR NAME', evidence },
    ]);
    const [yes = '', no = ''] = blocks(page);
    const json = (name: string) => [
      'workflow',
      'update',
      'execute',
      '--name',
      name,
      '--workflow-id',
      'pgleap/databases/postgres',
      '--input',
      expect.any(String),
    ];
    const own = ['pgleap/databases/postgres', '--gate', gate, '--by', 'YOUR NAME', '--evidence', evidence];
    expect(typed(yes)).toEqual([
      ['temporal', ...json('approve')],
      ['pgleap', 'approve', ...own],
    ]);
    expect(typed(no)).toEqual([
      ['temporal', ...json('reject')],
      ['pgleap', 'reject', ...own],
    ]);
    for (const line of [...yes.split('\n'), ...no.split('\n')]) expect(line.length).toBeLessThanOrEqual(72);
    expect(page).toContain(`| gate **${gate}** | **waiting for a person** | since 03:12:05 UTC |`);
  });

  test('every fact of the evidence is on the page', () => {
    const status = atGate('replace');
    const page = details(status);
    for (const { name } of gateRow(status, 'replace').evidence?.facts ?? []) expect(page).toContain(`- ${name}`);
    expect(page).toContain('**Services have been down since 03:00:00 UTC.**');
  });

  test('says what silence means', () => {
    const status = atGate('reopen');
    status.spec = { ...status.spec!, maxDowntime: '45m', onDowntimeExceeded: 'rollback', approvers: ['ada'] };
    expect(details(status)).toContain(
      'When services have been down for 45m, or would be before it is done, it goes back by itself. Who may answer: ada.',
    );
    expect(details(atGate('begin'))).toContain('the same as no after 1d');
  });
});

test('a park shows the failure, how things stand, and what each answer does with its command', () => {
  const page = details(parked());
  expect(page).toContain('dump: dump the source (SQLSTATE 53100)');
  expect(page).toContain(String.raw`- Services \| are \<down\>.`);
  expect(page).toContain('To **rollback**:\n\n- Put back, in this order:\n- 1. lift the fence of the source');
  expect(page).toContain('If nobody answers before 03:22:05 UTC, the spec’s policy answers rollback.');
  expect(inputs(page)).toEqual(
    ['retry', 'rollback', 'abort'].map((action) => ({ park: 'park-1', action, by: 'YOUR NAME' })),
  );
});

test('a gate that takes several people says who has said yes', () => {
  const status = atGate('replace');
  status.spec = { ...status.spec!, starterMayApprove: false };
  status.startedBy = 'grace';
  Object.assign(gateRow(status, 'replace'), { needed: 2, approvals: [{ by: 'ada', at: now, note: null }] });
  const page = details(status);
  expect(page).toContain('A yes takes 2 people within 12h, a no one. So far 1 of 2 approvals: ada.');
  expect(page).toContain('Not who started it: grace.');
  expect(page).toContain('started by grace.');
});

test('the end shows what was proven', () => {
  const status = planned();
  status.stage = 'ended';
  status.result = {
    ok: true,
    outcome: 'upgraded',
    why: null,
    workflowId: status.workflowId,
    upgradeId: status.upgradeId,
    strategy: 'runbook',
    from: '16.14',
    to: '18.4',
    rows: 12_345,
    fingerprintsEqual: true,
    servicesRestored: true,
    routesRestored: true,
    back: null,
    downtimeSeconds: 61,
    gateWaitSeconds: 12,
    phases: [],
    artifacts: [{ name: 'report.html', bytes: 1, sha512: 'x' }],
  };
  const page = details(status);
  expect(page.split('\n')[0]).toBe('**Upgraded. Nothing is waited for.**');
  expect(page).toContain('- rows: 12,345');
  expect(page).toContain('- fingerprints of old and new server equal: yes');
});

test('text of the world cannot break the page', () => {
  const status = parked();
  phaseRow(status, 'backup').note = 'a | b <img src=x> [x](y)';
  const page = details(status);
  expect(page).not.toMatch(/(?<!\\)[<]/);
  const row = page.split('\n').find((line) => line.startsWith('| backup'));
  expect(row?.replaceAll(String.raw`\|`, '').split('|')).toHaveLength(6);
});

test('refused messages and measured progress are shown', () => {
  const status = planned();
  recordAttempt(status, {
    at: now,
    how: 'signal',
    message: 'approve',
    by: 'eve',
    gate: 'begin',
    accepted: false,
    says: 'eve is not among the approvers',
    note: null,
  });
  status.progress = [
    { what: 'dump', done: 5_000_000, total: 10_000_000, unit: 'bytes', at: now },
    { what: 'import', done: 12_345, total: null, unit: 'rows', at: now },
  ];
  const page = details(status);
  expect(page).toContain('**refused**, approve begin by eve: eve is not among the approvers');
  expect(page).toContain('dump: 5.0 MB of 10.0 MB (50 %, measured at 03:12:05 UTC)');
  expect(page).toContain('import: 12,345 rows (total unknown');
});

test('the page stays small for many services', () => {
  const many = structuredClone(facts);
  for (let index = 0; index < 60; index += 1) {
    many.cluster.services.push({
      kind: 'Deployment',
      namespace: 'a-namespace-with-a-long-name',
      name: `service-with-a-long-name-${index}`,
      uid: 'u',
      replicas: 3,
      suspended: null,
      readOnly: false,
      login: null,
      hpa: null,
    });
  }
  const status = atGate('begin');
  gateRow(status, 'begin').evidence = evidenceFor('begin', status, many, now);
  expect(Buffer.byteLength(details(status))).toBeLessThan(20_000);
});

test.each([
  [0, '0 s'],
  [8.24, '8.2 s'],
  [200, '3 min 20 s'],
  [7500, '2 h 5 min'],
])('%d s is %s', (seconds, text) => {
  expect(duration(seconds)).toBe(text);
});
