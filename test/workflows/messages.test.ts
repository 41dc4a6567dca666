/** What people may send, and what is refused. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { gateRow } from '../../src/domain/state.ts';
import { oldWorldStands, refusal } from './expectations.ts';
import { startHarness, type Harness } from './harness.ts';
import { keepHistory } from './histories.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness('messages');
});
afterAll(() => harness.close());

describe.concurrent('messages', () => {
  test('updates: wrong gate, stale and missing evidence, wrong approver, malformed, duplicate', async () => {
    const upgrade = await harness.start({ spec: { approvers: ['ada'] } });
    const status = await upgrade.until((seen) => gateRow(seen, 'begin').state === 'open');
    const evidence = gateRow(status, 'begin').evidence?.hash;
    const send = (name: string, input: unknown) =>
      upgrade.handle.executeUpdate<string, [unknown]>(name, { args: [input] });

    expect(await refusal(send('approve', { gate: 'replace', by: 'ada', evidence }))).toContain('gate begin is');
    expect(await refusal(send('approve', { gate: 'begin', by: 'ada', evidence: 'old' }))).toContain(evidence);
    expect(await refusal(send('approve', { gate: 'begin', by: 'ada' }))).toContain('needs the evidence');
    expect(await refusal(send('approve', { gate: 'begin', by: 'eve', evidence }))).toContain('eve is not among');
    expect(await refusal(send('approve', { gate: 'begin', evidence }))).toContain('"by" must be');
    expect(await refusal(send('approve', 'yes'))).toContain('no JSON object');
    expect(await refusal(send('resolve', { park: 'park-1', action: 'retry', by: 'ada' }))).toContain(
      'Nothing is parked',
    );
    expect(gateRow(await upgrade.status(), 'begin').state).toBe('open');

    expect(await upgrade.answer('begin')).toBe('Gate begin approved by ada.');
    expect(await refusal(send('approve', { gate: 'begin', by: 'ada', evidence }))).toContain(
      'was approved already, by ada',
    );
    await send('rollback', { by: 'ada' });
    await upgrade.handle.result();
    oldWorldStands(upgrade);
    const { attempts } = await upgrade.status();
    // What had the wrong shape never reached the history; everything else is kept.
    expect(attempts.map(({ accepted }) => accepted)).toEqual([false, false, false, false, false, true, false, true]);
    await keepHistory(upgrade.handle, 'messages-refused');
  });

  test('signals: bad ones are recorded and shown, good ones work', async () => {
    const upgrade = await harness.start();
    const status = await upgrade.until((seen) => gateRow(seen, 'begin').state === 'open');
    const evidence = gateRow(status, 'begin').evidence?.hash;
    for (const bad of [
      undefined,
      7,
      [],
      {},
      { gate: 'begin' },
      { gate: 'nowhere', by: 'x' },
      { gate: 'begin', by: 'x', evidence: 'y' },
    ]) {
      await upgrade.handle.signal('approve', bad);
    }
    await upgrade.handle.signal('resolve', { park: 1 });
    await upgrade.handle.signal('rollback', { by: '' });
    await upgrade.until(({ attempts }) => attempts.length === 9);
    expect((await upgrade.status()).attempts.every(({ accepted }) => !accepted)).toBe(true);
    await upgrade.handle.signal('reject', { gate: 'begin', by: 'ada', evidence });
    expect(await upgrade.handle.result()).toMatchObject({ outcome: 'rolled-back' });
    oldWorldStands(upgrade);
  });

  test('a message before its gate is open, and one that arrives with the start, open nothing', async () => {
    const upgrade = await harness.start();
    await upgrade.handle.signal('approve', { gate: 'begin', by: 'ada', evidence: 'x' });
    const status = await upgrade.until((seen) => gateRow(seen, 'begin').state === 'open');
    expect(status.attempts[0]).toMatchObject({ accepted: false });
    await upgrade.answer('begin', 'reject');
    await upgrade.handle.result();
  });
});
