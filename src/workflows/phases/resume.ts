/**
 * resume: services back to their exact counts.
 *
 * 1. All at once; each ready. An HPA takes over from there. Downtime ends with the last.
 *
 * Undone by: nothing; this puts back what quiesce changed.
 * Killed here: a service at its count is found as such.
 */
import { act } from '../activities.ts';
import { stoppable } from './quiesce.ts';
import { all, note, now, resolved, type Run } from '../run.ts';

export async function resume(run: Run): Promise<void> {
  const { world, plan } = resolved(run);
  const services = stoppable(plan.facts.cluster.services);
  const started = await all(
    services.map((service) =>
      act('startService', `${service.namespace}/${service.name} to ${service.replicas ?? 0}`, { world, service }),
    ),
  );
  run.status.downtime.to =
    started
      .map(({ at }) => at)
      .toSorted()
      .at(-1) ?? now();
  note(run, 'resume', `${services.length} services at their exact counts`);
}
