/**
 * The one reducer for what people send: signals and updates alike. Pure: it reads the state and says what follows; the
 * workflow then records the attempt and acts.
 */
import { whyNoYes, whyNotAnApprover, type GateAnswer } from './approvals.ts';
import { longestText, nameKey, readName, shownText } from './names.ts';
import { gates, type GateName } from './phases.ts';
import { writesText } from './old-world.ts';
import { gateRow, openGate, phaseRow, type ParkAction, type UpgradeStatus } from './state.ts';

export type MessageName = 'approve' | 'reject' | 'resolve' | 'rollback';

export type Message =
  | { name: 'approve' | 'reject'; gate: GateName; by: string; evidence: string | null; note: string | null }
  | { name: 'resolve'; park: string; action: ParkAction; by: string; note: string | null }
  | { name: 'rollback'; by: string; acceptLostWrites: boolean; note: string | null };

export type Effect =
  | ({ kind: 'gate' } & GateAnswer)
  | { kind: 'resolve'; park: string; action: ParkAction; by: string; note: string | null }
  | { kind: 'rollback'; by: string; why: string };

export type Decision = { accepted: true; says: string; effect: Effect } | { accepted: false; says: string };

const shapes: Record<MessageName, string> = {
  approve:
    '{"gate": "begin|replace|reopen|cleanup", "by": "<your name>", "evidence": "<hash shown at the gate>", "note": "optional"}',
  reject:
    '{"gate": "begin|replace|reopen|cleanup", "by": "<your name>", "evidence": "<hash shown at the gate>", "note": "optional"}',
  resolve: '{"park": "park-1", "action": "retry|rollback|abort", "by": "<your name>", "note": "optional"}',
  rollback: '{"by": "<your name>", "note": "optional", "acceptLostWrites": false}',
};

/** The JSON object a message takes, for people. */
export function shapeOf(name: MessageName): string {
  return shapes[name];
}

/** Null for a text that was left out, undefined for what is none. */
function optionalText(value: unknown): string | null | undefined {
  if (value === undefined || value === null) return null;
  return typeof value === 'string' && value.length <= longestText ? shownText(value) || null : undefined;
}

/** Reads whatever was sent; a string says what is wrong with it. */
export function readMessage(name: MessageName, input: unknown): Message | string {
  const wrong = (what: string) => `${what} ${name} takes one JSON object: ${shapes[name]}`;
  if (typeof input !== 'object' || input === null || Array.isArray(input)) return wrong('This is no JSON object.');
  const fields = input as Record<string, unknown>;
  const note = optionalText(fields['note']);
  if (note === undefined) return wrong(`"note" must be a text of at most ${longestText} characters.`);
  if (typeof fields['by'] !== 'string') return wrong('"by" must be your name.');
  const read = readName(fields['by']);
  if (read.name === null) return wrong(`"by" must be your name; it ${read.wrong}.`);
  const by = read.name;
  if (name === 'rollback') {
    const accept = fields['acceptLostWrites'];
    if (accept !== undefined && typeof accept !== 'boolean') return wrong('"acceptLostWrites" must be true or false.');
    return { name, by, acceptLostWrites: accept ?? false, note };
  }
  if (name === 'resolve') {
    const { action } = fields;
    const park = optionalText(fields['park']);
    if (!park) return wrong('"park" must be the name shown, such as park-1.');
    if (action !== 'retry' && action !== 'rollback' && action !== 'abort') {
      return wrong('"action" must be retry, rollback or abort.');
    }
    return { name, park, action, by, note };
  }
  const gate = gates.find((known) => known.name === fields['gate']);
  if (!gate) return wrong('"gate" must be begin, replace, reopen or cleanup.');
  const evidence = optionalText(fields['evidence']);
  if (evidence === undefined) return wrong('"evidence" must be the hash shown at the gate.');
  return { name, gate: gate.name, by, evidence, note };
}

function refuse(says: string): Decision {
  return { accepted: false, says };
}

function atGate(status: UpgradeStatus, message: Extract<Message, { name: 'approve' | 'reject' }>): Decision {
  const row = gateRow(status, message.gate);
  const { gate, by, note } = message;
  if (row.state === 'pending') {
    const open = openGate(status);
    return refuse(
      open
        ? `Gate ${gate} is not open; gate ${open.name} is.`
        : `Gate ${gate} is not open yet. Nothing waits for an approval now.`,
    );
  }
  if (row.state !== 'open') return refuse(`Gate ${gate} was ${row.state} already, by ${row.by ?? 'nobody'}.`);
  const hash = row.evidence?.hash ?? '';
  const mayOmit = message.name === 'reject' || status.spec?.gates[gate].policy === 'auto';
  if (message.evidence === null ? !mayOmit : message.evidence !== hash) {
    return refuse(
      message.evidence === null
        ? `An approval needs the evidence's hash, so that it means what you saw. At gate ${gate} it is ${hash}.`
        : `This evidence is not the one of gate ${gate} now, which is ${hash}. Look at it again.`,
    );
  }
  if (message.name === 'reject') {
    return {
      accepted: true,
      says: `Gate ${gate} rejected by ${by}.`,
      effect: { kind: 'gate', gate, outcome: 'rejected', by, note },
    };
  }
  const why = whyNoYes(status, by);
  if (why !== null) return refuse(why);
  const missing = row.needed - row.approvals.length;
  if (row.approvals.some((approval) => nameKey(approval.by) === nameKey(by))) {
    return refuse(
      `${by} has approved gate ${gate} already, which counts once. Somebody else's yes is needed: ${missing} more.`,
    );
  }
  if (missing > 1) {
    return {
      accepted: true,
      says: `Approval of gate ${gate} by ${by} counts: ${row.approvals.length + 1} of ${row.needed}.`,
      effect: { kind: 'gate', gate, outcome: 'counted', by, note },
    };
  }
  const others = row.approvals.map((approval) => `${approval.by} and `).join('');
  return {
    accepted: true,
    says: `Gate ${gate} approved by ${others}${by}.`,
    effect: { kind: 'gate', gate, outcome: 'approved', by, note },
  };
}

function atPark(status: UpgradeStatus, message: Extract<Message, { name: 'resolve' }>): Decision {
  const { park } = status;
  const { action, by, note } = message;
  if (!park) return refuse('Nothing is parked now.');
  if (park.id !== message.park) return refuse(`${message.park} is not what is parked now; ${park.id} is.`);
  if (park.action !== null)
    return refuse(`${park.id} was answered already: ${park.action}, by ${park.by ?? 'nobody'}.`);
  if (!park.options.includes(action)) {
    return refuse(`${park.id} takes ${park.options.join(' or ')}, not ${action}.`);
  }
  return {
    accepted: true,
    says: `${park.id}: ${action}, by ${by}.`,
    effect: { kind: 'resolve', park: park.id, action, by, note },
  };
}

/** Why the upgrade cannot go back any more; null while it can. */
export function whyNoRollback(status: UpgradeStatus, acceptLostWrites: boolean): string | null {
  if (status.stage === 'ended') return 'The upgrade has ended.';
  if (status.ending) return `It is stopping already: ${status.ending.why}`;
  if (status.committedAt === null) return null;
  const { state } = phaseRow(status, 'cleanup');
  if (state === 'skipped') {
    return 'Gate cleanup was answered, and the upgrade is ending: there is nothing left to stop. The original volume is kept.';
  }
  if (state !== 'pending') {
    return 'Cleanup has begun: the original volume may be gone already.';
  }
  if (acceptLostWrites) return null;
  const written = status.writes === null ? 'How much that is was not counted.' : writesText(status.writes);
  return (
    `The target has been open for writing since ${status.committedAt}: going back would lose what was written since. ${written} ` +
    `The volume that has it would be kept. To go back nevertheless: rollback with acceptLostWrites (pgleap rollback --accept-lost-writes).`
  );
}

/** What one message means in this state. The open gate must have been brought up to now: `refreshOpenGate`. */
export function decide(status: UpgradeStatus, message: Message): Decision {
  if (status.stage === 'ended') return refuse('The upgrade has ended.');
  const stranger = whyNotAnApprover(status, message.by);
  if (stranger !== null) return refuse(stranger);
  if (message.name === 'resolve') return atPark(status, message);
  if (message.name !== 'rollback') {
    return status.ending ? refuse(`The upgrade is stopping: ${status.ending.why}`) : atGate(status, message);
  }
  const why = whyNoRollback(status, message.acceptLostWrites);
  if (why !== null) return refuse(why);
  return {
    accepted: true,
    says: `Rolling back, asked for by ${message.by}.`,
    effect: { kind: 'rollback', by: message.by, why: message.note ?? `${message.by} asked to roll back` },
  };
}
