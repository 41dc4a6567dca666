/** What a start may tell the workflow beside the spec, in the memo `pgleap`. All of it is optional. */
import { upsertSearchAttributes, workflowInfo } from '@temporalio/workflow';
import { defineSearchAttributeKey, type Duration } from '@temporalio/common';
import { parseDuration } from '../domain/duration.ts';
import { readName } from '../domain/names.ts';
import { openGate, type UpgradeStatus } from '../domain/state.ts';

interface Options {
  /** Whether PgleapPhase and PgleapWaiting are registered: setting them where they are not would fail the workflow's task. */
  searchAttributes: boolean;
  /** How long the artifact folder may be without a worker before the upgrade parks. */
  artifactPatience: Duration;
  /** Who started it: a claim, as all names are. */
  startedBy: string | null;
}

export function options(): Options {
  const memo = workflowInfo().memo?.['pgleap'];
  const given = typeof memo === 'object' && memo !== null ? (memo as Record<string, unknown>) : {};
  const patience = given['artifactPatience'];
  const by = given['startedBy'];
  return {
    searchAttributes: given['searchAttributes'] === true,
    artifactPatience: (typeof patience === 'string' ? parseDuration(patience) : undefined) ?? '3m',
    startedBy: typeof by === 'string' ? readName(by).name : null,
  };
}

const phaseKey = defineSearchAttributeKey('PgleapPhase', 'KEYWORD');
const waitingKey = defineSearchAttributeKey('PgleapWaiting', 'KEYWORD');

/** Keeps the two optional search attributes up to date; writes only what changed, since each write is an event. */
export function showInSearch(status: UpgradeStatus): void {
  if (!options().searchAttributes) return;
  const running = status.phases.filter(({ state }) => state === 'running').at(-1);
  const phase = status.stage === 'ended' || status.stage === 'rolling-back' ? status.stage : running?.name;
  const waiting = status.park?.id ?? openGate(status)?.name ?? 'nothing';
  const { typedSearchAttributes } = workflowInfo();
  if (phase !== undefined && typedSearchAttributes.get(phaseKey) !== phase) {
    upsertSearchAttributes([{ key: phaseKey, value: phase }]);
  }
  if (typedSearchAttributes.get(waitingKey) !== waiting) upsertSearchAttributes([{ key: waitingKey, value: waiting }]);
}
