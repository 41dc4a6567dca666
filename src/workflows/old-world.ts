/** What the journal keeps of the old world, written whenever more of it is known. */
import { condition } from '@temporalio/workflow';
import { milliseconds } from '../domain/duration.ts';
import type { OldWorld } from '../domain/old-world.ts';
import { plannedCloneLabel } from '../domain/plan.ts';
import { act } from './activities.ts';
import { database, resolved, type Run } from './run.ts';

export function oldWorldOf(run: Run): OldWorld {
  const { spec, plan, world } = resolved(run);
  const { status, gathered } = run;
  const { sourceFingerprint, sourceUnchanged, fence, candidate } = gathered;
  const { sha512, rows, seconds } = sourceFingerprint ?? {};
  return {
    database: database(run),
    volume: plan.facts.volume,
    cloneLabel: plannedCloneLabel(spec, plan.facts, world.upgradeId),
    systemIdentifier: plan.facts.source.systemIdentifier,
    services: plan.facts.cluster.services,
    routes: plan.facts.routes,
    maintenance: spec.maintenance ?? null,
    artifacts: plan.facts.artifacts.folder,
    kept: gathered.artifacts,
    maxDowntimeMs: spec.maxDowntime === undefined ? null : milliseconds(spec.maxDowntime),
    downSince: status.downtime.from,
    hba: fence?.hba ?? null,
    candidate: candidate?.pod ?? null,
    fingerprint:
      sha512 === undefined || rows === undefined || seconds === undefined || !sourceUnchanged
        ? null
        : { sha512, rows, seconds },
    quietAt: gathered.quietAt,
    opened: gathered.opened,
  };
}

/** One writer at a time, as with undos. */
export async function journalOld(run: Run): Promise<void> {
  while (run.journalBusy) await condition(() => !run.journalBusy);
  run.journalBusy = true;
  try {
    const { world } = resolved(run);
    await act('journalOld', 'journal: the old world', { world, old: oldWorldOf(run) });
  } finally {
    run.journalBusy = false;
  }
}
