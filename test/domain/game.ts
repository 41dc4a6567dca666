/** One upgrade beside its model, and what its phases would change and measure; a world that is only data. */
import { gates, type PhaseName } from '../../src/domain/phases.ts';
import { newStatus, type UpgradeStatus } from '../../src/domain/state.ts';
import type { Undo } from '../../src/domain/undo.ts';
import { tickOff, type Model, type Wanted } from './model.ts';
import { fingerprint, planned } from './status.ts';

export interface Game {
  status: UpgradeStatus;
  model: Model;
  accepted: number;
  /** Makes each fact another one. */
  counter: number;
}

const startedAt = Date.parse('2026-01-01T00:00:00.000Z');

export function now({ model }: Game): string {
  return new Date(startedAt + model.hour * 3_600_000).toISOString();
}

export function newGame(wanted: Wanted): Game {
  return {
    status: newStatus('pgleap/databases/postgres', 'u1234abcd', new Date(startedAt).toISOString(), 'Ada'),
    model: {
      wanted,
      place: 'preflight',
      planned: false,
      hour: 0,
      committed: false,
      yes: [],
      passed: {},
      shown: new Map(),
      park: null,
      changes: [],
    },
    accepted: 0,
    counter: 0,
  };
}

/** What each phase changes outside, and so must be able to put back. */
export const changes: Partial<Record<PhaseName, [id: string, activity: Undo['activity'], last: boolean][]>> = {
  prepare: [
    ['lease', 'releaseLease', true],
    ['retain', 'restoreReclaimPolicy', false],
    ['scratch', 'removeScratch', true],
  ],
  maintain: [
    ['route-a', 'restoreRoute', false],
    ['route-b', 'restoreRoute', false],
  ],
  quiesce: [
    ['web', 'restoreService', false],
    ['api', 'restoreService', false],
    ['fence', 'liftSourceFence', false],
  ],
  halt: [['source', 'restartSource', false]],
  clone: [['clone', 'removeClone', true]],
  replace: [['claim', 'rebindOriginal', false]],
  deploy: [['template', 'restoreTemplate', false]],
};

const imported = (unexpectedCount: number) => ({ expected: [], unexpected: [], unexpectedCount, seconds: 1 });

/** What each phase measures when all goes well. */
export const results: Partial<Record<PhaseName, (game: Game) => void>> = {
  preflight({ status, model }) {
    const { spec, plan, world } = planned();
    const { wanted } = model;
    if (!spec) throw new TypeError('no spec');
    for (const { name } of gates) {
      const policy = wanted.auto.includes(name) ? 'auto' : 'manual';
      spec.gates[name] = { ...spec.gates[name], policy, approvals: wanted.needed };
    }
    spec.approvers = wanted.listed ? ['Ada', 'Grace Hopper', 'Alan'] : [];
    spec.starterMayApprove = wanted.starterMayApprove;
    spec.maxDowntime = '2h';
    if (wanted.goesBackWhenLate) spec.onDowntimeExceeded = 'rollback';
    if (wanted.policy) spec.onFailure = { default: { answer: wanted.policy, after: '2h', times: 2 } };
    Object.assign(status, { spec, plan, world });
    model.planned = true;
  },
  quiesce(game) {
    game.status.downtime.from ??= now(game);
  },
  backup(game) {
    const sha512 = `dump-${(game.counter += 1)}`;
    const { gathered } = game.status;
    gathered.dump = { path: '/dump', compression: 'zstd', bytes: 10, sha512, seconds: 1 };
    gathered.dumpArtifact = { name: 'dump', bytes: 10, sha512 };
    gathered.sourceFingerprint = fingerprint;
    gathered.sourceUnchanged = true;
  },
  trial({ status: { gathered } }) {
    const logins = { tried: 1, failed: [], failedCount: 0 };
    gathered.trial = { dump: gathered.dump?.sha512 ?? '', import: imported(0), fingerprint, equal: true, logins };
  },
  clone(game) {
    const id = (game.counter += 1);
    game.status.gathered.clone = { id, label: `copy-${id}`, sizeGb: 10, region: 'eu' };
    game.status.gathered.cloneActive = true;
  },
  restore({ status }) {
    status.gathered.restored = { import: imported(0), carried: [] };
  },
  verify({ status }) {
    status.gathered.verified = { fingerprint, equal: true };
  },
  reopen(game) {
    game.status.committedAt ??= now(game);
    game.model.committed = true;
  },
  resume(game) {
    game.status.downtime.to = now(game);
  },
};

/** Things that go wrong, or become others, behind the upgrade's back; by number. */
const spoilings: ((game: Game) => void)[] = [
  (game) => Object.assign(game.status.plan ?? {}, { hash: `plan-${(game.counter += 1)}` }),
  ({ status: { gathered } }) => gathered.candidateChecks.push({ id: 'c', status: 'WARNING', message: 'odd' }),
  (game) => game.status.gathered.dump && results.backup?.(game),
  ({ status: { gathered } }) => gathered.dumpArtifact && (gathered.dumpArtifact.sha512 = 'torn'),
  ({ status: { gathered } }) => (gathered.sourceUnchanged = false),
  ({ status: { gathered } }) => gathered.trial && (gathered.trial.equal = false),
  (game) => game.status.gathered.clone && results.clone?.(game),
  ({ status: { gathered } }) => (gathered.cloneActive = false),
  ({ status: { gathered } }) => gathered.verified && (gathered.verified.equal = false),
  ({ status: { gathered } }) => gathered.restored && (gathered.restored = { import: imported(1), carried: [] }),
  ({ status, model }) => {
    const retain = status.undo.find(({ id, done }) => id === 'prepare/retain' && !done);
    if (!retain) return;
    retain.done = true;
    tickOff(model, retain.id);
  },
];

export const spoilingsCount: number = spoilings.length;

export function spoil(game: Game, what: number): void {
  spoilings[what]?.(game);
}

/** Everything measured again, and well. */
export function mend(game: Game): void {
  const { gathered } = game.status;
  if (gathered.dumpArtifact && gathered.dump) gathered.dumpArtifact.sha512 = gathered.dump.sha512;
  if (gathered.dump) gathered.sourceUnchanged = true;
  if (gathered.trial) results.trial?.(game);
  if (gathered.clone) gathered.cloneActive = true;
  if (gathered.restored) results.restore?.(game);
  if (gathered.verified) results.verify?.(game);
}
