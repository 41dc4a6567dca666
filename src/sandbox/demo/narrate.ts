/** Tells what the upgrade does while it does it, from query `status`, and brings each gate to a person. */
import { styleText } from 'node:util';
import { setTimeout as sleep } from 'node:timers/promises';
import { cancel, isCancel, select } from '@clack/prompts';
import type { Session } from '../../client/connection.ts';
import { evidenceLines, progressText } from '../../client/text.ts';
import { describeUpgrade, sendMessage, upgradeStatus } from '../../client/upgrades.ts';
import { temporalCommand } from '../../domain/details.ts';
import { gateQuestion } from '../../domain/evidence.ts';
import { duration } from '../../domain/text.ts';
import { UserError } from '../../domain/exit-codes.ts';
import type { PhaseName } from '../../domain/phases.ts';
import { openGate, type GateRow, type PhaseRow, type UpgradeStatus } from '../../domain/state.ts';

/** Why each phase is there: what the phase table does not say. */
const why: Record<PhaseName, string> = {
  preflight: 'Nothing is changed yet; what can be known to fail is found now, and not at night.',
  prepare: 'A throw-away pod of the new version starts beside the old one, to prove the backup in.',
  rehearse: 'The real thing once with services up, so that the downtime is known before.',
  maintain: 'Visitors see a page that says so, and not errors.',
  quiesce: 'Nobody may write while the backup is taken, or those writes would be lost.',
  backup: 'One dump of everything, with its checksum compared on both ends of the copy.',
  trial: 'A backup is one only when it has been restored: that very dump, into the new version, and compared.',
  halt: 'The old server shuts down cleanly; from now on its volume is not written any more.',
  clone: 'A second copy of the old volume, at the provider.',
  replace: 'The claim gets a new, empty volume. The old one stays, untouched.',
  deploy: 'The new version starts on it, fenced: only pgleap gets in.',
  restore: 'The same dump, checked again, goes into the new server, with the settings that lived beside the data.',
  verify: 'Every row, sequence, role and right must be equal to what the old server had.',
  reopen: 'The fence is lifted: the commit point. Up to here, rolling back loses nothing.',
  resume: 'Services come back to exactly the counts that they had.',
  observe: 'Ready is not enough: they must be connected and exchange data.',
  unmaintain: 'Visitors are let in again; routes are exactly as they were.',
  report: 'What was done, by whom it was approved, and the proof.',
  cleanup: 'What was kept to be able to go back is removed.',
};

export interface Terminal {
  /** Where the narration goes. */
  out: NodeJS.WriteStream;
  /** Approves every gate, in this name. */
  yes: boolean;
  /** The line of measured progress that stands there now. */
  progress: string;
  by: string;
}

export function say(terminal: Terminal, text = ''): void {
  terminal.out.write(terminal.progress === '' ? `${text}\n` : `${CLEAR_LINE}${text}\n`);
  terminal.progress = '';
}

const CLEAR_LINE = '\r\u001b[2K';

/** One line that the next one replaces; only where there is somebody to see it move. */
async function showProgress(session: Session, workflowId: string, terminal: Terminal): Promise<void> {
  if (!terminal.out.isTTY) return;
  const { activities } = await describeUpgrade(session, workflowId);
  const lines = activities.flatMap(({ progress }) => (progress === null ? [] : [progressText(progress)]));
  const line = lines
    .sort()
    .join(' ')
    .slice(0, terminal.out.columns - 1);
  if (line === terminal.progress) return;
  terminal.out.write(CLEAR_LINE + style(terminal, 'dim', line));
  terminal.progress = line;
}

export function style(terminal: Terminal, format: Parameters<typeof styleText>[0], text: string): string {
  return styleText(format, text, { stream: terminal.out });
}

export interface Hooks {
  /** Called once, when the plan is known and nothing has been changed yet that a service would notice. */
  planned(status: UpgradeStatus): Promise<void>;
}

/**
 * Follows one upgrade to its end, or to its retention time where that is long. Throws UserError when it is parked and nobody
 * can be asked, `interrupted` when the person leaves; the upgrade itself goes on then.
 */
export async function narrate(
  session: Session,
  workflowId: string,
  terminal: Terminal,
  hooks: Hooks,
): Promise<UpgradeStatus> {
  const told = new Set<string>();
  let planned: Promise<void> | undefined;
  for (;;) {
    const status = await askPatiently(session, workflowId);
    if (planned === undefined && status.plan?.facts) {
      planned = hooks.planned(status);
      // It is awaited at the first gate; until then a failure of it waits, too.
      planned.catch(() => {});
    }
    for (const row of status.phases) tell(terminal, row, told);
    if (status.stage === 'ended' || (status.result !== null && keepsForLong(status))) return status;
    const gate = openGate(status);
    if (status.park !== null && status.park.action === null) {
      await answerPark(session, terminal, status);
    } else if (gate?.evidence && !told.has(`gate ${gate.name}`)) {
      await planned;
      told.add(`gate ${gate.name}`);
      await answerGate(session, terminal, status, gate);
    }
    await showProgress(session, workflowId, terminal);
    await sleep(250);
  }
}

/** A busy machine or a restarted worker may be silent for longer than one question waits: a minute is a reason to give up. */
async function askPatiently(session: Session, workflowId: string): Promise<UpgradeStatus> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await upgradeStatus(session, workflowId);
    } catch (error) {
      if (!(error instanceof UserError && error.exit === 'noWorker') || attempt === 6) throw error;
    }
  }
}

/** Retention of a real upgrade is days; nobody watches a terminal for that. */
function keepsForLong({ retentionEndsAt }: UpgradeStatus): boolean {
  return retentionEndsAt !== null && Date.parse(retentionEndsAt) - Date.now() > 60_000;
}

function tell(terminal: Terminal, row: PhaseRow, told: Set<string>): void {
  if (row.startedAt !== null && row.state !== 'skipped' && !told.has(row.name)) {
    told.add(row.name);
    say(terminal, `${style(terminal, 'cyan', '▸')} ${style(terminal, 'bold', row.name.padEnd(10))} ${why[row.name]}`);
  }
  const ended = row.state === 'done' || row.state === 'stopped';
  if (ended && !told.has(`${row.name} ended`)) {
    told.add(`${row.name} ended`);
    const mark = row.state === 'done' ? style(terminal, 'green', '✔') : style(terminal, 'yellow', '■');
    const took = row.seconds === null ? '' : duration(row.seconds);
    say(terminal, `${mark} ${row.name.padEnd(10)} ${took.padStart(8)}   ${style(terminal, 'dim', row.note ?? '')}`);
  }
}

async function answerGate(session: Session, terminal: Terminal, status: UpgradeStatus, gate: GateRow): Promise<void> {
  const { hash, facts, shown } = gate.evidence ?? { hash: '', facts: [], shown: [] };
  const input = { gate: gate.name, by: terminal.by, evidence: hash };
  say(terminal);
  say(terminal, style(terminal, ['bold', 'yellow'], `◆ gate ${gate.name}: ${gateQuestion(status, gate.name)}`));
  for (const line of evidenceLines([...facts, ...shown])) say(terminal, `  ${line}`);
  say(terminal, `  The same answer with plain temporal:`);
  say(terminal, style(terminal, 'dim', `    ${temporalCommand(status.workflowId, 'approve', input)}`));
  const name = terminal.yes ? 'approve' : await ask(terminal, gate);
  try {
    const says = await sendMessage(session, status.workflowId, name, input);
    say(terminal, style(terminal, name === 'approve' ? 'green' : 'yellow', `  ${says}`));
  } catch (error) {
    if (!(error instanceof UserError && error.exit === 'refused')) throw error;
    // Somebody else may have answered meanwhile, with the command above.
    say(terminal, style(terminal, 'yellow', `  ${error.message}`));
  }
  say(terminal);
}

async function ask(terminal: Terminal, gate: GateRow): Promise<'approve' | 'reject'> {
  const answer = await select<'approve' | 'reject'>({
    message: `Gate ${gate.name}`,
    output: terminal.out,
    options: [
      { value: 'approve', label: 'approve', hint: gate.name === 'cleanup' ? 'remove them' : 'go on' },
      { value: 'reject', label: 'reject', hint: gate.name === 'cleanup' ? 'keep everything' : 'put everything back' },
    ],
  });
  if (!isCancel(answer)) return answer;
  cancel('Ended.', { output: terminal.out });
  throw new UserError('interrupted', `The demo was ended at gate ${gate.name}.`);
}

async function answerPark(session: Session, terminal: Terminal, status: UpgradeStatus): Promise<void> {
  const { park } = status;
  if (park === null) return;
  const what = `Phase ${park.phase} is parked: ${park.type}: ${park.message}`;
  if (terminal.yes) throw new UserError('upgradeFailed', what);
  say(terminal, style(terminal, 'red', what));
  const action = await select({
    message: `What now? (${park.id})`,
    output: terminal.out,
    options: park.options.map((value) => ({ value, label: value })),
  });
  if (isCancel(action)) throw new UserError('interrupted', `The demo was ended while ${park.phase} was parked.`);
  await sendMessage(session, status.workflowId, 'resolve', { park: park.id, action, by: terminal.by });
}
