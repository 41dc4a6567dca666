import { describe, expect, test } from 'vitest';
import { failureCode, failurePolicy, parkOptions, prospects, worldNow } from '../../src/domain/parks.ts';
import { phases, type PhaseName } from '../../src/domain/phases.ts';
import { phaseRow, type Park, type UpgradeStatus } from '../../src/domain/state.ts';
import type { RegisteredUndo, Undo } from '../../src/domain/undo.ts';
import { planned } from './status.ts';

function registered(
  status: UpgradeStatus,
  phase: PhaseName,
  activity: Undo['activity'],
  says: string,
  last = false,
): void {
  const args = { world: status.world! };
  status.undo.push({ id: `${phase}/${says}`, phase, says, activity, args, last, done: false } as RegisteredUndo);
}

function done(status: UpgradeStatus, ...names: PhaseName[]): void {
  for (const name of names) phaseRow(status, name).state = 'done';
}

/** Stopped where the new volume has the target, and its import has failed. */
function inRestore(): UpgradeStatus {
  const status = planned();
  done(status, 'preflight', 'prepare', 'maintain', 'quiesce', 'backup', 'trial', 'halt', 'clone', 'replace', 'deploy');
  phaseRow(status, 'restore').state = 'parked';
  registered(status, 'prepare', 'removeCandidate', 'remove the candidate', true);
  registered(status, 'maintain', 'restoreRoute', 'route example.com/* as it was');
  registered(status, 'quiesce', 'restoreService', 'web/site back to 2');
  registered(status, 'quiesce', 'restoreService', 'web/api back to 1');
  registered(status, 'quiesce', 'liftSourceFence', 'lift the fence of the source');
  registered(status, 'halt', 'restartSource', 'start the source again');
  registered(status, 'clone', 'removeClone', 'remove the clone', true);
  registered(status, 'replace', 'rebindOriginal', 'bind the original volume again');
  registered(status, 'deploy', 'restoreTemplate', 'the workload as it was');
  status.downtime.from = '2026-01-01T03:00:00.000Z';
  status.gathered.fence = { at: status.downtime.from, ended: [], endedCount: 0, hba: '' };
  status.gathered.haltingAt = '2026-01-01T03:10:00.000Z';
  status.gathered.dumpArtifact = { name: 'dump.sql.zst', bytes: 1, sha512: 'd' };
  status.gathered.clone = { id: 9, label: 'copy', sizeGb: 10, region: 'eu' };
  status.gathered.cloneActive = true;
  status.gathered.newClaim = { claimUid: 'u', pv: 'pvc-2', handle: '2-pvc2' };
  return status;
}

describe('how the world stands', () => {
  test('with the new volume in place and nothing opened yet', () => {
    expect(worldNow(inRestore())).toEqual([
      'Visitors see the maintenance page: 1 routes lead there.',
      '2 services are down since 03:00:00 UTC.',
      'The new server runs on the new volume, fenced: nobody but pgleap reaches it. The source is stopped.',
      'Claim postgres-storage is bound to the new volume pvc-2.',
      'The original volume pvc-1 (1-pvc1) is kept, untouched, under Retain.',
      'The dump is in the artifact store, dump.sql.zst.',
      'A clone of the original volume, copy (9), is active.',
      'The commit point is not passed: nobody but pgleap has written to the new server, and going back loses nothing.',
    ]);
  });

  test('while it is put back: what is back is said to be back', () => {
    const status = inRestore();
    for (const undo of status.undo) {
      if (['restoreTemplate', 'rebindOriginal', 'restartSource', 'liftSourceFence'].includes(undo.activity))
        undo.done = true;
    }
    status.undo[2]!.done = true;
    const text = worldNow(status).join('\n');
    expect(text).toContain('1 of 2 services are up again, the others down');
    expect(text).toContain('The source runs, open, as before.');
    expect(text).toContain('pvc-1 (1-pvc1) is bound to claim postgres-storage again');
  });

  test('a change that may have been made in part is not said to be made, or not made', () => {
    const status = planned();
    done(status, 'preflight', 'prepare', 'maintain');
    registered(status, 'quiesce', 'restoreService', 'web/site back to 2');
    expect(worldNow(status)).toContain('Some of 1 services may be down.');
    const replacing = inRestore();
    for (const name of ['replace', 'deploy'] as const) phaseRow(replacing, name).state = 'parked';
    replacing.undo = replacing.undo.filter(({ activity }) => activity !== 'restoreTemplate');
    replacing.gathered.newClaim = null;
    expect(worldNow(replacing)).toContain('Claim postgres-storage is being moved to a new volume.');
  });

  test('before anything, and after the commit point', () => {
    const early = planned();
    early.world = null;
    expect(worldNow(early)).toEqual(['Nothing was changed yet.']);
    expect(worldNow(planned()).join(' ')).toContain('Services are up. The source runs, open, as before.');
    const late = inRestore();
    late.committedAt = '2026-01-01T04:00:00.000Z';
    done(late, 'reopen', 'resume');
    const text = worldNow(late).join(' ');
    expect(text).toContain('open for writing');
    expect(text).toContain('going back would lose what was written since');
  });
});

describe('what each answer would do', () => {
  test('rollback names every undo in its order, and what is lost', () => {
    const status = inRestore();
    const [retry, rollback, abort] = prospects(status, 'restore', parkOptions(status, 'restore'));
    expect(retry?.says[0]).toContain('Phase restore begins again. The target is emptied');
    expect(rollback?.says).toEqual([
      'Put back, in this order:',
      '1. the workload as it was',
      '2. bind the original volume again',
      '3. start the source again',
      '4. lift the fence of the source',
      '5. web/api back to 1; web/site back to 2',
      '6. route example.com/* as it was',
      '7. remove the clone',
      '8. remove the candidate',
      'How long it takes is unknown: nothing of it was measured.',
      expect.stringContaining('No data is lost'),
    ]);
    expect(abort?.says.join(' ')).toContain('pgleap-u1234abcd-journal');
  });

  test('no way back is offered after the commit point or while it is gone already', () => {
    const status = inRestore();
    expect(parkOptions(status, 'rollback')).toEqual(['retry', 'abort']);
    expect(prospects(status, 'rollback', ['retry'])[0]?.says[0]).toContain('bind the original volume again');
    status.committedAt = '2026-01-01T04:00:00.000Z';
    expect(parkOptions(status, 'observe')).toEqual(['retry', 'abort']);
  });

  test('every phase says what retry repeats', () => {
    for (const { name } of phases)
      expect(prospects(planned(), name, ['retry'])[0]?.says[0]).toMatch(/begins again\. \S.+\.$/);
  });
});

describe('policy', () => {
  const options = ['retry', 'rollback', 'abort'] as const;
  const rollback = { after: '10m', answer: 'rollback', times: 3 } as const;
  const retry = { after: '1m', answer: 'retry', times: 2 } as const;

  function withPolicy(onFailure: NonNullable<UpgradeStatus['spec']>['onFailure']): UpgradeStatus {
    const status = inRestore();
    status.spec = { ...status.spec!, onFailure };
    return status;
  }

  test('a phase’s own goes before the default; without either a person is waited for', () => {
    const status = withPolicy({ default: rollback, restore: retry });
    expect(failurePolicy(status, 'restore', options)).toEqual(retry);
    expect(failurePolicy(status, 'backup', options)).toEqual(rollback);
    expect(failurePolicy(withPolicy({}), 'backup', options)).toBeNull();
  });

  test('it answers only what is offered, and never in the way back', () => {
    const status = withPolicy({ default: rollback });
    expect(failurePolicy(status, 'observe', ['retry', 'abort'])).toBeNull();
    expect(failurePolicy(withPolicy({ default: retry }), 'rollback', ['retry', 'abort'])).toBeNull();
    expect(failurePolicy(withPolicy({ default: retry }), 'end', ['retry', 'abort'])).toBeNull();
  });

  test('retries are bounded in each phase; those that people asked for do not count', () => {
    const status = withPolicy({ default: retry });
    const answered = (phase: PhaseName, by: string) => ({ phase, action: 'retry', by }) as Park;
    status.parked = [answered('restore', 'policy'), answered('restore', 'ada'), answered('backup', 'policy')];
    expect(failurePolicy(status, 'restore', options)).toEqual(retry);
    status.parked.push(answered('restore', 'policy'));
    expect(failurePolicy(status, 'restore', options)).toBeNull();
    expect(failurePolicy(status, 'backup', options)).toEqual(retry);
  });
});

test.each<[string, unknown, string | null]>([
  ['the Kubernetes API answered 403 to PATCH deployments postgres', undefined, 'HTTP 403'],
  ['refused', 422, 'HTTP 422'],
  ['psql in target ended with 3: ERROR:  42501: permission denied', undefined, 'SQLSTATE 42501'],
  ['2 errors while importing into the target: 42710 at line 5: role exists', undefined, 'SQLSTATE 42710'],
  ['the volume is full', 'x', null],
])('the code in %j', (message, status, code) => {
  expect(failureCode(message, status)).toBe(code);
});
