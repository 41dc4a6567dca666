/**
 * `pgleap recover`: an upgrade that was aborted or terminated, or whose Temporal is lost, by its journal in the cluster. Runs the
 * very activities of the worker, without Temporal. Whatever stops it, the same command goes on from there.
 */
import { existsSync } from 'node:fs';
import { hostname, userInfo } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ApplicationFailure } from '@temporalio/common';
import { createActivities } from '../activities/index.ts';
import { writeArtifact } from '../activities/artifacts/store.ts';
import { isFailure, messageOf } from '../activities/errors.ts';
import { createKube, type Kube } from '../activities/kubernetes/client.ts';
import { undosOf } from '../activities/kubernetes/journal.ts';
import { takeOver } from '../activities/kubernetes/lease.ts';
import { seeRebound } from '../activities/kubernetes/old-volume.ts';
import type { SharedActivities } from '../activities/types.ts';
import { UserError } from '../domain/exit-codes.ts';
import type { World } from '../domain/facts.ts';
import {
  cloneKeptText,
  differencesText,
  standsAgain,
  switchedOffText,
  writesText,
  type Back,
  type Compared,
  type OldWorld,
  type Writes,
} from '../domain/old-world.ts';
import { placeOf } from '../domain/text.ts';
import { undoOrder, type RegisteredUndo } from '../domain/undo.ts';
import { readWorkerConfig, type WorkerConfig } from '../worker/config.ts';
import { finishReopening } from '../workflows/finish.ts';
import { goBack, type Way } from '../workflows/go-back.ts';
import { seeFiles, seldom, type SeenFile } from './recover-artifacts.ts';
import { findRecoverable, workflowState } from './recoverable.ts';

/** What a journal says, and what recovering would do. */
export interface Recovery {
  upgradeId: string;
  workflowId: string;
  /** null when there is none that is open, but a Lease. */
  journal: string | null;
  startedAt: string;
  committedAt: string | null;
  /**
   * `back`: to the old world; `finish`: the commit point was passed, so services and visitors are let in again; `release`: nothing
   * but the Lease is left.
   */
  direction: 'back' | 'finish' | 'release';
  steps: { says: string; done: boolean }[];
  /** What services wrote that the way back leaves behind, once it was counted. */
  lost: Writes | null;
  /** Folder of the upgrade's artifacts, when it is on this machine. */
  artifacts: string | null;
  workflow: string;
}

export interface Recovered {
  /** Whether nothing differs, and volume, database and services could be looked at. */
  ok: boolean;
  outcome: 'rolled-back' | 'upgraded' | 'released';
  upgradeId: string;
  /** What had been ticked off in the journal before this run: put back, or kept. */
  before: string[];
  back: Back | null;
  compared: Compared[];
  differences: string[];
  report: string | null;
}

interface Found {
  recovery: Recovery;
  /** What is left of the artifacts. Their checksums are computed only when asked for: a dump can be large. */
  look: (arg: { checksums: boolean; say: (text: string) => void }) => Promise<SeenFile[]>;
  /** Does it. `say` is told of each step. */
  run: (say: (text: string) => void) => Promise<Recovered>;
}

/** A worker learns within seconds that its workflow is gone; what it had under way must be over before anything is put back. */
const settleMs = 15_000;

/**
 * Reads the journal of `<namespace>/<workload>`, or the one named `<namespace>/pgleap-<upgrade id>-journal`. Changes nothing. Throws
 * UserError when there is neither it nor a Lease, or when its workflow runs; `force` says that it does not, where Temporal cannot be asked.
 */
export async function findRecovery(name: string, { force }: { force: boolean }): Promise<Found> {
  const config = readWorkerConfig();
  const kube = createKube(config.kubeConfig);
  const { journal, ...found } = await findRecoverable(kube, placeOf(name));
  const workflow = await workflowState(found.workflowId, force);
  const { committedAt = null, backAt = null } = journal?.head ?? {};
  const direction = journal === null ? 'release' : committedAt !== null && !backAt ? 'finish' : 'back';
  const old = journal?.old ?? null;
  const folder = path.join(old?.artifacts ?? config.artifacts, found.upgradeId);
  const undos = journal === null ? [] : undosOf(journal);
  const recovery: Recovery = {
    ...found,
    journal: journal?.name ?? null,
    committedAt,
    direction,
    steps: stepsOf(direction, undos),
    lost: journal?.head.lost ?? null,
    artifacts: existsSync(folder) ? folder : null,
    workflow: workflow.says,
  };
  return {
    recovery,
    look: async ({ checksums, say }) => {
      if (recovery.artifacts === null || journal === null) return [];
      try {
        return await seeFiles(recovery.artifacts, old?.kept ?? [], checksums ? seldom(say) : null);
      } catch (error) {
        say(`The artifact folder cannot be listed: ${messageOf(error)}`);
        return [];
      }
    },
    run: async (say) => {
      if (direction === 'finish' && old === null) {
        throw new UserError(
          'refused',
          `Journal ${recovery.journal} does not say what to open: finish by hand as docs/rollback.md says.`,
        );
      }
      const left = workflow.endedAt === null ? 0 : workflow.endedAt + settleMs - Date.now();
      if (left > 0) {
        say(`The workflow ended just now: waiting ${Math.ceil(left / 1000)} s until its worker has let go`);
        await sleep(left);
      }
      return recover(config, kube, recovery, { undos, old }, say);
    },
  };
}

function stepsOf(direction: Recovery['direction'], undos: RegisteredUndo[]): Recovery['steps'] {
  if (direction === 'release') return [{ says: 'release the Lease', done: false }];
  if (direction === 'back') {
    const done = undos.filter((undo) => undo.done).map(({ says }) => ({ says, done: true }));
    return [
      ...done,
      ...undoOrder(undos)
        .flat()
        .map(({ says }) => ({ says, done: false })),
    ];
  }
  const again = undos.filter(({ activity }) => /^(restore(Service|CronJob|Route)|resumeReconciler)$/.test(activity));
  return ['open the target', ...again.map(({ says }) => says), 'remove the candidate'].map((says) => ({
    says,
    done: false,
  }));
}

async function recover(
  config: WorkerConfig,
  kube: Kube,
  recovery: Recovery,
  { undos, old }: { undos: RegisteredUndo[]; old: OldWorld | null },
  say: (text: string) => void,
): Promise<Recovered> {
  const { upgradeId, workflowId, startedAt, direction } = recovery;
  const [, namespace = '', name = ''] = workflowId.split('/');
  const lease = undos.find(({ activity }) => activity === 'releaseLease');
  const store = { folder: path.dirname(recovery.artifacts ?? path.join(config.artifacts, upgradeId)), queue: '' };
  const { shared } = createActivities(config, store);
  const way = wayWith(shared, say);
  const world = lease?.args.world ?? { ...(await currentWorld(kube)), upgradeId, startedAt, namespace };
  const renew = await holdLease(kube, world, { name });
  const timer = setInterval(() => void renew().catch(() => undefined), 5000);
  try {
    // The Lease goes last of all: as long as something is left, no other upgrade may begin.
    const others = undos.filter((undo) => undo !== lease);
    const rebound = undos.some(({ activity, done }) => activity === 'rebindOriginal' && done);
    const bound = rebound && old !== null ? await seeRebound(kube, world, old.database) : {};
    const opened = recovery.committedAt !== null;
    const back =
      direction === 'back'
        ? { ...(await goBack(way, { world, undos: others, old, opened, lost: recovery.lost })), ...bound }
        : null;
    const compared = back?.compared ?? (old === null ? [] : await finishReopening(way, { world, undos: others, old }));
    const outcome = ({ back: 'rolled-back', finish: 'upgraded', release: 'released' } as const)[direction];
    const differences = differencesText(compared);
    const recovered: Recovered = {
      ok: standsAgain(compared),
      outcome,
      upgradeId,
      before: recovery.steps.flatMap(({ says, done }) => (done ? [says] : [])),
      back,
      compared,
      differences,
      report: null,
    };
    if (recovery.artifacts !== null) {
      const text = JSON.stringify({ recovery, recovered, at: new Date().toISOString() }, null, 2);
      const file = 'recover.json';
      try {
        await writeArtifact(store, world, file, text);
        recovered.report = path.join(recovery.artifacts, file);
      } catch (error) {
        // All is put back: Lease and journal must not wait for a disk.
        say(`${file} could not be written: ${messageOf(error)}`);
      }
    }
    if (lease) await way.call('journalUndone', 'journal: the Lease', { world, undoId: lease.id });
    clearInterval(timer);
    await way.call('releaseLease', 'release the Lease', {
      world,
      workload: old?.database.workload ?? { kind: 'Deployment', namespace, name, uid: '' },
    });
    if (recovery.journal !== null)
      await way.call('closeJournal', `close the journal as ${outcome}`, { world, outcome });
    return recovered;
  } finally {
    clearInterval(timer);
  }
}

async function currentWorld(kube: Kube): Promise<Pick<World, 'clusterUid'>> {
  const { metadata } = await kube.get('Namespace', { name: 'kube-system' });
  return { clusterUid: metadata?.uid ?? '' };
}

/** Waits for a recovery that was killed a moment ago to count as dead. */
async function holdLease(kube: Kube, world: World, workload: { name: string }): Promise<() => Promise<void>> {
  const holder = `pgleap recover by ${userInfo().username}@${hostname()}:${process.pid}`;
  const deadline = Date.now() + 30_000;
  for (;;) {
    try {
      return await takeOver(kube, world, workload, holder);
    } catch (error) {
      if (
        isFailure(error, 'Locked', 'Conflict') &&
        /pgleap recover by|Conflict/.test(error.message) &&
        Date.now() < deadline
      ) {
        await sleep(1000);
        continue;
      }
      if (isFailure(error, 'Locked')) throw new UserError('alreadyRunning', error.message);
      if (isFailure(error, 'WrongWorld', 'AccessDenied', 'Unreachable'))
        throw new UserError('unreachable', error.message);
      throw error;
    }
  }
}

const attempts = 6;

/** Calls activities as Temporal would: what may pass is tried again with growing pauses. */
function wayWith(shared: SharedActivities, say: (text: string) => void): Way {
  async function perform(name: keyof SharedActivities, arg: unknown, tries: number): Promise<unknown> {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await (shared[name] as (given: unknown) => Promise<unknown>)(arg);
      } catch (error) {
        const final = error instanceof ApplicationFailure && error.nonRetryable === true;
        if (final || attempt >= tries) throw error;
        await sleep(Math.min(1000 * 2 ** (attempt - 1), 15_000));
      }
    }
  }
  return {
    async call(name, says, arg) {
      if (!name.startsWith('journal')) say(says);
      try {
        return (await perform(name, arg, attempts)) as never;
      } catch (error) {
        throw new UserError(
          'upgradeFailed',
          `${says}: ${messageOf(error)}. Mend that, and run the same command again: it goes on where it stopped.`,
          { cause: error },
        );
      }
    },
    async look(name, says, arg) {
      say(says);
      try {
        return { answer: (await perform(name, arg, 2)) as never };
      } catch (error) {
        return { failed: messageOf(error) };
      }
    },
    patched: () => true,
    undone: () => undefined,
    async all(promises) {
      const settled = await Promise.allSettled(promises);
      return settled.map((result) => {
        if (result.status === 'rejected') throw result.reason;
        return result.value;
      });
    },
  };
}

/** The state and what would be done, for people. */
export function recoveryText(recovery: Recovery): string {
  const { upgradeId, workflowId, journal, startedAt, committedAt, direction, steps, lost, workflow } = recovery;
  if (journal === null) {
    return [
      `Upgrade ${upgradeId} of ${workflowId} has held the Lease since ${startedAt}, and has no open journal: nothing was begun, it was over, or`,
      'somebody removed the journal.',
      `Its workflow: ${workflow}.`,
      '',
      'To let another upgrade begin:',
      ...steps.map(({ says }) => `  to ${says}`),
    ].join('\n');
  }
  return [
    `Upgrade ${upgradeId} of ${workflowId}, begun ${startedAt} (journal ${journal}).`,
    `Its workflow: ${workflow}.`,
    committedAt === null
      ? 'The commit point was not passed: nothing is lost by going back.'
      : direction === 'finish'
        ? `The commit point was passed at ${committedAt}: services may have written since, so reopening is finished.`
        : `The commit point was passed at ${committedAt}, and going back nevertheless was begun.`,
    ...(lost === null ? [] : [`Lost with that: ${writesText(lost)}`]),
    '',
    direction === 'back' ? 'To put the old world back:' : 'To finish reopening:',
    ...steps.map(({ says, done }) => `  ${done ? 'done' : '  to'} ${says}`),
    ...(direction === 'finish'
      ? [
          '',
          'The original volume, its clone if it has one, and the scratch volume stay: docs/rollback.md says how to remove them.',
        ]
      : []),
  ].join('\n');
}

/** What came of it, for people. */
export function recoveredText({ ok, outcome, compared, differences, before, back, report }: Recovered): string {
  if (outcome === 'released') return 'The Lease is released. Nothing else was changed.';
  const isBack = outcome === 'rolled-back';
  const stands = isBack ? 'The old world stands again.' : 'The target is open, with services and visitors.';
  const done = isBack ? 'All is put back that pgleap changed' : 'Reopening is finished';
  const equal = compared.filter((one) => one.equal === true).length;
  return [
    ok ? stands : `${done}, but not everything is as it was, or could be looked at.`,
    `Looked at ${compared.length} things: ${equal} are as they were.`,
    ...differences.map((one) => `  ${one}`),
    ...(before.length === 0 ? [] : [`Ticked off in the journal before this run: ${before.join('; ')}.`]),
    ...(back?.volume === 'clone' ? ['The database is on the clone: the original volume was gone.'] : []),
    ...(back?.volume === 'original-static' ? ['The original volume has a new PV: its own was gone.'] : []),
    ...(back?.kept ? [`What was written is kept on volume ${back.kept.handle} (PV ${back.kept.pv}).`] : []),
    ...(back?.cloneKept ? [cloneKeptText(back.cloneKept)] : []),
    ...(back?.lostWrites ? [`Lost: ${writesText(back.lostWrites)}`] : []),
    ...(back && back.switchedOff.length > 0 ? [switchedOffText(back.switchedOff)] : []),
    ...(back?.missedRuns ?? []).map((missed) => `A CronJob missed a run: ${missed}`),
    ...(report === null ? [] : [`Report: ${report}`]),
  ].join('\n');
}
