/**
 * What a person needs to know to answer a failure: how the world stands, and what each answer would do to it. Both are read
 * from the state alone, from what was registered, done and put back; what nobody knows is said to be unknown.
 */
import { nameKey } from './names.ts';
import type { PhaseName } from './phases.ts';
import type { Spec } from './spec.ts';
import { phaseRow, type Park, type ParkAction, type Prospect, type UpgradeStatus } from './state.ts';
import { clock, placeOf } from './text.ts';
import { undoOrder, type Undo } from './undo.ts';

type Stand = 'never' | 'part' | 'all' | 'undone';

/**
 * What has become of a kind of change: `part` from its registration on, since a change may have been made in part or be put
 * back in part; `all` when its phase is done.
 */
function stand(status: UpgradeStatus, activity: Undo['activity'], phase: PhaseName): Stand {
  const entries = status.undo.filter((undo) => undo.activity === activity);
  if (entries.length === 0) return 'never';
  if (entries.every(({ done }) => done)) return 'undone';
  return phaseRow(status, phase).state === 'done' && entries.every(({ done }) => !done) ? 'all' : 'part';
}

function count(status: UpgradeStatus, activity: Undo['activity']): number {
  return status.undo.filter((undo) => undo.activity === activity).length;
}

/** How the world stands now, a line each, for somebody who has seen nothing of the upgrade. */
export function worldNow(status: UpgradeStatus): string[] {
  const facts = status.plan?.facts;
  if (!facts || !status.world) return ['Nothing was changed yet.'];
  return [
    visitors(status),
    services(status),
    server(status),
    ...volumes(status),
    ...kept(status),
    status.committedAt === null
      ? 'The commit point is not passed: nobody but pgleap has written to the new server, and going back loses nothing.'
      : `The commit point was passed at ${clock(status.committedAt)}: going back would lose what was written since.`,
  ];
}

function visitors(status: UpgradeStatus): string {
  const routes = count(status, 'restoreRoute');
  if (routes === 0) return 'Visitors see the website as ever.';
  if (phaseRow(status, 'unmaintain').state === 'done') return 'Visitors see the website again.';
  switch (stand(status, 'restoreRoute', 'maintain')) {
    case 'all':
      return phaseRow(status, 'unmaintain').state === 'pending'
        ? `Visitors see the maintenance page: ${routes} routes lead there.`
        : `Some of ${routes} routes may still lead to the maintenance page.`;
    case 'part':
      return `Some of ${routes} routes lead to the maintenance page, others may not.`;
    default:
      return 'Routes are as they were before.';
  }
}

function services(status: UpgradeStatus): string {
  const total = count(status, 'restoreService');
  const { from, to } = status.downtime;
  if (phaseRow(status, 'resume').state === 'done') return 'Services are up, at their exact counts, on the new server.';
  if (total === 0) return status.gathered.fence ? 'No service was taken down.' : 'Services are up.';
  const since = from === null ? '' : ` since ${clock(from)}`;
  switch (stand(status, 'restoreService', 'quiesce')) {
    case 'undone':
      return `All ${total} services are up again${to === null ? '' : ` since ${clock(to)}`}, at their exact counts.`;
    case 'all':
      return phaseRow(status, 'resume').state === 'pending'
        ? `${total} services are down${since}.`
        : `Services have been down${since}; some of ${total} may be up again.`;
    default: {
      const back = status.undo.filter(({ activity, done }) => activity === 'restoreService' && done).length;
      return back > 0
        ? `${back} of ${total} services are up again, the others down${since}.`
        : `Some of ${total} services may be down${since}.`;
    }
  }
}

function server(status: UpgradeStatus): string {
  const { gathered } = status;
  if (status.committedAt !== null) {
    return phaseRow(status, 'reopen').state === 'done'
      ? 'The new server runs and is open for writing.'
      : 'The new server is being opened; it may be open for writing already.';
  }
  const template = stand(status, 'restoreTemplate', 'deploy');
  if (template === 'all')
    return 'The new server runs on the new volume, fenced: nobody but pgleap reaches it. The source is stopped.';
  if (template === 'part')
    return 'The workload may have the new image already; its server is fenced. The source is stopped.';
  const fence = stand(status, 'liftSourceFence', 'quiesce');
  const fenced =
    fence === 'never' || fence === 'undone'
      ? 'open, as before'
      : gathered.fence
        ? 'fenced: only pgleap and listed read-only services get in'
        : 'about to be fenced, and may be so already';
  const stopped = stand(status, 'restartSource', 'halt');
  if (stopped === 'all') return `The source is stopped; its pg_hba.conf is ${fenced}.`;
  if (stopped === 'part' && gathered.haltingAt !== null)
    return `The source is being stopped or is stopped; its pg_hba.conf is ${fenced}.`;
  return `The source runs, ${fenced}.`;
}

function volumes(status: UpgradeStatus): string[] {
  const database = status.plan?.facts?.cluster.database;
  if (!database) return [];
  const { claim, volume } = database;
  const { newClaim } = status.gathered;
  const original = `The original volume ${volume.pv} (${volume.handle})`;
  switch (stand(status, 'rebindOriginal', 'replace')) {
    case 'never':
      return [`${original} is bound to claim ${claim.name}; pgleap has not touched its data.`];
    case 'undone':
      return [`${original} is bound to claim ${claim.name} again.`];
    default: {
      const cleanup = phaseRow(status, 'cleanup').state;
      const left =
        cleanup === 'pending' || cleanup === 'skipped'
          ? 'is kept, untouched, under Retain'
          : 'is being removed, as gate cleanup approved';
      return [
        newClaim
          ? `Claim ${claim.name} is bound to the new volume ${newClaim.pv}.`
          : `Claim ${claim.name} is being moved to a new volume.`,
        `${original} ${left}.`,
      ];
    }
  }
}

function kept(status: UpgradeStatus): string[] {
  const { dumpArtifact, clone, cloneActive } = status.gathered;
  return [
    ...(dumpArtifact ? [`The dump is in the artifact store, ${dumpArtifact.name}.`] : []),
    ...(clone && stand(status, 'removeClone', 'clone') !== 'undone'
      ? [`A clone of the original volume, ${clone.label} (${clone.id}), ${cloneActive ? 'is active' : 'is under way'}.`]
      : []),
  ];
}

const repeats: Record<PhaseName, string> = {
  preflight: 'Everything is read again.',
  prepare: 'Candidate, scratch volume and journal are found as they are, or made.',
  rehearse: 'The dump and import of the rehearsal begin anew, in an empty candidate. Services stay up.',
  maintain: 'Each route is looked at, and set where it is not yet.',
  quiesce: 'Services that are not at 0 are stopped, the source is fenced where it is not yet.',
  backup: 'The dump, its fingerprints and its copy are made anew, from the beginning.',
  trial: 'The candidate is emptied, and the import of the dump begins anew.',
  halt: 'The source is stopped where it still runs, and the volume awaited again.',
  clone: 'A clone that this upgrade began is awaited again, or made anew; then gate replace asks again.',
  replace:
    'What must be there is looked at again, then the claim; nothing is replaced twice. An approval that has lapsed is asked for again before that.',
  deploy: 'The workload is looked at, and given the new template where it has it not yet.',
  restore: 'The target is emptied, and copy and import begin anew. The original volume is not touched.',
  verify: 'The target’s fingerprint is taken and compared again.',
  reopen:
    'What must be there is looked at again, and the target is opened where it is not yet. Before the commit point an approval that has lapsed is asked for again.',
  resume: 'Services that are not at their counts are started.',
  observe: 'Services and server are watched again.',
  unmaintain: 'Routes and CronJobs that are not as they were are put back.',
  report: 'The report is written again.',
  cleanup: 'What is still there of clone, original volume and scratch volume is removed.',
};

function retrySays(status: UpgradeStatus, where: Park['phase']): string[] {
  if (where === 'end') return ['Lease and journal are let go of again.'];
  if (where !== 'rollback') return [`Phase ${where} begins again. ${repeats[where]}`];
  const rest = undoOrder(status.undo).flat();
  return [`What failed is tried again, then what is left to put back: ${rest.map(({ says }) => says).join('; ')}.`];
}

function rollbackSays(status: UpgradeStatus): string[] {
  const groups = undoOrder(status.undo);
  return [
    groups.length === 0 ? 'Nothing has to be put back.' : 'Put back, in this order:',
    ...groups.map((group, index) => `${index + 1}. ${group.map(({ says }) => says).join('; ')}`),
    'How long it takes is unknown: nothing of it was measured.',
    'No data is lost: nobody but pgleap has written to the new server. The time spent is: the next upgrade begins anew.',
  ];
}

function abortSays(status: UpgradeStatus): string[] {
  return [
    'Everything stays as it stands now, listed above. The workflow ends, and Lease and journal stay.',
    `Later \`pgleap recover ${placeOf(status.workflowId)}\` puts it back from the journal, ConfigMap pgleap-${status.upgradeId}-journal.`,
  ];
}

/** What each of these answers would do. */
export function prospects(status: UpgradeStatus, where: Park['phase'], options: readonly ParkAction[]): Prospect[] {
  const says = { retry: retrySays, rollback: rollbackSays, abort: abortSays };
  return options.map((action) => ({ action, says: says[action](status, where) }));
}

/** After the commit point, and while everything is being put back already, there is no way back to offer. */
export function parkOptions(status: UpgradeStatus, where: Park['phase']): ParkAction[] {
  const forward = where !== 'rollback' && where !== 'end' && status.committedAt === null && !status.ending;
  return forward ? ['retry', 'rollback', 'abort'] : ['retry', 'abort'];
}

/** What a park answers by itself if nobody does; null when it waits for a person. */
export function failurePolicy(
  status: UpgradeStatus,
  where: Park['phase'],
  options: readonly ParkAction[],
): NonNullable<Spec['onFailure']['default']> | null {
  if (where === 'rollback' || where === 'end') return null;
  const policies: Spec['onFailure'] = status.spec?.onFailure ?? {};
  const policy = (where === 'preflight' ? undefined : policies[where]) ?? policies.default;
  if (!policy || !options.includes(policy.answer)) return null;
  if (policy.answer === 'rollback') return policy;
  const own = ({ phase, action, by }: Park) => phase === where && action === 'retry' && nameKey(by ?? '') === 'policy';
  return status.parked.filter(own).length < policy.times ? policy : null;
}

/** The code by which a system said what is wrong, as far as its message tells. */
export function failureCode(message: string, httpStatus: unknown): string | null {
  if (typeof httpStatus === 'number' && httpStatus >= 100 && httpStatus < 600) return `HTTP ${httpStatus}`;
  const sql =
    /\bSQLSTATE:? ([0-9A-Z]{5})\b/.exec(message) ??
    /\b(?:ERROR|FATAL|PANIC):\s+([0-9A-Z]{5}):/.exec(message) ??
    /\b([0-9A-Z]{5}) at line \d+:/.exec(message);
  if (sql) return `SQLSTATE ${sql[1] ?? ''}`;
  const http = /\b(?:answered|HTTP|status) ([1-5]\d\d)\b/i.exec(message);
  return http ? `HTTP ${http[1] ?? ''}` : null;
}

/** What happens without an answer, in one sentence; null where it waits for a person. */
export function policyText(policy: Park['policy']): string | null {
  if (policy === null) return null;
  return `If nobody answers before ${clock(policy.at)}, the spec’s policy answers ${policy.answer}.`;
}
