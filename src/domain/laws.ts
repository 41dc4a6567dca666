/** The laws that a workflow can check by itself, immediately before it does what cannot be taken back. */
import { evidenceFor } from './evidence.ts';
import { nameKey } from './names.ts';
import type { GateName } from './phases.ts';
import { gateRow, type UpgradeStatus } from './state.ts';

/** Whether the gate was passed on the facts of now: a phase that was begun again since may have made others. */
export function isApproved(status: UpgradeStatus, gate: GateName): boolean {
  const { state, evidence, openedAt, approvals, needed } = gateRow(status, gate);
  const facts = status.plan?.facts;
  if (state !== 'approved' || !evidence || !facts) return false;
  const people = new Set(approvals.map(({ by }) => nameKey(by))).size;
  if (status.spec?.gates[gate].policy !== 'auto' && people < needed) return false;
  return evidence.hash === evidenceFor(gate, status, facts, openedAt ?? '').hash;
}

/** What is missing before the original volume may be replaced; empty when nothing is. */
export function missingForReplace(status: UpgradeStatus): string[] {
  const { dump, dumpArtifact, sourceUnchanged, trial, cloneActive } = status.gathered;
  const retained = status.undo.some((undo) => undo.activity === 'restoreReclaimPolicy' && !undo.done);
  const missing: string[] = [];
  if (!dump || dumpArtifact?.sha512 !== dump.sha512) missing.push('a dump whose SHA-512 agrees on both ends');
  if (!sourceUnchanged) missing.push('a source that did not change after the dump');
  if (!trial?.equal || trial.dump !== dump?.sha512)
    missing.push('a trial import of that dump with an equal fingerprint');
  if (status.spec?.clone === 'none') {
    // Its evidence says that there is none; see the approval below.
    if (status.spec.gates.replace.policy !== 'manual') missing.push('a person’s approval of going without a clone');
  } else if (!cloneActive) missing.push('an active clone');
  if (!retained) missing.push('the original volume under Retain');
  if (!isApproved(status, 'replace')) missing.push('an approval of gate replace for what is there now');
  return missing;
}

/** What is missing before the target may be opened for writing. */
export function missingForReopen(status: UpgradeStatus): string[] {
  const { verified, restored } = status.gathered;
  const missing: string[] = [];
  if (!verified?.equal) missing.push('a target whose fingerprint equals the source’s');
  if (restored?.import.unexpectedCount !== 0) missing.push('an import without unexpected errors');
  if (!isApproved(status, 'reopen')) missing.push('an approval of gate reopen for what is there now');
  return missing;
}

/** What is missing before the original volume and its clone may be removed. */
export function missingForCleanup(status: UpgradeStatus): string[] {
  const missing: string[] = [];
  if (status.committedAt === null) missing.push('an upgrade past its commit point');
  if (!isApproved(status, 'cleanup')) missing.push('an approval of gate cleanup for what is there now');
  return missing;
}
