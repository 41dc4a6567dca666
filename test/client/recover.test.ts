/** What recovering calls and says, without a world: test/e2e/recover.test.ts has a whole one. */
import { expect, test } from 'vitest';
import { oldWorldOf } from '../support/old-world.ts';
import { fakeFacts } from '../workflows/fake-facts.ts';
import type { RegisteredUndo } from '../../src/domain/undo.ts';
import { finishReopening } from '../../src/workflows/finish.ts';
import type { Way } from '../../src/workflows/go-back.ts';

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
