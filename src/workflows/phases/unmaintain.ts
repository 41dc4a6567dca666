/**
 * unmaintain: visitors come back.
 *
 * 1. Routes exactly as they were, seen over HTTP.
 * 2. CronJobs on again; a run they missed is announced.
 * 3. What was paused goes on: GitOps, KEDA.
 * 4. One more look at the services, now with traffic.
 *
 * Undone by: nothing; this puts back what maintain and quiesce changed.
 * Killed here: a route that is as it was is found as such.
 */
import { phaseRow } from '../../domain/state.ts';
import { act } from '../activities.ts';
import { suspendable } from './quiesce.ts';
import { openTarget } from './reopen.ts';
import { look } from './observe.ts';
import { all, note, now, resolved, type Run } from '../run.ts';

export async function unmaintain(run: Run): Promise<void> {
  const { world, spec, plan } = resolved(run);
  const { maintenance } = spec;
  if (maintenance) {
    const { script } = maintenance;
    await all(
      plan.facts.routes.map((route) =>
        act('restoreRoute', `route ${route.pattern} as it was`, { world, route, script }),
      ),
    );
    await act('verifyRoutes', 'see the site itself', { maintenance, expect: 'normal' });
  }

  const cronJobs = suspendable(plan.facts.cluster.services);
  const resumed = await all(
    cronJobs.map((service) =>
      act('resumeCronJob', `CronJob ${service.namespace}/${service.name} on again`, { world, service }),
    ),
  );
  run.gathered.missedRuns = cronJobs.flatMap(({ namespace, name }, index) => {
    const missed = resumed[index]?.missed ?? null;
    return missed === null ? [] : [`${namespace}/${name}: ${missed}`];
  });
  for (const missed of run.gathered.missedRuns) run.status.notes.push(`A CronJob missed a run: ${missed}`);

  const { reconcilers } = plan.facts.cluster;
  await all(
    reconcilers.map((reconciler) =>
      act('resumeReconciler', `${reconciler.kind} ${reconciler.namespace}/${reconciler.name} on again`, {
        world,
        reconciler,
      }),
    ),
  );

  if (phaseRow(run.status, 'unmaintain').tries > 1) await openTarget(run);
  run.gathered.observed = await look(run, now());
  note(run, 'unmaintain', `${plan.facts.routes.length} routes and ${cronJobs.length} CronJobs as they were`);
}
