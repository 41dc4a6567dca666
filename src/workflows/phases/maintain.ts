/**
 * maintain: visitors see the maintenance page.
 *
 * 1. When CronJobs' running Jobs have ended: quiesce awaits them first, so that their time is no downtime.
 * 2. Each route pattern to the maintenance Worker, all at once; the prior routes are in the plan.
 * 3. Seen over HTTP: every probe answers from the maintenance Worker.
 *
 * Undone by: each route exactly as it was.
 * Killed here: routes that are ours already are left; the rest follow.
 */
import { condition } from '@temporalio/workflow';
import { act } from '../activities.ts';
import { all, note, resolved, willUndo, type Run } from '../run.ts';

export async function maintain(run: Run): Promise<void> {
  const { world, spec, plan } = resolved(run);
  const { maintenance } = spec;
  if (!maintenance) return note(run, 'maintain', 'no routes in the spec');
  const { routes } = plan.facts;
  const { script } = maintenance;

  await willUndo(
    run,
    ...routes.map((route) => ({
      id: `maintain/${route.pattern}`,
      phase: 'maintain' as const,
      says: `route ${route.pattern} as it was`,
      activity: 'restoreRoute' as const,
      args: { world, route, script },
      last: false,
    })),
  );
  // Registered before what quiesce changes, so that visitors come back when services have.
  if (!run.jobsEnded) note(run, 'maintain', 'waits for running Jobs to end');
  await condition(() => run.jobsEnded);
  await all(routes.map((route) => act('setRoute', `maintenance for ${route.pattern}`, { world, route, script })));

  const { seconds } = await act('verifyRoutes', 'see the maintenance page', { maintenance, expect: 'maintenance' });
  note(run, 'maintain', `${routes.length} routes in maintenance, seen after ${Math.round(seconds)} s`);
}
