import { describe, expect, test } from 'vitest';
import { budgetAt, budgetText, insufficientAt, insufficientText } from '../../src/domain/budget.ts';
import { phaseRow, type UpgradeStatus } from '../../src/domain/state.ts';
import type { PhaseName } from '../../src/domain/phases.ts';
import { planned } from './status.ts';

const at = (minute: number) => new Date(Date.UTC(2026, 0, 1, 3, 0) + minute * 60_000).toISOString();
const dump = { path: '/d', compression: 'zstd', bytes: 1, sha512: 'd', seconds: 300 } as const;
const imported = { expected: [], unexpected: [], unexpectedCount: 0, seconds: 600 };
const fingerprint = { ...dump, databases: 1, tables: 1, rows: 1, sequences: 0, largeObjects: 0, roles: 1, seconds: 60 };

/** Services down since 3:00; 60 minutes are accepted. */
function down(): UpgradeStatus {
  const status = planned();
  status.spec = { ...status.spec!, maxDowntime: '60m' };
  status.downtime.from = at(0);
  return status;
}

function done(status: UpgradeStatus, ...names: PhaseName[]): void {
  for (const name of names) phaseRow(status, name).state = 'done';
}

function work(status: UpgradeStatus, name: PhaseName, minute: number): void {
  Object.assign(phaseRow(status, name), { state: 'running', startedAt: at(minute), triedAt: at(minute), tries: 1 });
}

/** Minutes after 3:00. */
function shortAt(status: UpgradeStatus, minute: number): number {
  const budget = budgetAt(status, at(minute));
  if (!budget) throw new Error('no budget');
  return (insufficientAt(status, budget, at(minute)) - Date.parse(at(0))) / 60_000;
}

describe('the time left', () => {
  test('is none of anybody’s business without maxDowntime, before services go down, and after they are up', () => {
    expect(budgetAt(planned(), at(0))).toBeNull();
    const up = down();
    up.downtime.from = null;
    expect(budgetAt(up, at(0))).toBeNull();
    const over = down();
    over.downtime.to = at(20);
    expect(budgetAt(over, at(30))).toBeNull();
  });

  test('is the plain time while nothing was measured, and what is to come is unknown', () => {
    const status = down();
    work(status, 'backup', 1);
    expect(budgetAt(status, at(5))).toMatchObject({ endsAt: at(60), rest: { seconds: null } });
    expect(shortAt(status, 5)).toBe(60);
    status.budget = budgetAt(status, at(5));
    expect(budgetText(status)).toContain('unknown');
  });

  test('covers what the rehearsal measured of phases that are to come', () => {
    const status = down();
    status.gathered.rehearsal = { dump, importSeconds: 600 };
    // 5 + 10 + 10 minutes.
    expect(budgetAt(status, at(0))?.rest).toMatchObject({ seconds: 1500 });
    expect(shortAt(status, 0)).toBe(35);
    expect(shortAt(status, 40)).toBe(40);
  });

  test('shrinks with a phase that works, and is eaten by one that takes longer than was measured', () => {
    const status = down();
    status.gathered.rehearsal = { dump, importSeconds: 600 };
    work(status, 'backup', 10);
    work(status, 'trial', 10);
    // 2 of 5 minutes of the dump are left, and twice the import.
    expect(budgetAt(status, at(13))?.rest.seconds).toBe(2 * 60 + 1200);
    expect(shortAt(status, 13)).toBe(40);
    status.gathered.dump = dump;
    // The dump was made at 15, and the trial has imported for 6 minutes since.
    expect(budgetAt(status, at(21))?.rest.seconds).toBe(4 * 60 + 600);
    expect(shortAt(status, 21)).toBe(50);
  });

  test('is known to be too short before a phase begins that would not end in time', () => {
    const status = down();
    done(status, 'backup', 'trial', 'halt', 'clone');
    status.gathered.dump = dump;
    status.gathered.trial = {
      dump: 'd',
      import: imported,
      fingerprint,
      equal: true,
      logins: { tried: 0, failed: [], failedCount: 0 },
    };
    expect(shortAt(status, 30)).toBe(49);
    expect(shortAt(status, 49.1)).toBeCloseTo(49.1);
    const budget = budgetAt(status, at(52))!;
    expect(insufficientText(budget, at(52))).toBe(
      'Of the 60m of downtime that the spec accepts 8 min 0 s are left, but at least 11 min 0 s more are expected ' +
        '(replace, deploy, reopen, resume: not measured).',
    );
    expect(insufficientText(budget, at(61))).toContain('longer than the 60m');
    done(status, 'replace', 'deploy', 'restore', 'verify');
    expect(shortAt(status, 52)).toBe(60);
  });

  test('a phase that is begun again takes its time again', () => {
    const status = down();
    done(status, 'backup', 'trial', 'halt', 'clone', 'replace', 'deploy');
    status.gathered.trial = {
      dump: 'd',
      import: imported,
      fingerprint,
      equal: true,
      logins: { tried: 0, failed: [], failedCount: 0 },
    };
    work(status, 'restore', 20);
    expect(budgetAt(status, at(28))?.rest.seconds).toBe(120 + 60);
    phaseRow(status, 'restore').state = 'parked';
    expect(budgetAt(status, at(28))?.rest.seconds).toBe(600 + 60);
    work(status, 'restore', 30);
    phaseRow(status, 'restore').startedAt = at(20);
    expect(budgetAt(status, at(31))?.rest.seconds).toBe(540 + 60);
  });
});
