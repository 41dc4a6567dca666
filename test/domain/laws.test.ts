import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { evidenceFor } from '../../src/domain/evidence.ts';
import { missingForCleanup, missingForReopen, missingForReplace } from '../../src/domain/laws.ts';
import { gateRow, type UpgradeStatus } from '../../src/domain/state.ts';
import { undoOrder, type RegisteredUndo } from '../../src/domain/undo.ts';
import { facts, fingerprint, planned } from './status.ts';

const dump = { path: '/pgleap/dump', compression: 'zstd', bytes: 10, sha512: 'd', seconds: 1 } as const;
const imported = { expected: [], unexpected: [], unexpectedCount: 0, seconds: 1 };

function ready(): UpgradeStatus {
  const status = planned();
  status.gathered.dump = dump;
  status.gathered.dumpArtifact = { name: 'dump', bytes: 10, sha512: 'd' };
  status.gathered.sourceUnchanged = true;
  status.gathered.trial = {
    dump: 'd',
    import: imported,
    fingerprint,
    equal: true,
    logins: { tried: 1, failed: [], failedCount: 0 },
  };
  status.gathered.cloneActive = true;
  status.gathered.restored = { import: { ...imported }, carried: [] };
  status.gathered.verified = { fingerprint, equal: true };
  status.undo.push({
    id: 'prepare/retain',
    phase: 'prepare',
    says: '',
    activity: 'restoreReclaimPolicy',
    args: { world: status.world!, volume: facts.cluster.database.volume },
    last: false,
    done: false,
  });
  for (const gate of status.gates) {
    gate.state = 'approved';
    gate.approvals = [{ by: 'ada', at: '2026-01-01T00:00:00.000Z', note: null }];
    gate.evidence = evidenceFor(gate.name, status, facts, '2026-01-01T00:00:00.000Z');
  }
  return status;
}

test('everything there: nothing is missing', () => {
  const status = ready();
  expect(missingForReplace(status)).toEqual([]);
  expect(missingForReopen(status)).toEqual([]);
  status.committedAt = '2026-01-01T00:00:00.000Z';
  expect(missingForCleanup(status)).toEqual([]);
});

test.each<[string, (status: UpgradeStatus) => void]>([
  ['one of two approvals', (status) => (gateRow(status, 'replace').needed = 2)],
  ['no dump', (status) => (status.gathered.dump = null)],
  ['a dump that differs in the artifact store', (status) => (status.gathered.dumpArtifact!.sha512 = 'x')],
  ['a source that changed', (status) => (status.gathered.sourceUnchanged = false)],
  ['a trial of another dump', (status) => (status.gathered.trial!.dump = 'x')],
  ['an unequal trial', (status) => (status.gathered.trial!.equal = false)],
  ['a clone that is not active', (status) => (status.gathered.cloneActive = false)],
  ['a volume that is not retained', (status) => (status.undo[0]!.done = true)],
  ['no approval', (status) => (gateRow(status, 'replace').state = 'open')],
  [
    'an approval for another clone',
    (status) => (status.gathered.clone = { id: 2, label: 'copy', sizeGb: 10, region: 'eu' }),
  ],
])('replace is refused with %s', (_what, spoil) => {
  const status = ready();
  spoil(status);
  expect(missingForReplace(status)).not.toEqual([]);
});

describe('without a clone', () => {
  function without(more: (status: UpgradeStatus) => void = () => {}): UpgradeStatus {
    const status = ready();
    status.gathered.cloneActive = false;
    status.spec = { ...status.spec!, clone: 'none' };
    more(status);
    const row = gateRow(status, 'replace');
    row.evidence = evidenceFor('replace', status, facts, '2026-01-01T00:00:00.000Z');
    return status;
  }

  test('nothing is missing when a person approved evidence that says so', () => {
    const status = without();
    expect(missingForReplace(status)).toEqual([]);
    const said = gateRow(status, 'replace').evidence?.facts.find(({ name }) => name === 'clone')?.value;
    expect(said).toMatch(/^none .*the original volume itself is the only way back/);
  });

  test('an approval of evidence that named a clone is void', () => {
    const status = without();
    gateRow(status, 'replace').evidence = gateRow(ready(), 'replace').evidence;
    expect(missingForReplace(status)).toEqual([expect.stringContaining('an approval of gate replace')]);
  });

  test('a policy is no person', () => {
    const status = without(({ spec }) => {
      spec!.gates = { ...spec!.gates, replace: { ...spec!.gates.replace, policy: 'auto' } };
    });
    expect(missingForReplace(status)).toEqual([expect.stringContaining('a person')]);
  });
});

test('reopen and cleanup are refused without theirs', () => {
  const status = ready();
  status.gathered.verified!.equal = false;
  status.gathered.restored!.import.unexpectedCount = 1;
  gateRow(status, 'reopen').state = 'rejected';
  gateRow(status, 'cleanup').state = 'expired';
  expect(missingForReopen(status)).toHaveLength(3);
  expect(missingForCleanup(status)).toHaveLength(2);
});

test('a target whose pod was replaced after the approval may still be opened', () => {
  const status = ready();
  const pod = { namespace: 'databases', name: 'postgres-1', uid: 'u9', container: 'postgres' };
  status.gathered.target = { role: 'target', pod, superuser: 'postgres', host: null, port: 5432 };
  expect(missingForReopen(status)).toEqual([]);
});

test('undo runs backwards, `last` ones at the end, and equal neighbours together', () => {
  const activities = ['removeScratch', 'restoreRoute', 'restoreService', 'liftSourceFence'] as const;
  const undo = fc.record({ activity: fc.constantFrom(...activities), last: fc.boolean(), done: fc.boolean() });
  fc.assert(
    fc.property(fc.array(undo), (made) => {
      const undos = made.map((known, index) => ({ ...known, id: String(index) }) as unknown as RegisteredUndo);
      const groups = undoOrder(undos);
      const ids = groups.flat().map(({ id }) => Number(id));
      const open = undos.filter(({ done }) => !done);
      const wanted = [...open.filter(({ last }) => !last).reverse(), ...open.filter(({ last }) => last).reverse()];
      expect(ids).toEqual(wanted.map(({ id }) => Number(id)));
      for (const group of groups) expect(new Set(group.map(({ activity }) => activity)).size).toBe(1);
    }),
  );
});
