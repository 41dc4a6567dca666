/**
 * `rollback` in the midst of each phase of a whole upgrade of the sandbox: it ends in the old world, looked at from outside.
 * Before the commit point no row is lost; after it, it is said how much.
 */
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, describe, expect, test, type TestContext } from 'vitest';
import { countWorkers } from '../../src/client/connection.ts';
import { readSpecFile } from '../../src/client/spec-file.ts';
import { planUpgrade, startUpgrade, upgradeResult } from '../../src/client/upgrades.ts';
import { differencesText } from '../../src/domain/old-world.ts';
import type { PhaseName } from '../../src/domain/phases.ts';
import { downtimeSeconds, phaseRow } from '../../src/domain/state.ts';
import { countAcknowledged } from '../../src/sandbox/demo/proof.ts';
import { follow, patiently, raiseStage } from '../e2e/stage.ts';
import { oldWorld, sceneOf } from '../e2e/world.ts';
import { sampled } from './seed.ts';
import { bundleWorkflows, startStopping } from './stopping.ts';
import { tell } from './table.ts';

interface Row {
  phase: PhaseName;
  /** Null: when the phase is done, while what was kept is kept. */
  activity: string | null;
  opened: boolean;
}

const before = (phase: PhaseName, activity: string): Row => ({ phase, activity, opened: false });
const after = (phase: PhaseName, activity: string | null): Row => ({ phase, activity, opened: true });

const rows: Row[] = [
  before('prepare', 'createCandidate'),
  before('rehearse', 'importDump:rehearsal'),
  before('maintain', 'setRoute'),
  before('quiesce', 'stopService'),
  before('backup', 'dump'),
  before('backup', 'copyOut:dump'),
  before('trial', 'importDump:trial'),
  before('halt', 'haltDatabase'),
  before('clone', 'startClone'),
  before('replace', 'replaceClaim'),
  before('deploy', 'deployTarget'),
  before('restore', 'importDump:restore'),
  before('verify', 'fingerprint:target'),
  before('reopen', 'sweepTarget'),
  after('reopen', 'openTarget'),
  after('resume', 'startService'),
  after('observe', 'observeDatabase'),
  after('unmaintain', 'restoreRoute'),
  after('report', null),
];

/** What nobody could look at. The source’s fingerprint counts from the end of backup, beside which the trial goes on. */
const none = /^fingerprint: not seen \(none was taken before/;
/** Who would take it again; what is looked at instead proves nothing when it has moved. */
const gone = /^fingerprint: not seen \(pod .*candidate is gone|^next transaction id since the fingerprint: not seen/;
const unseen: Partial<Record<PhaseName, RegExp>> = { quiesce: none, backup: none, trial: none, report: gone };

function says({ phase, activity }: Row): string {
  return activity === null ? `after ${phase}` : `${phase}: inside ${activity}`;
}

let workflows = '';
beforeAll(async () => {
  const bundle = await bundleWorkflows();
  workflows = bundle.path;
  return bundle.remove;
});

describe.concurrent('rollback in', () => {
  for (const row of sampled('rollbacks', rows)) {
    test(says(row), { timeout: 900_000 }, (context) => goBack(row, context));
  }
});

async function goBack(row: Row, context: TestContext): Promise<void> {
  const { phase, activity, opened } = row;
  tell(context, 'rollbacks', { in: says(row), 'downtime s': '', 'rows lost': '', 'said to be lost': '' });
  const on = await raiseStage(16, 5, { onTestFinished: context.onTestFinished });
  let workflowId = '';
  let asked: Promise<void> | undefined;
  let askedAt = '';
  const ask = () => {
    askedAt = new Date().toISOString();
    const message = { by: 'chaos', ...(opened ? { acceptLostWrites: true } : {}) };
    return on.session.client.workflow.getHandle(workflowId).signal('rollback', message);
  };
  const { worker, log } = startStopping(on.env, workflows, async (met) => {
    if (asked === undefined && met.activity === activity && met.moment === 'inside') {
      asked = ask();
      await asked.catch(() => undefined);
    }
    return 'g';
  });
  const ended = once(worker, 'exit');
  context.onTestFinished(async () => {
    worker.kill('SIGTERM');
    await ended;
  });
  while ((await countWorkers(on.session)) === 0) {
    expect(worker.exitCode, log()).toBeNull();
    await sleep(100);
  }

  const { input, spec } = await readSpecFile(on.sandbox.upgradeSpec);
  const scene = sceneOf(on, await patiently(() => planUpgrade(on.session, input)));
  const old = await oldWorld(scene);
  const gates = { begin: 'auto', replace: 'auto', reopen: 'auto' };
  const given = { ...input, gates, rehearse: phase === 'rehearse', retention: '1h' };
  ({ workflowId } = await startUpgrade(on.session, given, spec, null));
  if (activity === null) {
    await follow(on, workflowId, 'its retention time', ({ retentionEndsAt }) => retentionEndsAt !== null);
    asked = ask();
  }
  const status = await follow(on, workflowId, 'its end', ({ stage }) => stage === 'ended');
  expect(asked).toBeDefined();
  await asked;

  const result = await upgradeResult(on.session, workflowId);
  expect(result).toMatchObject({ outcome: 'rolled-back', servicesRestored: true, routesRestored: true });
  const differences = differencesText(result.back?.compared ?? []);
  expect(differences.filter((text) => !unseen[phase]?.test(text))).toEqual([]);
  expect(status.committedAt === null).toBe(!opened);
  const { startedAt, endedAt } = phaseRow(status, phase);
  const order = activity === null ? [startedAt, endedAt, askedAt] : [startedAt, askedAt, endedAt];
  expect(order).toEqual(order.toSorted((a, b) => (a ?? '').localeCompare(b ?? '')));
  expect(await oldWorld(scene)).toEqual(old);

  await on.visitor.stop();
  const { missing } = await countAcknowledged(scene, on.visitor.visits.acknowledged);
  const { transactions: told = null, why = null } = result.back?.lostWrites ?? {};
  tell(context, 'rollbacks', {
    in: says(row),
    'downtime s': downtimeSeconds(status, '') ?? '',
    'rows lost': missing,
    'said to be lost': told ?? '',
  });
  if (opened) {
    expect(why).toBeNull();
    expect(told).toBeGreaterThanOrEqual(missing);
  } else {
    expect(missing).toBe(0);
    expect(result.back?.lostWrites).toBeNull();
  }
  expect(worker.exitCode, log()).toBeNull();
}
