import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { statusText } from '../../src/client/text.ts';
import { answerGate, refreshOpenGate, whyNeverApproved } from '../../src/domain/approvals.ts';
import {
  decide,
  readMessage,
  whyNoRollback,
  type Decision,
  type Message,
  type MessageName,
} from '../../src/domain/decide.ts';
import { details } from '../../src/domain/details.ts';
import { evidenceFor } from '../../src/domain/evidence.ts';
import { writesSince, writesText } from '../../src/domain/old-world.ts';

import { gateRow, phaseRow, recordAttempt, type Park, type UpgradeStatus } from '../../src/domain/state.ts';
import { facts, planned } from './status.ts';

const now = '2026-01-01T01:00:00.000Z';

function atGate(name: 'begin' | 'replace' | 'reopen' | 'cleanup' = 'begin'): { status: UpgradeStatus; hash: string } {
  const status = planned();
  const row = gateRow(status, name);
  row.state = 'open';
  row.openedAt = now;
  row.evidence = evidenceFor(name, status, facts, now);
  return { status, hash: row.evidence.hash };
}

function parked(more: Partial<Park> = {}): UpgradeStatus {
  const status = planned();
  status.park = {
    id: 'park-1',
    phase: 'backup',
    type: 'NoSpace',
    message: 'the volume is full',
    failed: { activity: 'dump', doing: 'dump the source', code: null },
    world: [],
    prospects: [],
    policy: null,
    note: null,
    options: ['retry', 'rollback', 'abort'],
    since: now,
    action: null,
    by: null,
    ...more,
  };
  return status;
}

function message(name: MessageName, input: unknown): Message {
  const read = readMessage(name, input);
  if (typeof read === 'string') throw new Error(read);
  return read;
}

describe('gates', () => {
  test.each(['approve', 'reject'] as const)('%s of the open gate with its evidence', (name) => {
    const { status, hash } = atGate();
    const decision = decide(status, message(name, { gate: 'begin', by: 'ada', evidence: hash, note: 'go' }));
    expect(decision).toMatchObject({
      accepted: true,
      effect: {
        kind: 'gate',
        gate: 'begin',
        outcome: name === 'approve' ? 'approved' : 'rejected',
        by: 'ada',
        note: 'go',
      },
    });
  });

  test('a no needs no evidence; a yes does, unless the policy is auto', () => {
    const { status } = atGate();
    expect(decide(status, message('reject', { gate: 'begin', by: 'ada' })).accepted).toBe(true);
    const yes = message('approve', { gate: 'begin', by: 'ada' });
    expect(decide(status, yes).accepted).toBe(false);
    status.spec!.gates.begin.policy = 'auto';
    expect(decide(status, yes).accepted).toBe(true);
  });

  test('stale evidence is refused, for yes and no', () => {
    const { status } = atGate();
    for (const name of ['approve', 'reject'] as const) {
      expect(decide(status, message(name, { gate: 'begin', by: 'ada', evidence: 'a'.repeat(64) })).accepted).toBe(
        false,
      );
    }
  });

  test('evidence of one gate or upgrade opens no other', () => {
    const begin = atGate('begin');
    const other = atGate('begin');
    other.status.upgradeId = 'uffffffff';
    expect(evidenceFor('begin', other.status, facts, now).hash).not.toBe(begin.hash);
    expect(evidenceFor('replace', begin.status, facts, now).hash).not.toBe(begin.hash);
  });

  test('times and forecasts do not change the hash, facts do', () => {
    const { status, hash } = atGate('replace');
    status.downtime.from = '2026-01-01T00:30:00.000Z';
    expect(evidenceFor('replace', status, facts, '2026-01-01T09:00:00.000Z').hash).toBe(hash);
    status.gathered.cloneActive = true;
    expect(evidenceFor('replace', status, facts, now).hash).toBe(hash);
    status.gathered.clone = { id: 9, label: 'pgleap', sizeGb: 10, region: 'eu' };
    expect(evidenceFor('replace', status, facts, now).hash).not.toBe(hash);
  });

  test('a gate that is not open, or was answered', () => {
    const { status, hash } = atGate();
    const says = (gate: string) => decide(status, message('approve', { gate, by: 'ada', evidence: hash })).says;
    expect(says('reopen')).toContain('gate begin is');
    gateRow(status, 'begin').state = 'rejected';
    gateRow(status, 'begin').by = 'grace';
    expect(says('begin')).toContain('rejected already, by grace');
    expect(says('reopen')).toContain('Nothing waits');
  });

  test('only approvers of the spec', () => {
    const { status, hash } = atGate();
    status.spec = { ...status.spec!, approvers: ['ada'] };
    expect(decide(status, message('approve', { gate: 'begin', by: 'eve', evidence: hash })).accepted).toBe(false);
    expect(decide(status, message('approve', { gate: 'begin', by: 'ada', evidence: hash })).accepted).toBe(true);
  });
});

describe('several approvals', () => {
  const later = '2026-01-01T05:00:00.000Z';

  /** What the workflow does with a message: refresh, decide, apply. */
  function send(
    status: UpgradeStatus,
    name: MessageName,
    by: string,
    evidence: string | undefined,
    at = now,
  ): Decision {
    refreshOpenGate(status, at);
    const decision = decide(status, message(name, { gate: 'replace', by, evidence }));
    if (decision.accepted && decision.effect.kind === 'gate') answerGate(status, decision.effect, at);
    return decision;
  }

  function needsTwo(more: Partial<UpgradeStatus['spec']> = {}): { status: UpgradeStatus; hash: string } {
    const { status } = atGate('replace');
    status.spec = { ...status.spec!, ...more };
    gateRow(status, 'replace').needed = 2;
    return { status, hash: gateRow(status, 'replace').evidence?.hash ?? '' };
  }

  test('the gate is passed by the second person, not by the first or by the same one again', () => {
    const { status, hash } = needsTwo();
    expect(send(status, 'approve', 'Ada', hash)).toMatchObject({
      accepted: true,
      says: expect.stringContaining('1 of 2'),
    });
    expect(gateRow(status, 'replace').state).toBe('open');
    for (const again of ['Ada', 'ada', '  ADA ', '\uFF21da']) {
      expect(send(status, 'approve', again, hash)).toMatchObject({
        accepted: false,
        says: expect.stringContaining('counts once'),
      });
    }
    expect(send(status, 'approve', 'Grace', hash).says).toBe('Gate replace approved by Ada and Grace.');
    expect(gateRow(status, 'replace')).toMatchObject({ state: 'approved', by: 'Ada and Grace' });
  });

  test('one no is enough, also of who said yes before', () => {
    const { status, hash } = needsTwo();
    send(status, 'approve', 'Ada', hash);
    expect(send(status, 'reject', 'Ada', undefined).accepted).toBe(true);
    expect(gateRow(status, 'replace')).toMatchObject({ state: 'rejected', by: 'Ada' });
  });

  test('a yes is void when the evidence changes: both must look again', () => {
    const { status, hash } = needsTwo();
    send(status, 'approve', 'Ada', hash);
    status.gathered.clone = { id: 9, label: 'another', sizeGb: 10, region: 'eu' };
    expect(send(status, 'approve', 'Grace', hash)).toMatchObject({
      accepted: false,
      says: expect.stringContaining('Look at it again'),
    });
    const row = gateRow(status, 'replace');
    expect(row.approvals).toEqual([]);
    const hash2 = row.evidence?.hash;
    expect(hash2).not.toBe(hash);
    send(status, 'approve', 'Grace', hash2);
    expect(row.state).toBe('open');
    send(status, 'approve', 'Ada', hash2);
    expect(row).toMatchObject({ state: 'approved', by: 'Grace and Ada' });
  });

  test('a yes lapses', () => {
    const { status, hash } = needsTwo({ approvalLasts: '4h' });
    send(status, 'approve', 'Ada', hash);
    const { voided, changed } = refreshOpenGate(status, later);
    expect(changed).toBeNull();
    expect(voided).toMatchObject([{ by: 'Ada', message: 'void', says: expect.stringContaining('lapsed') }]);
    send(status, 'approve', 'Grace', hash, later);
    expect(gateRow(status, 'replace')).toMatchObject({ state: 'open', approvals: [{ by: 'Grace' }] });
  });

  test('who started it may say no, but not yes', () => {
    const { status, hash } = needsTwo({ starterMayApprove: false });
    status.startedBy = 'Ada';
    expect(send(status, 'approve', 'ada', hash)).toMatchObject({
      accepted: false,
      says: expect.stringContaining('started this'),
    });
    status.startedBy = null;
    expect(send(status, 'approve', 'Grace', hash).says).toContain('not known');
    status.startedBy = 'Ada';
    expect(send(status, 'reject', 'ada', undefined).accepted).toBe(true);
  });

  test('a spec that nobody could satisfy is found at the start', () => {
    const asked = { ...planned().spec!, starterMayApprove: false, approvers: ['Ada', 'Grace'] };
    expect(whyNeverApproved({ ...asked, starterMayApprove: true }, null)).toBeNull();
    expect(whyNeverApproved(asked, null)).toContain('startedBy');
    expect(whyNeverApproved(asked, 'Ada')).toBeNull();
    const two = { ...asked.gates.begin, approvals: 2 };
    expect(whyNeverApproved({ ...asked, gates: { ...asked.gates, begin: two } }, 'ada')).toContain('only 1 approver');
    expect(whyNeverApproved({ ...asked, gates: { ...asked.gates, begin: two } }, 'Linus')).toBeNull();
    const auto = { ...two, policy: 'auto' as const };
    const all = { begin: auto, replace: auto, reopen: auto, cleanup: auto };
    expect(whyNeverApproved({ ...asked, gates: all }, null)).toBeNull();
  });

  test('whatever is sent, a gate is passed by so many different people who saw what is there now', () => {
    const step = fc.record({
      by: fc.constantFrom('Ada', 'ada', ' Grace', 'Linus', 'Eve'),
      name: fc.constantFrom('approve' as const, 'approve' as const, 'approve' as const, 'reject' as const),
      stale: fc.boolean(),
      clone: fc.integer({ min: 0, max: 20 }),
      minutes: fc.integer({ min: 0, max: 300 }),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 12 }), fc.integer({ min: 1, max: 3 }), (steps, needed) => {
        const { status } = needsTwo({ approvers: ['Ada', 'Grace', 'Linus'], approvalLasts: '6h' });
        status.startedBy = 'Linus';
        status.spec = { ...status.spec!, starterMayApprove: needed === 3 };
        const row = gateRow(status, 'replace');
        row.needed = needed;
        let at = Date.parse(now);
        for (const { by, name, stale, clone, minutes } of steps) {
          at += minutes * 60_000;
          if (clone < 3) status.gathered.clone = { id: clone, label: 'c', sizeGb: 1, region: 'eu' };
          const iso = new Date(at).toISOString();
          refreshOpenGate(status, iso);
          send(status, name, by, stale ? 'a'.repeat(64) : row.evidence?.hash, iso);
          if (row.state === 'open') continue;
          if (row.state === 'rejected') return name === 'reject' && by !== 'Eve';
          const people = new Set(row.approvals.map((approval) => approval.by.toLowerCase()));
          return (
            people.size === needed &&
            !people.has('eve') &&
            (needed === 3 || !people.has('linus')) &&
            row.approvals.every((approval) => at - Date.parse(approval.at) < 6 * 3_600_000) &&
            row.evidence?.hash === evidenceFor('replace', status, facts, iso).hash
          );
        }
        return row.state === 'open' && row.approvals.length < needed;
      }),
      { numRuns: 2000 },
    );
  });
});

test('approvers bound every message', () => {
  const status = parked();
  status.spec = { ...status.spec!, approvers: ['Ada Lovelace'] };
  const resolve = (by: string) => decide(status, message('resolve', { park: 'park-1', action: 'retry', by }));
  const rollback = (by: string) => decide(status, message('rollback', { by }));
  expect(resolve('eve').says).toContain('eve is not among the approvers');
  expect(rollback('eve').says).toContain('eve is not among the approvers');
  expect(resolve('ada  lovelace').accepted).toBe(true);
  expect(rollback('Ada Lovelace').accepted).toBe(true);
});

describe('parks', () => {
  test('an offered action of the open park', () => {
    const decision = decide(parked(), message('resolve', { park: 'park-1', action: 'retry', by: 'ada' }));
    expect(decision).toMatchObject({ accepted: true, effect: { kind: 'resolve', park: 'park-1', action: 'retry' } });
  });

  test.each([
    ['none is open', planned(), 'park-1', 'retry', 'Nothing is parked'],
    ['another is open', parked({ id: 'park-2' }), 'park-1', 'retry', 'park-2 is'],
    ['it was answered', parked({ action: 'abort' }), 'park-1', 'retry', 'answered already'],
    ['it is not offered', parked({ options: ['retry', 'abort'] }), 'park-1', 'rollback', 'takes retry or abort'],
  ])('refused when %s', (_what, status, park, action, says) => {
    const decision = decide(status, message('resolve', { park, action, by: 'ada' }));
    expect(decision).toMatchObject({ accepted: false, says: expect.stringContaining(says) });
  });
});

describe('rollback', () => {
  test('is accepted until the commit point; after it with acceptLostWrites only, and until cleanup begins', () => {
    const status = planned();
    expect(decide(status, message('rollback', { by: 'ada' })).accepted).toBe(true);
    status.committedAt = now;
    expect(decide(status, message('rollback', { by: 'ada' })).accepted).toBe(false);
    expect(whyNoRollback(status, false)).toContain(now);
    expect(whyNoRollback(status, false)).toContain('was not counted');
    const rows = { inserted: 12, updated: 3, deleted: 0 };
    const before = { nextTransaction: '100', databases: [{ name: 'shop', inserted: 5, updated: 0, deleted: 0 }] };
    const after = { nextTransaction: '140', databases: [{ name: 'shop', inserted: 17, updated: 3, deleted: 0 }] };
    status.writes = writesSince(before, after, ['app from web/site'], now);
    expect(status.writes).toMatchObject({ transactions: 40, rows });
    expect(whyNoRollback(status, false)).toContain(
      'At most 40 transactions wrote: 12 rows inserted, 3 updated, 0 deleted in shop',
    );
    expect(decide(status, message('rollback', { by: 'ada', acceptLostWrites: true })).accepted).toBe(true);
    phaseRow(status, 'cleanup').state = 'running';
    expect(whyNoRollback(status, true)).toContain('Cleanup has begun');
    // A yes here would be forgotten: the upgrade only lets go of Lease and journal.
    phaseRow(status, 'cleanup').state = 'skipped';
    expect(whyNoRollback(status, true)).toContain('is ending');
    expect(decide(status, message('rollback', { by: 'ada', acceptLostWrites: true })).accepted).toBe(false);
  });

  test('counters that were begun anew, or never noted, make rows unknown instead of wrong', () => {
    const before = { nextTransaction: '100', databases: [{ name: 'shop', inserted: 5, updated: 0, deleted: 0 }] };
    const anew = { nextTransaction: '140', databases: [{ name: 'shop', inserted: 2, updated: 0, deleted: 0 }] };
    expect(writesSince(before, anew, [], now)).toMatchObject({ transactions: 40, rows: null, why: expect.any(String) });
    expect(writesSince(null, anew, [], now)).toMatchObject({ transactions: null, rows: null });
    expect(writesText(writesSince(null, anew, [], now))).toContain('not known');
  });

  test('is refused when the upgrade stops already or has ended', () => {
    const status = planned();
    status.ending = { how: 'abort', why: 'ada said so', by: 'ada', type: null };
    expect(decide(status, message('rollback', { by: 'eve' })).says).toContain('ada said so');
    status.stage = 'ended';
    expect(decide(status, message('rollback', { by: 'eve' })).says).toContain('ended');
  });
});

describe('readMessage', () => {
  const names: MessageName[] = ['approve', 'reject', 'resolve', 'rollback'];

  test('reads or explains whatever is sent, and never throws', () => {
    const fields = fc.record(
      {
        gate: fc.oneof(fc.constantFrom('begin', 'replace', 'nowhere'), fc.anything()),
        by: fc.oneof(fc.string(), fc.anything()),
        evidence: fc.oneof(fc.string(), fc.anything()),
        note: fc.oneof(fc.string(), fc.anything()),
        park: fc.oneof(fc.constant('park-1'), fc.anything()),
        action: fc.oneof(fc.constantFrom('retry', 'skip'), fc.anything()),
        acceptLostWrites: fc.anything(),
      },
      { requiredKeys: [] },
    );
    fc.assert(
      fc.property(fc.constantFrom(...names), fc.oneof(fields, fc.anything()), (name, input) => {
        const read = readMessage(name, input);
        return typeof read === 'string' ? read.includes('takes one JSON object') : read.by.trim() !== '';
      }),
      { numRuns: 3000 },
    );
  });

  test.each([
    ['', 'no letter or digit'],
    ['  \t ', 'no letter or digit'],
    ['\u2800', 'no letter or digit'],
    ['\u3164', 'invisible'],
    ['A\u200Bda', 'invisible'],
    ['Ada\u202E', 'invisible'],
    ['A\u001B[31mda', 'control'],
    ['A\uD800da', 'control'],
    ['policy', 'keeps for itself'],
    ['Time  Limit', 'keeps for itself'],
    ['YOUR NAME', 'keeps for itself'],
    ['x'.repeat(501), 'longer than 500'],
    // One code point that NFKC makes eighteen of.
    ['\uFDFA'.repeat(40), 'no plain text'],
  ])('%j is no name', (by, why) => {
    expect(readMessage('rollback', { by })).toContain(why);
  });

  test('names and notes are kept as they show', () => {
    expect(message('rollback', { by: ' \uFF21da  L\u00A0x ', note: 'a\u001B[2Jb\nc\u202Ed' })).toEqual({
      name: 'rollback',
      by: 'Ada L x',
      note: 'a [2Jb c d',
      acceptLostWrites: false,
    });
  });

  test('no state and no message leads to an approval without its evidence', () => {
    const states = fc.constantFrom('pending', 'open', 'approved', 'rejected', 'expired', 'closed');
    fc.assert(
      fc.property(states, fc.boolean(), fc.string(), fc.boolean(), (state, right, text, stopping) => {
        const { status, hash } = atGate('replace');
        gateRow(status, 'replace').state = state as 'open';
        if (stopping) status.ending = { how: 'rollback', why: 'x', by: null, type: null };
        const evidence = right ? hash : text;
        const decision = decide(status, { name: 'approve', gate: 'replace', by: 'ada', evidence, note: null });
        return decision.accepted === (state === 'open' && evidence === hash && !stopping);
      }),
    );
  });
});

test('the list of attempts is capped, and never forgets one that had an effect', () => {
  const status = planned();
  const attempt = { at: now, how: 'signal', message: 'approve', by: null, gate: null, says: '', note: null } as const;
  recordAttempt(status, { ...attempt, accepted: true });
  for (let index = 0; index < 500; index += 1)
    recordAttempt(status, { ...attempt, accepted: false, says: String(index) });
  expect(status.attempts).toHaveLength(200);
  expect(status.attempts[0]?.accepted).toBe(true);
  expect(status.attempts.at(-1)?.says).toBe('499');
  expect(status.attemptsDropped).toBe(301);
  expect(statusText(status, now)).toContain('301 refused ones, the oldest, were not kept');
  expect(details(status)).toContain('and 491 before');
  for (let index = 0; index < 300; index += 1) recordAttempt(status, { ...attempt, accepted: true });
  expect(status.attempts.filter(({ accepted }) => accepted)).toHaveLength(301);
});
