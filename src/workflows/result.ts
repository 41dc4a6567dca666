import { isAsBefore } from '../domain/old-world.ts';
import { versionText } from '../domain/versions.ts';
import { downtimeSeconds, gateWaitSeconds, phaseRow, type UpgradeResult } from '../domain/state.ts';
import { now, type Run } from './run.ts';

/** What the workflow returns and query `report` answers. */
export function makeResult(run: Run, outcome: UpgradeResult['outcome']): UpgradeResult {
  const { status, gathered } = run;
  const { facts } = status.plan ?? { facts: null };
  const upgraded = outcome === 'upgraded';
  const seen = status.back?.compared ?? [];
  return {
    ok: upgraded,
    outcome,
    why: status.ending?.why ?? null,
    workflowId: status.workflowId,
    upgradeId: status.upgradeId,
    strategy: status.spec?.strategy ?? 'runbook',
    from: facts ? versionText(facts.source.versionNum) : null,
    to: gathered.candidate ? versionText(gathered.candidate.versionNum) : null,
    rows: gathered.verified?.fingerprint.rows ?? gathered.sourceFingerprint?.rows ?? null,
    fingerprintsEqual: gathered.verified?.equal ?? false,
    servicesRestored: upgraded ? phaseRow(status, 'resume').state === 'done' : isAsBefore(seen, 'service'),
    routesRestored: upgraded ? phaseRow(status, 'unmaintain').state === 'done' : isAsBefore(seen, 'route'),
    back: status.back,
    downtimeSeconds: downtimeSeconds(status, now()),
    gateWaitSeconds: gateWaitSeconds(status, now()),
    phases: status.phases.flatMap(({ name, seconds }) => (seconds === null ? [] : [{ name, seconds }])),
    artifacts: gathered.artifacts,
  };
}
