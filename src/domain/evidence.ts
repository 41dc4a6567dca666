/** What a person must have seen at each gate. Facts are hashed; times, sizes that vary and forecasts are only shown. */
import type { ServiceFact } from './facts.ts';
import { gates, gatesWithoutClone, type GateName } from './phases.ts';
import { bytesText, duration, firstOf } from './text.ts';
import { canonicalHash } from './hash.ts';
import { onlyWayBack, type PlanFacts } from './plan.ts';
import { versionText } from './versions.ts';
import { downtimeSeconds, type Evidence, type EvidenceItem, type UpgradeStatus } from './state.ts';

interface Parts {
  facts: EvidenceItem[];
  shown: EvidenceItem[];
}

function item(name: string, value: EvidenceItem['value']): EvidenceItem {
  return { name, value };
}

export function serviceText(service: ServiceFact): string {
  const place = `${service.namespace}/${service.name}`;
  if (service.readOnly) return `${place} ${service.kind}, read-only, stays up`;
  if (service.kind === 'CronJob') return `${place} CronJob, ${service.suspended ? 'suspended already' : 'to suspend'}`;
  if (service.hpa !== null) return `${place} ${service.kind}, to 0, its count kept for ${service.hpa}`;
  return `${place} ${service.kind}, ${service.replicas ?? 0} to 0`;
}

function seconds(value: number | null): string {
  return value === null ? 'unknown' : duration(value);
}

/** What a person is asked at a gate. */
export function gateQuestion(status: UpgradeStatus, gate: GateName): string {
  const without = status.spec?.clone === 'none' ? gatesWithoutClone[gate] : undefined;
  return without ?? gates.find(({ name }) => name === gate)?.asks ?? '';
}

/** The clone, or in plain words that there is none and what that means. */
function cloneText({ spec, gathered: { clone } }: UpgradeStatus): string {
  if (spec?.clone === 'none') return `none (the spec says clone: none): ${onlyWayBack}`;
  return clone ? `${clone.label} (${clone.id})` : '';
}

function begin(status: UpgradeStatus, facts: PlanFacts): Parts {
  const { candidate, candidateChecks, rehearsal } = status.gathered;
  const checks = [...(status.plan?.checks ?? []), ...candidateChecks];
  const warnings = checks.filter((check) => check.status === 'WARNING').map((check) => `${check.id}: ${check.message}`);
  return {
    facts: [
      item('plan', status.plan?.hash ?? ''),
      item('cluster', facts.cluster.clusterUid),
      item('database', `${facts.cluster.database.workload.namespace}/${facts.cluster.database.workload.name}`),
      item('from', versionText(facts.source.versionNum)),
      item('to', candidate ? versionText(candidate.versionNum) : ''),
      item('image', status.spec?.target.image ?? ''),
      item('original volume', `${facts.cluster.database.volume.pv} (${facts.cluster.database.volume.handle})`),
      ...(status.spec?.clone === 'none' ? [item('clone', cloneText(status))] : []),
      item('goes down', facts.cluster.services.map(serviceText)),
      item(
        'paused meanwhile',
        facts.cluster.reconcilers.map(({ kind, namespace, name }) => `${kind} ${namespace}/${name}`),
      ),
      item(
        'routes in maintenance',
        facts.routes.map((route) => route.pattern),
      ),
      item('warnings', warnings),
    ],
    shown: [
      item('size of the databases', bytesText(facts.source.bytes)),
      item('downtime predicted', seconds(status.plan?.forecast.downtimeSeconds ?? null)),
      ...(rehearsal
        ? [item('rehearsed', `dump ${seconds(rehearsal.dump.seconds)}, import ${seconds(rehearsal.importSeconds)}`)]
        : []),
      item('longest downtime you accept', status.spec?.maxDowntime ?? 'not set'),
      item(
        'extra cost until cleanup',
        status.plan?.forecast.extraCost == null ? 'unknown' : `US$ ${status.plan.forecast.extraCost.toFixed(2)}`,
      ),
    ],
  };
}

function replace(status: UpgradeStatus, facts: PlanFacts, now: string): Parts {
  const { dump, dumpArtifact, sourceFingerprint, sourceUnchanged, trial } = status.gathered;
  return {
    facts: [
      item('plan', status.plan?.hash ?? ''),
      item('dump SHA-512', dump?.sha512 ?? ''),
      item('dump bytes', dump?.bytes ?? 0),
      item('artifact SHA-512', dumpArtifact?.sha512 ?? ''),
      item('source fingerprint', sourceFingerprint?.sha512 ?? ''),
      item('source unchanged after the dump', sourceUnchanged),
      item('trial imported dump', trial?.dump ?? ''),
      item('trial fingerprint equal', trial?.equal ?? false),
      item('rows', trial?.fingerprint.rows ?? 0),
      item('unexpected import errors', trial?.import.unexpectedCount ?? 0),
      item('logins that failed in the trial', firstOf(trial?.logins.failed ?? [], trial?.logins.failedCount)),
      item('clone', cloneText(status)),
      item('original volume', `${facts.cluster.database.volume.pv} (${facts.cluster.database.volume.handle}), Retain`),
    ],
    shown: [
      item('down so far', seconds(downtimeSeconds(status, now))),
      item('trial import took', seconds(trial?.import.seconds ?? null)),
      item('longest downtime you accept', status.spec?.maxDowntime ?? 'not set'),
    ],
  };
}

function reopen(status: UpgradeStatus, now: string): Parts {
  const { verified, restored, sourceFingerprint, target } = status.gathered;
  return {
    facts: [
      item('plan', status.plan?.hash ?? ''),
      item('source fingerprint', sourceFingerprint?.sha512 ?? ''),
      item('target fingerprint', verified?.fingerprint.sha512 ?? ''),
      item('fingerprints equal', verified?.equal ?? false),
      item('rows', verified?.fingerprint.rows ?? 0),
      item('unexpected import errors', restored?.import.unexpectedCount ?? 0),
      item(
        'settings carried over',
        (restored?.carried ?? [])
          .filter(({ outcome }) => outcome === 'carried')
          .map(({ what, name }) => `${what} ${name}`),
      ),
      item(
        'settings refused: yours to set',
        (restored?.carried ?? [])
          .filter(({ outcome }) => outcome === 'refused')
          .map(({ what, name, why }) => `${what} ${name}: ${why}`),
      ),
    ],
    shown: [
      // Not hashed: the same data in a pod of another name is what was approved.
      item('target pod', target?.pod.name ?? ''),
      item('down so far', seconds(downtimeSeconds(status, now))),
      item('after this', 'services write to the target; going back would lose what they write'),
    ],
  };
}

function cleanup(status: UpgradeStatus, facts: PlanFacts): Parts {
  const { clone } = status.gathered;
  return {
    facts: [
      item('plan', status.plan?.hash ?? ''),
      item('deletes clone', clone ? `${clone.label} (${clone.id})` : 'none was made'),
      item('deletes original volume', `${facts.cluster.database.volume.pv} (${facts.cluster.database.volume.handle})`),
      item('deletes scratch claim', `pgleap-${status.upgradeId}-scratch`),
    ],
    shown: [item('after this', 'only the dump in the artifact store is left of the old database')],
  };
}

const parts: Record<GateName, (status: UpgradeStatus, facts: PlanFacts, now: string) => Parts> = {
  begin,
  replace,
  reopen: (status, _facts, now) => reopen(status, now),
  cleanup,
};

/** The evidence of one gate now. The hash binds an answer to this gate of this upgrade and to these facts. */
export function evidenceFor(gate: GateName, status: UpgradeStatus, facts: PlanFacts, now: string): Evidence {
  const { facts: hashed, shown } = parts[gate](status, facts, now);
  return { hash: canonicalHash({ gate, upgradeId: status.upgradeId, facts: hashed }), facts: hashed, shown };
}
