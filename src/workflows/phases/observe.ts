/**
 * observe: services work with the target, before visitors come back.
 *
 * 1. Begun again: the target in its pod of now. Watch for the spec's time.
 * 2. Each service ready, its log free of database errors; who is connected; query times beside those of the source.
 *
 * Undone by: nothing; it only reads.
 * Killed here: it watches again.
 */
import { ApplicationFailure, sleep } from '@temporalio/workflow';
import { milliseconds } from '../../domain/duration.ts';
import { probeText, probeTimes } from '../../domain/probes.ts';
import { phaseRow, type ObservedFact } from '../../domain/state.ts';
import { act } from '../activities.ts';
import { openTarget } from './reopen.ts';
import { all, needed, note, now, resolved, type Run } from '../run.ts';

export async function observe(run: Run): Promise<void> {
  const { spec, plan } = resolved(run);
  const since = run.status.downtime.to ?? now();
  if (phaseRow(run.status, 'observe').tries > 1) await openTarget(run);
  await sleep(Math.max(milliseconds(spec.observe), 1), { summary: 'watch services' });
  const observed = await look(run, since);
  run.gathered.observed = observed;
  for (const problem of observed.problems) run.status.notes.push(`Seen in a log: ${problem}`);
  const slower = probeTimes(spec.probes, plan.facts.source.probeMs, observed.probeMs).filter((probe) => probe.slower);
  for (const probe of slower) run.status.notes.push(`Slower than before: ${probeText(probe)}`);
  note(
    run,
    'observe',
    `${observed.sessions} sessions, ${Math.round(observed.transactionsPerSecond * 10) / 10} transactions a second, ${observed.problems.length} log lines to look at`,
  );
}

/** One look at everything that uses the database. Throws NotReady naming the services that are not. */
export async function look(run: Run, since: string): Promise<ObservedFact> {
  const { world, spec, plan } = resolved(run);
  const services = plan.facts.cluster.services.filter(
    ({ kind, replicas }) => kind !== 'CronJob' && (replicas ?? 0) > 0,
  );
  const [databaseSeen, servicesSeen] = await all([
    act('observeDatabase', 'look at sessions and query times', {
      spec,
      server: needed(run.gathered.target, 'the target'),
    }),
    all(
      services.map((service) =>
        act('observeService', `look at ${service.namespace}/${service.name}`, { world, service, since }),
      ),
    ),
  ]);
  const notReady = services.filter((_, index) => servicesSeen[index]?.ready === false);
  if (notReady.length > 0) {
    const names = notReady.map(({ namespace, name }) => `${namespace}/${name}`).join(', ');
    throw ApplicationFailure.nonRetryable(`Not ready any more after it was started: ${names}.`, 'NotReady');
  }
  const problems = services.flatMap(({ namespace, name }, index) =>
    (servicesSeen[index]?.logProblems ?? []).map((line) => `${namespace}/${name}: ${line}`),
  );
  return { ...databaseSeen, problems };
}
