/**
 * quiesce: nobody writes to the source any more.
 *
 * 1. What would start services again paused; then CronJobs suspended, running Jobs awaited; the candidate seen alive. Until
 *    then visitors see the site itself.
 * 2. When they see the maintenance page: all services to 0 at once. Downtime begins.
 * 3. Seen that all of it is still at rest, the source fenced: only pgleap's own logins and listed read-only services get in; other sessions ended and named.
 *
 * Undone by: fence lifted, services at their exact counts, CronJobs as they were; last, what was paused goes on.
 * Killed here: services already at 0 and a fence already up are found as such.
 */
import { condition, patched } from '@temporalio/workflow';
import type { ServiceFact } from '../../domain/facts.ts';
import { phaseRow } from '../../domain/state.ts';
import { firstOf } from '../../domain/text.ts';
import { act } from '../activities.ts';
import { evenIfLost } from '../lost.ts';
import { journalOld } from '../old-world.ts';
import { refreshSource } from '../recheck.ts';
import { candidateUp } from './prepare.ts';
import {
  all,
  atRest,
  database,
  isDone,
  needed,
  note,
  now,
  resolved,
  show,
  source,
  sourceFromCandidate,
  willUndo,
  type Run,
} from '../run.ts';

export async function quiesce(run: Run): Promise<void> {
  await evenIfLost(run, 'quiesce', quiesceOnce);
}

async function quiesceOnce(run: Run): Promise<void> {
  const { world, plan } = resolved(run);
  if (phaseRow(run.status, 'quiesce').tries > 1) await refreshSource(run);
  const cronJobs = suspendable(plan.facts.cluster.services);
  const services = stoppable(plan.facts.cluster.services);
  const { reconcilers } = plan.facts.cluster;

  // As gate begin left it: services may have changed since preflight.
  await journalOld(run);
  await willUndo(
    run,
    ...reconcilers.map((reconciler) => ({
      id: `quiesce/reconciler/${reconciler.kind}/${reconciler.namespace}/${reconciler.name}`,
      phase: 'quiesce' as const,
      says: `${reconciler.kind} ${reconciler.namespace}/${reconciler.name} on again`,
      activity: 'resumeReconciler' as const,
      args: { world, reconciler },
      last: false,
    })),
    ...cronJobs.map((service) => ({
      id: `quiesce/cronjob/${service.namespace}/${service.name}`,
      phase: 'quiesce' as const,
      says: `CronJob ${service.namespace}/${service.name} on again`,
      activity: 'restoreCronJob' as const,
      args: { world, service },
      last: false,
    })),
    ...services.map((service) => ({
      id: `quiesce/service/${service.namespace}/${service.name}`,
      phase: 'quiesce' as const,
      says: `${service.namespace}/${service.name} back to ${service.replicas ?? 0}`,
      activity: 'restoreService' as const,
      args: { world, service },
      last: false,
    })),
  );
  await all(
    reconcilers.map((reconciler) =>
      act('pauseReconciler', `pause ${reconciler.kind} ${reconciler.namespace}/${reconciler.name}`, {
        world,
        reconciler,
      }),
    ),
  );
  const [suspended] = await all([
    all(
      cronJobs.map((service) =>
        act('suspendCronJob', `suspend ${service.namespace}/${service.name}`, { world, service }),
      ),
    ),
    candidateUp(run),
  ]);
  run.jobsEnded = true;
  await condition(() => isDone(run, 'maintain'));

  // Before the first of them is gone: one that is slow to stop must not hide that others are down already.
  if (services.length > 0) run.status.downtime.from ??= now();
  show(run);
  await all(
    services.map((service) => act('stopService', `stop ${service.namespace}/${service.name}`, { world, service })),
  );

  await fence(run, readOnlyLogins(run));
  const { at, ended, endedCount } = needed(run.gathered.fence, 'the fence');
  run.status.downtime.from ??= at;
  await journalOld(run);
  const awaited = suspended.reduce((sum, { runningJobs }) => sum + runningJobs, 0);
  if (ended.length > 0)
    run.status.notes.push(`Sessions ended when the source was fenced: ${firstOf(ended, endedCount).join(', ')}`);
  note(
    run,
    'quiesce',
    `${services.length} services at 0, ${cronJobs.length} CronJobs off, ${awaited} running Jobs awaited, source fenced`,
  );
}

/** Logins that the fence lets in. */
export function readOnlyLogins(run: Run): string[] {
  return resolved(run).plan.facts.cluster.services.flatMap(({ readOnly, login }) =>
    readOnly && login !== null ? [login] : [],
  );
}

/** Fences the source for everybody but the candidate of now and these; again when the candidate has got another address. */
export async function fence(run: Run, logins: string[]): Promise<void> {
  const { world, plan } = resolved(run);
  const { hbaFile } = plan.facts.source;
  await willUndo(run, {
    id: 'quiesce/fence',
    phase: 'quiesce',
    says: 'lift the fence of the source',
    activity: 'liftSourceFence',
    args: { world, database: database(run), hbaFile },
    last: false,
  });
  await act('seeAtRest', 'see that services are still at rest', { world, atRest: atRest(run) });
  run.gathered.fence = await act('fenceSource', 'fence the source', {
    world,
    source: source(run),
    hbaFile,
    candidateIp: needed(run.gathered.candidate, 'the candidate').podIp,
    readOnlyLogins: logins,
  });
}

/**
 * Source and candidate of now, a fence that knows the candidate's address, and a source that answers it: for a phase that is
 * begun again.
 */
export async function quietAgain(run: Run): Promise<void> {
  await refreshSource(run);
  await candidateUp(run);
  await fence(run, readOnlyLogins(run));
  if (!patched('source-answers-again')) return;
  await act('nextTransaction', 'see that the source answers the candidate', { server: sourceFromCandidate(run) });
}

/** Services that go to 0: neither CronJobs nor read-only ones, nor those that have no replicas and get none. */
export function stoppable(services: ServiceFact[]): ServiceFact[] {
  return services.filter(
    ({ kind, readOnly, replicas, hpa }) => kind !== 'CronJob' && !readOnly && ((replicas ?? 0) > 0 || hpa !== null),
  );
}

/** CronJobs that are suspended for the time: neither those that are already, nor read-only ones. */
export function suspendable(services: ServiceFact[]): ServiceFact[] {
  return services.filter(({ kind, readOnly, suspended }) => kind === 'CronJob' && !readOnly && suspended !== true);
}
