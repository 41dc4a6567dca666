/**
 * State to Markdown: the page that Temporal's Web UI shows as an upgrade's current details. It is written for somebody who
 * knows nothing of pgleap and is asked at night to say yes or no. Only CommonMark and tables: the UI renders nothing else.
 */
import { differencesText, writesText, type Back } from './old-world.ts';
import { approvalsText } from './approvals.ts';
import { gateQuestion } from './evidence.ts';
import { budgetText } from './budget.ts';
import { policyText } from './parks.ts';
import { gates, phases, type GateName } from './phases.ts';
import { bytesText, clock, countText, duration } from './text.ts';
import { versionText } from './versions.ts';
import {
  gateWaitSeconds,
  openGate,
  secondsBetween,
  type EvidenceItem,
  type FailedCall,
  type GateRow,
  type ParkAction,
  type PhaseRow,
  type UpgradeStatus,
} from './state.ts';

/** Text of the world inside Markdown: no line breaks, table borders or markup of its own. */
function plain(text: string): string {
  return text
    .replaceAll(/\s+/g, ' ')
    .replaceAll(/[\\`*_[\]<>|#]/g, String.raw`\$&`)
    .trim();
}

function amount(value: number, unit: string): string {
  return unit === 'bytes' ? bytesText(value) : `${countText(value)} ${unit}`;
}

function subject(status: UpgradeStatus): string {
  const facts = status.plan?.facts;
  if (!facts) return status.workflowId;
  const { workload } = facts.cluster.database;
  const to = status.gathered.candidate?.versionNum;
  const toText = to === undefined ? (facts.targetMajor ?? 'a newer version') : versionText(to);
  return `PostgreSQL ${versionText(facts.source.versionNum)} to ${toText}, ${workload.namespace}/${workload.name}`;
}

function running(status: UpgradeStatus): string {
  const names = status.phases.filter(({ state }) => state === 'running').map(({ name }) => name);
  const says = phases.filter(({ name }) => names.includes(name)).map(({ name, says: text }) => `${name} (${text})`);
  return says.length > 0 ? `working on ${says.join(' and ')}` : 'working';
}

function wentBack(back: Back | null): string {
  const differences = differencesText(back?.compared ?? []).length;
  const lost = back?.lostWrites ? ', and what was written after the commit point is lost' : '';
  return differences === 0
    ? `Rolled back: everything is as it was before${lost}.`
    : `Rolled back, but ${differences} of ${back?.compared.length} things are not as before, or were not seen${lost}.`;
}

/** One sentence: where the upgrade is, and what it waits for. */
export function headline(status: UpgradeStatus): string {
  const { result, ending, park } = status;
  const gate = openGate(status);
  if (status.stage === 'ended') {
    if (result?.ok) return 'Upgraded. Nothing is waited for.';
    if (result) return `${wentBack(result.back)} ${result.why ?? ''}`;
    return `Stopped: ${ending?.why ?? 'it failed'}`;
  }
  if (park && park.action === null) {
    return park.phase === 'rollback'
      ? 'Going back has stopped: something failed that trying again did not mend. It waits for a person to say what to do.'
      : `Phase ${park.phase} failed and trying again did not mend it. It waits for a person to say what to do.`;
  }
  if (status.stage === 'rolling-back') return `Going back to how everything was before. ${ending?.why ?? ''}`;
  if (gate) {
    return `Waiting for a person’s yes or no at gate ${gate.name}: ${gateQuestion(status, gate.name)}`;
  }
  if (status.stage === 'waiting' && status.retentionEndsAt !== null) {
    return `Upgraded. ${status.gathered.clone ? 'The old volume and its clone are' : 'The old volume is'} kept until ${status.retentionEndsAt.slice(0, 16).replace('T', ' ')} UTC; then a person is asked whether to remove them.`;
  }
  return `Under way, ${running(status)}. Nothing is waited for.`;
}

function services(status: UpgradeStatus): string {
  const { from, to } = status.downtime;
  if (status.committedAt !== null && to !== null && from !== null) {
    return `Services were down for ${duration(secondsBetween(from, to))}, of which ${duration(gateWaitSeconds(status, to))} was waiting for people.`;
  }
  if (from !== null && to === null) {
    return [`**Services have been down since ${clock(from)}.**`, plain(budgetText(status) ?? '')].join(' ').trim();
  }
  if (from === null) return 'Services are up.';
  return `Services were down for ${duration(secondsBetween(from, to ?? from))}.`;
}

/** The same in lines of at most some 70 characters: the Web UI's pane cuts longer ones off. */
function narrowCommand(workflowId: string, name: string, input: Record<string, unknown>): string[] {
  const json = JSON.stringify(input).replace('"evidence":', '"evidence":\n');
  return [
    `temporal workflow update execute --name ${name} \\`,
    `  --workflow-id '${workflowId}' \\`,
    ...`  --input '${json}'`.split('\n'),
  ];
}

function code(lines: string[]): string {
  return ['```', ...lines, '```'].join('\n');
}

/** The command that sends one message with the plain `temporal` tool. */
export function temporalCommand(workflowId: string, name: string, input: Record<string, unknown>): string {
  return `temporal workflow update execute --workflow-id '${workflowId}' --name ${name} --input '${JSON.stringify(input)}'`;
}

const you = 'YOUR NAME';

function answers(status: UpgradeStatus, gate: GateRow): string[] {
  const evidence = gate.evidence?.hash ?? '';
  const input = { gate: gate.name, by: you, evidence };
  const ways = (name: 'approve' | 'reject') =>
    code([
      ...narrowCommand(status.workflowId, name, input),
      '# or',
      `pgleap ${name} '${status.workflowId}' --gate ${gate.name} \\`,
      `  --by '${you}' --evidence \\`,
      `  ${evidence}`,
    ]);
  return [
    '## What to type',
    `To say **yes** (${yes[gate.name]}):`,
    ways('approve'),
    `To say **no** (${no[gate.name]}):`,
    ways('reject'),
    silence(status, gate.name),
  ];
}

const yes: Record<GateName, string> = {
  begin: 'services go down and the upgrade begins',
  replace: 'the database gets a new, empty volume; the old one stays untouched beside it',
  reopen: 'the new server is opened and services start; after this there is no way back without losing writes',
  cleanup: 'what the question names is deleted for good',
};

const no: Record<GateName, string> = {
  begin: 'nothing goes down, and what was prepared is removed',
  replace: 'everything goes back to how it was',
  reopen: 'everything goes back to how it was; no write is lost',
  cleanup: 'they are kept, and the upgrade ends',
};

function silence(status: UpgradeStatus, name: GateName): string {
  const spec = status.spec;
  const limit = spec?.gates[name].timeLimit;
  const text: string[] = [];
  if (limit !== undefined && name === 'begin') text.push(`Without an answer, the same as no after ${limit}.`);
  else if (limit !== undefined && name === 'cleanup') text.push(`Without an answer, the same as no after ${limit}.`);
  else text.push('Without an answer it waits, and reminds.');
  if ((name === 'replace' || name === 'reopen') && spec?.onDowntimeExceeded === 'rollback' && spec.maxDowntime) {
    text.push(
      `When services have been down for ${spec.maxDowntime}, or would be before it is done, it goes back by itself.`,
    );
  }
  const row = status.gates.find((gate) => gate.name === name);
  const counted = row ? approvalsText(row) : null;
  if (counted !== null) {
    text.push(
      `A yes takes ${row?.needed ?? 1} people within ${spec?.approvalLasts ?? ''}, a no one. So far ${plain(counted)}.`,
    );
  }
  if (spec && spec.approvers.length > 0) text.push(`Who may answer: ${spec.approvers.map(plain).join(', ')}.`);
  if (spec?.starterMayApprove === false) text.push(`Not who started it: ${plain(status.startedBy ?? 'unknown')}.`);
  return text.join(' ');
}

/** The eye compares the beginning; query `status` has the whole. */
function shortHash(text: string): string {
  return /^[0-9a-f]{64,}$/.test(text) ? `${text.slice(0, 24)}…` : plain(text);
}

function list(items: EvidenceItem[]): string[] {
  return items.map(({ name, value }) => {
    if (!Array.isArray(value)) return `- ${plain(name)}: ${shortHash(String(value))}`;
    if (value.length === 0) return `- ${plain(name)}: none`;
    return [`- ${plain(name)}:`, ...value.map((line) => `  - ${plain(line)}`)].join('\n');
  });
}

/** `createClone: clone pvc-1 (HTTP 403)`; null when nothing is known but the message. */
export function failedText({ activity, doing, code: said }: FailedCall): string | null {
  const call = [activity, doing].filter((text) => text !== null && text !== '').join(': ');
  if (call === '' && said === null) return null;
  return `${call === '' ? 'answered' : call}${said === null ? '' : ` (${said})`}`;
}

function parkText(status: UpgradeStatus): string[] {
  const { park } = status;
  if (!park || park.action !== null) return [];
  const call = failedText(park.failed);
  const means = (action: ParkAction) => park.prospects.find((prospect) => prospect.action === action)?.says ?? [];
  return [
    '## What failed',
    ...(call === null ? [] : [plain(call)]),
    `${plain(park.type)}: ${plain(park.message)}`,
    '## How things stand',
    park.world.map((line) => `- ${plain(line)}`).join('\n'),
    '## What to type',
    policyText(park.policy) ?? 'Without an answer it waits, and reminds.',
    ...park.options.flatMap((action) => [
      `To **${action}**:`,
      means(action)
        .map((line) => `- ${plain(line)}`)
        .join('\n'),
      code([
        ...narrowCommand(status.workflowId, 'resolve', { park: park.id, action, by: you }),
        '# or',
        `pgleap resolve '${status.workflowId}' \\`,
        `  --park ${park.id} --action ${action} --by '${you}'`,
      ]),
    ]),
  ];
}

const stateWords: Record<PhaseRow['state'], string> = {
  pending: '',
  running: '**now**',
  parked: '**failed, waits for a person**',
  done: 'done',
  stopped: 'stopped',
  skipped: 'skipped',
};

function took(row: PhaseRow): string {
  if (row.seconds !== null) return duration(row.seconds);
  return row.startedAt === null ? '' : `since ${clock(row.startedAt)}`;
}

function phaseTable(status: UpgradeStatus): string {
  const rows: string[] = [];
  for (const row of status.phases) {
    const gate = status.gates.find(({ name }) => gates.find((known) => known.name === name)?.before === row.name);
    if (gate && gate.state !== 'pending') {
      const by = gate.by === null ? '' : ` by ${plain(gate.by)}`;
      const state = gate.state === 'open' ? '**waiting for a person**' : `${gate.state}${by}`;
      const waited =
        gate.openedAt === null
          ? ''
          : gate.decidedAt === null
            ? `since ${clock(gate.openedAt)}`
            : duration(secondsBetween(gate.openedAt, gate.decidedAt));
      rows.push(`| gate **${gate.name}** | ${state} | ${waited} | ${plain(gate.note ?? '')} |`);
    }
    const says = phases.find(({ name }) => name === row.name)?.says ?? '';
    rows.push(`| ${row.name} | ${stateWords[row.state]} | ${took(row)} | ${plain(row.note ?? says)} |`);
  }
  return ['| phase | state | took | what |', '|---|---|---|---|', ...rows].join('\n');
}

function progressText(status: UpgradeStatus): string[] {
  if (status.progress.length === 0) return [];
  const lines = status.progress.map(({ what, done, total, unit, at }) => {
    const share = total === null || total === 0 ? 'total unknown' : `${Math.floor((done / total) * 100)} %`;
    const of = total === null ? '' : ` of ${amount(total, unit)}`;
    return `- ${plain(what)}: ${amount(done, unit)}${of} (${share}, measured at ${clock(at)})`;
  });
  return ['## Progress', ...lines];
}

const messagesShown = 10;

/** Who said what, and what was answered: the newest ones; query `status` has all. */
function messages(status: UpgradeStatus): string[] {
  const last = status.attempts.slice(-messagesShown);
  if (last.length === 0) return [];
  const more = status.attempts.length + status.attemptsDropped - last.length;
  return [
    '## Messages',
    [
      ...last.map(
        ({ at, message, gate, by, accepted, says, note }) =>
          `- ${clock(at)}, ${accepted ? '' : '**refused**, '}${plain([message, gate].filter(Boolean).join(' '))} by ` +
          `${plain(by ?? 'unknown')}: ${plain(says)}${note === null ? '' : ` “${plain(note)}”`}`,
      ),
      ...(more > 0 ? [`- and ${more} before`] : []),
    ].join('\n'),
  ];
}

function resultText(status: UpgradeStatus): string[] {
  const { result } = status;
  if (!result) return [];
  const lines = [
    `version: ${result.from ?? 'unknown'} to ${result.to ?? 'unknown'}${result.ok ? '' : ', not taken'}`,
    ...(result.ok ? [`fingerprints of old and new server equal: ${result.fingerprintsEqual ? 'yes' : 'no'}`] : []),
    `rows: ${result.rows === null ? 'unknown' : countText(result.rows)}`,
    `services at their exact counts: ${result.servicesRestored ? 'yes' : 'no'}`,
    `routes as they were: ${result.routesRestored ? 'yes' : 'no'}`,
    ...(result.back ? differencesText(result.back.compared).map((one) => `not as before: ${one}`) : []),
    ...(result.back?.lostWrites ? [`lost: ${writesText(result.back.lostWrites)}`] : []),
    ...(result.back?.kept ? [`kept: volume ${result.back.kept.handle} (PV ${result.back.kept.pv})`] : []),
    `files in the artifact store: ${result.artifacts.map(({ name }) => name).join(', ') || 'none'}`,
  ];
  return ['## Result', lines.map((line) => `- ${plain(line)}`).join('\n')];
}

function rollbackHint(status: UpgradeStatus): string[] {
  const canGoBack = status.committedAt === null && !status.ending && status.stage !== 'ended' && status.world !== null;
  if (!canGoBack || openGate(status) || status.park) return [];
  return ['## To stop and go back', code(narrowCommand(status.workflowId, 'rollback', { by: you }))];
}

/** The whole page. Under 20 KB for any upgrade of a few dozen services. */
export function details(status: UpgradeStatus): string {
  const gate = openGate(status);
  const evidence = gate?.evidence;
  return [
    `**${plain(headline(status))}**`,
    `${plain(subject(status))}. ${services(status)}`,
    ...resultText(status),
    ...parkText(status),
    ...(gate && !(status.park && status.park.action === null) ? answers(status, gate) : []),
    ...(evidence
      ? ['## What you should have seen', [...list(evidence.facts), ...list(evidence.shown)].join('\n')]
      : []),
    ...(status.notes.length > 0
      ? [
          '## Worth knowing',
          status.notes
            .slice(-10)
            .map((note) => `- ${plain(note)}`)
            .join('\n'),
        ]
      : []),
    ...progressText(status),
    ...messages(status),
    '## Phases',
    phaseTable(status),
    ...rollbackHint(status),
    `Upgrade ${status.upgradeId} of workflow ${plain(status.workflowId)}, started by ${plain(status.startedBy ?? 'somebody who gave no name')}.`,
  ].join('\n\n');
}
