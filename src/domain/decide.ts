/**
 * The one reducer for what people send: signals and updates alike. Pure: it reads the state and says what follows; the
 * workflow then records the attempt and acts.
 */
import { gates, type GateName } from './phases.ts';
import { writesText } from './old-world.ts';
import { gateRow, openGate, phaseRow, type ParkAction, type UpgradeStatus } from './state.ts';

export type MessageName = 'approve' | 'reject' | 'resolve' | 'rollback';

export type Message =
  | { name: 'approve' | 'reject'; gate: GateName; by: string; evidence: string | null; note: string | null }
  | { name: 'resolve'; park: string; action: ParkAction; by: string; note: string | null }
  | { name: 'rollback'; by: string; acceptLostWrites: boolean; note: string | null };

export type Effect =
  | { kind: 'gate'; gate: GateName; approved: boolean; by: string; note: string | null }
  | { kind: 'resolve'; park: string; action: ParkAction; by: string }
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

const longest = 500;

function isText(value: unknown): value is string {
  return typeof value === 'string' && value.trim() !== '' && value.length <= longest;
}

function optionalText(value: unknown): value is string | null | undefined {
  return value === undefined || value === null || (typeof value === 'string' && value.length <= longest);
}

/** Reads whatever was sent; a string says what is wrong with it. */
export function readMessage(name: MessageName, input: unknown): Message | string {
  const wrong = (what: string) => `${what} ${name} takes one JSON object: ${shapes[name]}`;
  if (typeof input !== 'object' || input === null || Array.isArray(input)) return wrong('This is no JSON object.');
  const fields = input as Record<string, unknown>;
  const { by, note } = fields;
  if (!isText(by)) return wrong('"by" must be your name.');
  if (!optionalText(note)) return wrong(`"note" must be a text of at most ${longest} characters.`);
  if (name === 'rollback') {
    const accept = fields['acceptLostWrites'];
    if (accept !== undefined && typeof accept !== 'boolean') return wrong('"acceptLostWrites" must be true or false.');
    return { name, by, acceptLostWrites: accept ?? false, note: note ?? null };
  }
  if (name === 'resolve') {
    const { park, action } = fields;
    if (!isText(park)) return wrong('"park" must be the name shown, such as park-1.');
    if (action !== 'retry' && action !== 'rollback' && action !== 'abort') {
      return wrong('"action" must be retry, rollback or abort.');
    }
    return { name, park, action, by, note: note ?? null };
  }
  const gate = gates.find((known) => known.name === fields['gate']);
  if (!gate) return wrong('"gate" must be begin, replace, reopen or cleanup.');
  const evidence = fields['evidence'];
  if (!optionalText(evidence)) return wrong('"evidence" must be the hash shown at the gate.');
  return { name, gate: gate.name, by, evidence: evidence ?? null, note: note ?? null };
}

function refuse(says: string): Decision {
  return { accepted: false, says };
}

function answerGate(status: UpgradeStatus, message: Extract<Message, { name: 'approve' | 'reject' }>): Decision {
  const row = gateRow(status, message.gate);
  if (row.state === 'pending') {
    const open = openGate(status);
    return refuse(
      open
        ? `Gate ${message.gate} is not open; gate ${open.name} is.`
        : `Gate ${message.gate} is not open yet. Nothing waits for an approval now.`,
    );
  }
  if (row.state !== 'open') return refuse(`Gate ${message.gate} was ${row.state} already, by ${row.by ?? 'nobody'}.`);
  const approvers = status.spec?.approvers ?? [];
  if (approvers.length > 0 && !approvers.includes(message.by)) {
    return refuse(`${message.by} is not among the approvers of the spec: ${approvers.join(', ')}.`);
  }
  const hash = row.evidence?.hash ?? '';
  const mayOmit = message.name === 'reject' || status.spec?.gates[message.gate].policy === 'auto';
  if (message.evidence === null ? !mayOmit : message.evidence !== hash) {
    return refuse(
      message.evidence === null
        ? `An approval needs the evidence's hash, so that it means what you saw. At gate ${message.gate} it is ${hash}.`
        : `This evidence is not the one of gate ${message.gate} now, which is ${hash}. Look at it again.`,
    );
  }
  const approved = message.name === 'approve';
  return {
    accepted: true,
    says: `Gate ${message.gate} ${approved ? 'approved' : 'rejected'} by ${message.by}.`,
    effect: { kind: 'gate', gate: message.gate, approved, by: message.by, note: message.note },
  };
}

function answerPark(status: UpgradeStatus, message: Extract<Message, { name: 'resolve' }>): Decision {
  const { park } = status;
  if (!park) return refuse('Nothing is parked now.');
  if (park.id !== message.park) return refuse(`${message.park} is not what is parked now; ${park.id} is.`);
  if (park.action !== null) return refuse(`${park.id} was answered already: ${park.action}.`);
  if (!park.options.includes(message.action)) {
    return refuse(`${park.id} takes ${park.options.join(' or ')}, not ${message.action}.`);
  }
  return {
    accepted: true,
    says: `${park.id}: ${message.action}, by ${message.by}.`,
    effect: { kind: 'resolve', park: park.id, action: message.action, by: message.by },
  };
}

/** Why the upgrade cannot go back any more; null while it can. */
export function whyNoRollback(status: UpgradeStatus, acceptLostWrites: boolean): string | null {
  if (status.stage === 'ended') return 'The upgrade has ended.';
  if (status.ending) return `It is stopping already: ${status.ending.why}`;
  if (status.committedAt === null) return null;
  const { state } = phaseRow(status, 'cleanup');
  if (state !== 'pending' && state !== 'skipped') {
    return 'Cleanup has begun: the original volume and its clone may be gone already.';
  }
  if (acceptLostWrites) return null;
  const written = status.writes === null ? 'How much that is was not counted.' : writesText(status.writes);
  return (
    `The target has been open for writing since ${status.committedAt}: going back would lose what was written since. ${written} ` +
    `The volume that has it would be kept. To go back nevertheless: rollback with acceptLostWrites (pgleap rollback --accept-lost-writes).`
  );
}

/** What one message means in this state. */
export function decide(status: UpgradeStatus, message: Message): Decision {
  if (status.stage === 'ended') return refuse('The upgrade has ended.');
  if (message.name === 'resolve') return answerPark(status, message);
  if (message.name !== 'rollback') {
    return status.ending ? refuse(`The upgrade is stopping: ${status.ending.why}`) : answerGate(status, message);
  }
  const why = whyNoRollback(status, message.acceptLostWrites);
  if (why !== null) return refuse(why);
  return {
    accepted: true,
    says: `Rolling back, asked for by ${message.by}.`,
    effect: { kind: 'rollback', by: message.by, why: message.note ?? `${message.by} asked to roll back` },
  };
}
