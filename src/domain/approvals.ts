/** Whose yes counts at a gate, for how long, and for what: pure, so that query, details, laws and reducer agree. */
import { milliseconds } from './duration.ts';
import { evidenceFor } from './evidence.ts';
import { nameKey } from './names.ts';
import { gates, type GateName } from './phases.ts';
import type { Spec } from './spec.ts';
import { gateRow, openGate, type Attempt, type UpgradeStatus } from './state.ts';

/** What upgrades have whose spec was read before there were these keys: their histories hold it as it was. */
const before = { approvals: 1, approvalLasts: '12h', starterMayApprove: true } as const;

/** What an accepted answer makes of its gate: `counted` is a yes that others must join. */
export interface GateAnswer {
  gate: GateName;
  outcome: 'approved' | 'rejected' | 'counted';
  by: string;
  note: string | null;
}

/** Why this name may not answer at all; null when it may. */
export function whyNotAnApprover(status: UpgradeStatus, by: string): string | null {
  const approvers = status.spec?.approvers ?? [];
  if (approvers.length === 0 || approvers.some((name) => nameKey(name) === nameKey(by))) return null;
  return `${by} is not among the approvers of the spec: ${approvers.join(', ')}.`;
}

/** Why this name may not say yes, though it may say no; null when it may. */
export function whyNoYes(status: UpgradeStatus, by: string): string | null {
  if (status.spec?.starterMayApprove !== false) return null;
  if (status.startedBy === null)
    return 'The spec asks for approvers other than who started it, and who that was is not known.';
  if (nameKey(status.startedBy) !== nameKey(by)) return null;
  return `${by} started this upgrade, and the spec asks for approvers other than who did (starterMayApprove: false).`;
}

/** Why the gates of this spec could never be passed by people; null when they can. Asked before anything is changed. */
export function whyNeverApproved(spec: Spec, startedBy: string | null): string | null {
  if (spec.starterMayApprove ?? before.starterMayApprove) return null;
  const asked = gates.filter(({ name }) => spec.gates[name].policy === 'manual');
  if (asked.length === 0) return null;
  if (startedBy === null) {
    return (
      'The spec says starterMayApprove: false, but not who starts it: pgleap start says so by itself; with plain temporal add ' +
      `--memo 'pgleap={"startedBy": "<your name>"}'.`
    );
  }
  if (spec.approvers.length === 0) return null;
  const left = spec.approvers.filter((name) => nameKey(name) !== nameKey(startedBy)).length;
  const short = asked.find(({ name }) => spec.gates[name].approvals > left);
  if (!short) return null;
  return (
    `Gate ${short.name} needs ${spec.gates[short.name].approvals} approvals, and without ${startedBy}, who started it, ` +
    `${left === 1 ? 'only 1 approver is' : `only ${left} approvers are`} left.`
  );
}

/** How many people must say yes at a gate. */
export function approvalsNeeded({ policy, approvals }: Spec['gates'][GateName]): number {
  return policy === 'auto' ? 1 : (approvals ?? before.approvals);
}

/** When a yes that was given then stops to count. */
export function lapsesAt(spec: Spec, at: string): number {
  return Date.parse(at) + milliseconds(spec.approvalLasts ?? before.approvalLasts);
}

/** When the first of these stops to count; never where nobody was asked. */
export function firstLapse(spec: Spec, approvals: readonly { at: string }[]): number {
  return Math.min(...approvals.map(({ at }) => lapsesAt(spec, at)));
}

/**
 * Brings the open gate up to now: its evidence to the facts of now, which voids every yes for other facts; and out goes each
 * yes that has lapsed. Changes `status`; returns whether the evidence did change, and what was voided, to be recorded and told.
 */
export function refreshOpenGate(status: UpgradeStatus, now: string): { changed: GateName | null; voided: Attempt[] } {
  const row = openGate(status);
  const { spec } = status;
  const facts = status.plan?.facts;
  if (!row || !facts || !spec) return { changed: null, voided: [] };
  const evidence = evidenceFor(row.name, status, facts, now);
  const changed = row.evidence?.hash !== evidence.hash;
  const lapsed = row.approvals.filter(({ at }) => changed || lapsesAt(spec, at) <= Date.parse(now));
  if (changed) row.evidence = evidence;
  row.approvals = row.approvals.filter((approval) => !lapsed.includes(approval));
  const voided = lapsed.map(({ by, note }): Attempt => ({
    at: now,
    how: 'policy',
    message: 'void',
    by,
    gate: row.name,
    accepted: true,
    says: changed
      ? `What ${by} approved at gate ${row.name} is void: the evidence is another now. Look at it again.`
      : `What ${by} approved at gate ${row.name} has lapsed: nothing followed it within ${spec.approvalLasts}.`,
    note,
  }));
  return { changed: changed ? row.name : null, voided };
}

/** Writes an accepted answer into its gate. */
export function answerGate(status: UpgradeStatus, { gate, outcome, by, note }: GateAnswer, at: string): void {
  const row = gateRow(status, gate);
  if (outcome !== 'rejected') row.approvals.push({ by, at, note });
  if (outcome === 'counted') return;
  row.state = outcome;
  row.decidedAt = at;
  row.by = outcome === 'approved' ? row.approvals.map((approval) => approval.by).join(' and ') : by;
  row.note =
    outcome === 'approved' ? row.approvals.flatMap((approval) => approval.note ?? []).join('; ') || null : note;
}

/** `1 of 2 approvals: Ada. 1 more is needed.`; null where one is enough. */
export function approvalsText({ approvals, needed }: { approvals: { by: string }[]; needed: number }): string | null {
  if (needed === 1) return null;
  const names = approvals.map(({ by }) => by).join(', ');
  return `${approvals.length} of ${needed} approvals${names === '' ? '' : `: ${names}`}`;
}
