/** Status, plan and results as text for a terminal. */
import { cloneKeptText, differencesText, writesText } from '../domain/old-world.ts';
import { styleText } from 'node:util';
import type { Progress } from '../activities/types.ts';
import type { Check, CheckStatus } from '../domain/checks.ts';
import { approvalsText } from '../domain/approvals.ts';
import { budgetText } from '../domain/budget.ts';
import { failedText, headline, temporalCommand } from '../domain/details.ts';
import { bytesText, countText, duration, timeText } from '../domain/text.ts';
import { gateQuestion, serviceText } from '../domain/evidence.ts';
import { policyText } from '../domain/parks.ts';
import { gates } from '../domain/phases.ts';
import type { Plan } from '../domain/plan.ts';
import { versionText } from '../domain/versions.ts';
import {
  downtimeSeconds,
  gateWaitSeconds,
  openGate,
  secondsBetween,
  type Attempt,
  type EvidenceItem,
  type GateRow,
  type Park,
  type UpgradeResult,
  type UpgradeStatus,
} from '../domain/state.ts';

const bold = (text: string) => styleText('bold', text);
const dim = (text: string) => styleText('dim', text);

const tones = {
  PASSED: 'green',
  INFO: 'blue',
  WARNING: 'yellow',
  FAILED: 'red',
  SKIPPED: 'dim',
} as const satisfies Record<CheckStatus, string>;

/** Columns as wide as their longest cell; the last one is left alone. */
function table(rows: string[][]): string {
  const widths: number[] = [];
  for (const row of rows) row.forEach((cell, index) => (widths[index] = Math.max(widths[index] ?? 0, cell.length)));
  return rows
    .map((row) =>
      row.map((cell, index) => (index === row.length - 1 ? cell : cell.padEnd(widths[index] ?? 0))).join('  '),
    )
    .map((line) => line.trimEnd())
    .join('\n');
}

/** One check a paragraph; remedies where something has to be done. */
export function checksText(checks: readonly Check[]): string {
  const order: CheckStatus[] = ['FAILED', 'WARNING', 'INFO', 'PASSED', 'SKIPPED'];
  return order
    .flatMap((status) => checks.filter((check) => check.status === status))
    .map(({ id, status, message, remedy }) => {
      const line = `${styleText(tones[status], status.padEnd(7))}  ${message} ${dim(`[${id}]`)}`;
      return remedy !== undefined && (status === 'FAILED' || status === 'WARNING')
        ? `${line}\n         → ${remedy}`
        : line;
    })
    .join('\n');
}

/** The plan: what would happen, to what, at which price. */
export function planText(plan: Plan): string {
  const failed = plan.checks.filter(({ status }) => status === 'FAILED').length;
  const verdict =
    failed > 0
      ? styleText(
          'red',
          `${failed} ${failed === 1 ? 'check' : 'checks'} FAILED: an upgrade would be refused. Nothing was changed.`,
        )
      : styleText('green', 'An upgrade may begin. Nothing was changed.');
  const { facts } = plan;
  if (!facts) return [checksText(plan.checks), '', verdict].join('\n');
  const { database, services } = facts.cluster;
  const { workload, volume } = database;
  const rows = [
    ['database', `${workload.kind} ${workload.namespace}/${workload.name} on ${facts.cluster.server}`],
    ['version', `${versionText(facts.source.versionNum)} to ${facts.targetMajor ?? 'what the image holds'}`],
    [
      'data',
      `${bytesText(facts.source.bytes)}, ${countText(facts.source.tables)} tables in ${facts.source.databases} databases`,
    ],
    [
      'volume',
      `${volume.pv} (${volume.handle})${facts.volume ? `, ${facts.volume.sizeGb} GB in ${facts.volume.region}` : ''}`,
    ],
    [
      'extra cost',
      plan.forecast.extraCost === null ? 'unknown' : `US$ ${plan.forecast.extraCost.toFixed(2)} until cleanup`,
    ],
    [
      'downtime',
      plan.forecast.downtimeSeconds === null ? 'unknown without a rehearsal' : duration(plan.forecast.downtimeSeconds),
    ],
    ...services.map((service, index) => [index === 0 ? 'goes down' : '', serviceText(service)]),
    ...facts.routes.map((route, index) => [index === 0 ? 'maintenance' : '', route.pattern]),
    ['plan', plan.hash ?? ''],
  ];
  return [table(rows), '', checksText(plan.checks), '', verdict].join('\n');
}

/** The newest ones; with --json there are all that were kept. */
const messagesShown = 10;

function attemptText({ at, message, gate, by, accepted, says, note }: Attempt): string {
  const what = [message, gate].filter((text) => text !== null).join(' ');
  const outcome = accepted ? '' : `${styleText('yellow', 'refused')}: `;
  return `  ${timeText(at)}  ${what} by ${by ?? 'unknown'}: ${outcome}${says}${note === null ? '' : ` “${note}”`}`;
}

/** Everything that `pgleap status` shows. */
export function statusText(status: UpgradeStatus, now: string): string {
  const gate = openGate(status);
  return [
    titleText(status),
    bold(headline(status)),
    downtimeText(status, now),
    ...(status.downtime.to === null ? [budgetText(status) ?? []].flat() : []),
    '',
    phaseTable(status, now),
    ...(status.progress.length > 0 && status.stage !== 'ended'
      ? ['', ...status.progress.map((progress) => progressText(progress))]
      : []),
    ...(gate ? ['', gateText(status, gate)] : []),
    ...(status.park && status.park.action === null ? ['', parkText(status.workflowId, status.park)] : []),
    ...(status.attempts.length > 0
      ? [
          '',
          bold('Messages'),
          ...(status.attemptsDropped > 0
            ? [`  ${status.attemptsDropped} refused ones, the oldest, were not kept`]
            : []),
          ...status.attempts.slice(-messagesShown).map(attemptText),
        ]
      : []),
    ...(status.notes.length > 0
      ? ['', bold('Worth knowing'), ...status.notes.slice(-10).map((note) => `  ${note}`)]
      : []),
  ].join('\n');
}

export function titleText(status: UpgradeStatus): string {
  const facts = status.plan?.facts;
  const to = status.gathered.candidate?.versionNum;
  const versions = facts
    ? `PostgreSQL ${versionText(facts.source.versionNum)} to ${to === undefined ? (facts.targetMajor ?? '?') : versionText(to)}, `
    : '';
  return `${versions}${status.workflowId} ${dim(`(upgrade ${status.upgradeId}${status.startedBy === null ? '' : `, started by ${status.startedBy}`})`)}`;
}

function downtimeText(status: UpgradeStatus, now: string): string {
  const down = downtimeSeconds(status, now);
  if (down === null) return 'Services are up.';
  const waited = gateWaitSeconds(status, now);
  const verb = status.downtime.to === null ? 'have been' : 'were';
  return `Services ${verb} down for ${duration(down)}${waited > 0 ? `, ${duration(waited)} of it waiting for people` : ''}.`;
}

function phaseTable(status: UpgradeStatus, now: string): string {
  const rows = status.phases.flatMap((row) => {
    const name = gates.find((gate) => gate.before === row.name)?.name;
    const gate = status.gates.find((one) => one.name === name && one.state !== 'pending');
    const took =
      row.seconds ?? (row.startedAt !== null && row.endedAt === null ? secondsBetween(row.startedAt, now) : null);
    const phase = [row.name, row.state, took === null ? '' : duration(took), row.note ?? ''];
    return gate ? [gateCells(gate, now), phase] : [phase];
  });
  return table([['PHASE', 'STATE', 'TOOK', ''], ...rows]);
}

function gateCells(gate: GateRow, now: string): string[] {
  const waited = gate.openedAt === null ? '' : duration(secondsBetween(gate.openedAt, gate.decidedAt ?? now));
  const state = gate.state === 'open' ? 'WAITS' : `${gate.state} by ${gate.by ?? 'nobody'}`;
  return [`gate ${gate.name}`, state, waited, gate.note ?? ''];
}

/** The evidence of an open gate, and the exact commands to answer it. */
export function gateText(status: UpgradeStatus, gate: GateRow): string {
  const { evidence } = gate;
  const hash = evidence?.hash ?? '';
  const answer = (name: 'approve' | 'reject') => [
    `  pgleap ${name} '${status.workflowId}' --gate ${gate.name} --evidence ${hash} --by 'YOUR NAME'`,
    `  ${temporalCommand(status.workflowId, name, { gate: gate.name, by: 'YOUR NAME', evidence: hash })}`,
  ];
  return [
    bold(`Gate ${gate.name}: ${gateQuestion(status, gate.name)}`),
    ...(evidence ? evidenceLines([...evidence.facts, ...evidence.shown]) : []),
    '',
    'To say yes, either of:',
    ...answer('approve'),
    'To say no:',
    ...answer('reject'),
    ...[approvalsText(gate) ?? []].flat(),
  ].join('\n');
}

/** One line a value, names in a column of their own. */
export function evidenceLines(items: EvidenceItem[]): string[] {
  const width = Math.max(...items.map(({ name }) => name.length));
  return items.flatMap(({ name, value }) => {
    const values = Array.isArray(value) ? (value.length === 0 ? ['none'] : value) : [String(value)];
    return values.map((text, index) => `  ${(index === 0 ? name : '').padEnd(width)}  ${text}`);
  });
}

/** What failed, how things stand, and what each answer would do, with its command. */
export function parkText(workflowId: string, park: Park): string {
  const call = failedText(park.failed);
  const where = park.phase === 'rollback' ? 'Going back' : `Phase ${park.phase}`;
  return [
    bold(`${where} failed, and trying again did not mend it (${park.id}).`),
    ...(call === null ? [] : [`  ${call}`]),
    `  ${park.type}: ${park.message}`,
    bold('How things stand'),
    ...park.world.map((line) => `  ${line}`),
    ...park.prospects.flatMap(({ action, says }) => [
      bold(`To ${action}`),
      ...says.map((line) => `  ${line}`),
      `  pgleap resolve '${workflowId}' --park ${park.id} --action ${action} --by 'YOUR NAME'`,
    ]),
    ...[policyText(park.policy) ?? []].flat(),
  ].join('\n');
}

/** `dump  123.4 MB of 400 MB (31 %)`, with rate and time left when they are known. */
export function progressText(progress: Progress, perSecond: number | null = null): string {
  const { what, done, total, unit } = progress;
  const amount = (value: number) => (unit === 'bytes' ? bytesText(value) : `${countText(Math.round(value))} ${unit}`);
  const share = total !== null && total > 0 ? ` of ${amount(total)} (${Math.floor((100 * done) / total)} %)` : '';
  const rate = perSecond !== null && perSecond > 0 ? `, ${amount(perSecond)}/s` : '';
  const left =
    total !== null && perSecond !== null && perSecond > 0 && total > done ? (total - done) / perSecond : null;
  return `  ${what}  ${amount(done)}${share}${rate}${left === null ? '' : `, about ${duration(left)} left`}`;
}

/** How it ended, in a few lines. */
export function resultText(result: UpgradeResult): string {
  if (!result.ok) {
    const compared = result.back?.compared ?? [];
    const differences = differencesText(compared);
    const lost = result.back?.lostWrites;
    return [
      `${styleText('yellow', 'Rolled back')}. ${result.why ?? ''}`.trim(),
      compared.length === 0
        ? 'Nothing had been changed.'
        : differences.length === 0
          ? `Everything that was looked at (${compared.length} things) is as it was before.`
          : `Of ${compared.length} things that were looked at, all are as they were before but:`,
      ...differences.map((one) => `  ${one}`),
      ...(lost ? [`Lost: ${writesText(lost)}`] : []),
      ...(result.back?.kept ? [`It is kept on volume ${result.back.kept.handle} (PV ${result.back.kept.pv}).`] : []),
      ...(result.back?.cloneKept ? [cloneKeptText(result.back.cloneKept)] : []),
    ].join('\n');
  }
  const rows = [
    ['version', `${result.from ?? 'unknown'} to ${result.to ?? 'unknown'}`],
    ['rows', result.rows === null ? 'unknown' : countText(result.rows)],
    ['fingerprints', result.fingerprintsEqual ? 'equal' : 'DIFFERENT'],
    ['services', result.servicesRestored ? 'all at their exact counts again' : 'NOT all restored'],
    ['routes', result.routesRestored ? 'as they were' : 'NOT all restored'],
    [
      'downtime',
      result.downtimeSeconds === null
        ? 'none'
        : `${duration(result.downtimeSeconds)}, ${duration(result.gateWaitSeconds)} of it waiting for people`,
    ],
  ];
  return `${styleText('green', 'Upgraded')}\n${table(rows)}`;
}
