/** What recovering calls and says, without a world: test/e2e/recover.test.ts has a whole one. */
import { expect, test } from 'vitest';
import { oldWorldOf } from '../support/old-world.ts';
import { fakeFacts } from '../workflows/fake-facts.ts';
import { recoveredText, recoveryText, type Recovered, type Recovery } from '../../src/client/recover.ts';
import { compared, standsAgain, unseen, writesSince, writesText, type Compared } from '../../src/domain/old-world.ts';
import type { RegisteredUndo } from '../../src/domain/undo.ts';
import { finishReopening } from '../../src/workflows/finish.ts';
import { goBack, type Way } from '../../src/workflows/go-back.ts';

const { services, database } = fakeFacts('databases');
const world = { clusterUid: 'c', upgradeId: 'u0badcafe', startedAt: '2026-01-01T00:00:00Z', namespace: 'databases' };

/** Answers every call, and notes it. */
function wayThat(answers: Partial<Record<string, unknown>> = {}): { way: Way; calls: string[] } {
  const calls: string[] = [];
  const way: Way = {
    async call(name) {
      calls.push(name);
      return answers[name] as never;
    },
    async look(name) {
      return name in answers ? { answer: answers[name] as never } : { failed: 'nobody answers' };
    },
    patched: () => true,
    undone: () => undefined,
    all: (promises) => Promise.all(promises),
  };
  return { way, calls };
}

test('reopening is finished without insisting on a service as it was planned', async () => {
  const service = services.find(({ kind }) => kind !== 'CronJob') ?? expect.unreachable();
  const undo = { id: 'quiesce/web', phase: 'quiesce', says: '', last: false, done: false } as const;
  const undos: RegisteredUndo[] = [{ ...undo, activity: 'restoreService', args: { world, service } }];
  const { way, calls } = wayThat({ compareOldWorld: [] });
  await finishReopening(way, { world, undos, old: oldWorldOf(database) });
  expect(calls).toEqual(['openTarget', 'restoreService', 'removeCandidate']);
});

test('once an earlier run lifted the fence, nothing says that the data is the same', async () => {
  const undo = { id: 'quiesce/fence', phase: 'quiesce', says: '', activity: 'liftSourceFence', last: false } as const;
  const fingerprint = { sha512: 'ab'.repeat(64), rows: 1, seconds: 1 };
  const old = oldWorldOf(database, { fingerprint });
  const rows = async (done: boolean) => {
    const { way } = wayThat();
    const undos: RegisteredUndo[] = [{ ...undo, done, args: { world, database, hbaFile: '' } }];
    const back = await goBack(way, { world, undos, old, opened: false, lost: null });
    return back.compared.filter(({ area }) => area === 'data').map(({ found, equal }) => ({ found, equal }));
  };
  expect(await rows(false)).toEqual([{ found: 'nobody answers', equal: null }]);
  expect(await rows(true)).toEqual([
    { found: expect.stringContaining('services may have written since'), equal: null },
  ]);
});

test('what a run that was stopped had counted is said to be unknown, not nothing', async () => {
  const undo = { phase: 'deploy', says: '', activity: 'removeCandidate', last: false, args: { world } } as const;
  const undos: RegisteredUndo[] = [
    { ...undo, id: 'a', done: false },
    { ...undo, id: 'b', done: true },
  ];
  const { way, calls } = wayThat();
  const arg = { world, undos, old: oldWorldOf(database), opened: true };
  const { lostWrites } = await goBack(way, { ...arg, undos: structuredClone(undos), lost: null });
  expect(calls).not.toContain('journalBack');
  expect(lostWrites === null ? '' : writesText(lostWrites)).toMatch(
    /^How much was written is not known \(an earlier run .*\), as of .*; who was connected is not known\.$/,
  );
  // As far as its journal has it not.
  const at = '2026-01-01T00:00:00Z';
  const lost = writesSince({ nextTransaction: '1', databases: [] }, { nextTransaction: '8', databases: [] }, [], at);
  expect((await goBack(way, { ...arg, lost })).lostWrites).toEqual(lost);
  const recovery: Recovery = {
    upgradeId: 'u',
    workflowId: 'w',
    journal: 'j',
    startedAt: at,
    committedAt: at,
    direction: 'back',
    steps: [],
    lost,
    artifacts: null,
    workflow: 'terminated',
  };
  expect(recoveryText(recovery)).toContain('Lost with that: At most 7 transactions wrote');
});

test('the old world stands again only when what a database needs was seen', () => {
  const text = (row: Compared, outcome: Recovered['outcome'] = 'rolled-back') => {
    const ok = standsAgain([row]);
    const rest = { outcome, upgradeId: 'u', before: ['web on again'], back: null, compared: [row], differences: [] };
    return { ok, said: recoveredText({ ...rest, ok, report: null }) };
  };
  for (const area of ['volume', 'database', 'service'] as const) {
    const { ok, said } = text(unseen(area, 'it', 'as it was', 'forbidden'));
    expect([area, ok]).toEqual([area, false]);
    expect(said).toMatch(/^All is put back that pgleap changed, but not everything is as it was/);
  }
  for (const area of ['route', 'data'] as const) expect(standsAgain([unseen(area, 'it', '1', 'no')])).toBe(true);
  expect(standsAgain([compared('route', 'it', '1', '2')])).toBe(false);
  const { said } = text(compared('volume', 'it', '1', '1'));
  expect(said).toMatch(/^The old world stands again\.\n[^]*Ticked off in the journal before this run: web on again\./);
  expect(text(compared('service', 'it', '1', '2'), 'upgraded').said).toMatch(/^Reopening is finished, but /);
});
