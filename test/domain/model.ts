/**
 * A second, much simpler account of an upgrade, to compare the domain's functions with: what was approved by whom on which
 * facts, what was changed and must be put back, which answers count now. Written from the laws, not from the code: it shares
 * no rule with src/domain, so that the two can disagree.
 */
import { expect } from 'vitest';
import type { Message } from '../../src/domain/decide.ts';
import type { GateName, PhaseName } from '../../src/domain/phases.ts';
import type { ParkAction, UpgradeStatus } from '../../src/domain/state.ts';

/** Each person, in some ways to write the name. Ada starts the upgrade; Eve is on no list of approvers. */
export const people = [
  ['Ada', 'ada', '  ADA ', 'Ａda'],
  ['Grace Hopper', 'grace  hopper', 'GRACE HOPPER', ' Grace Hopper'],
  ['Alan', 'alan', 'ALAN', 'alan '],
  ['Eve', 'eve', 'EVE', ' eve'],
] as const;

/** What the operator wanted. */
export interface Wanted {
  listed: boolean;
  starterMayApprove: boolean;
  needed: number;
  auto: readonly GateName[];
  policy: 'retry' | 'rollback' | null;
  goesBackWhenLate: boolean;
}

/** The route of strategy `runbook`; a gate stands before what it opens. */
export const route = [
  'preflight',
  'prepare',
  'gate begin',
  'maintain',
  'quiesce',
  'backup',
  'trial',
  'halt',
  'clone',
  'gate replace',
  'replace',
  'deploy',
  'restore',
  'verify',
  'gate reopen',
  'reopen',
  'resume',
  'observe',
  'unmaintain',
  'report',
  'gate cleanup',
  'cleanup',
] as const satisfies readonly (PhaseName | `gate ${GateName}`)[];

/** Where the upgrade is; `back`: everything is being put back; `closing`: nothing is left to do but to let go. */
export type Place = (typeof route)[number] | 'back' | 'closing' | 'ended';

export interface Model {
  wanted: Wanted;
  place: Place;
  /** The spec is known: who may answer is not, before. */
  planned: boolean;
  /** Hours since the start. */
  hour: number;
  committed: boolean;
  yes: { person: number; facts: string; hour: number }[];
  /** The facts each gate was passed on. */
  passed: Partial<Record<GateName, string>>;
  /** Each hash that was ever shown, and what it stood for. */
  shown: Map<string, string>;
  park: { id: string; options: ParkAction[] } | null;
  changes: { id: string; last: boolean; undone: boolean }[];
}

export function openGateOf({ place }: Model): GateName | null {
  return place.startsWith('gate ') ? (place.slice(5) as GateName) : null;
}

/** What people must have seen at a gate, as plain text instead of a hash. */
export function factsOf(gate: GateName, { plan, gathered }: UpgradeStatus): string {
  const { candidateChecks, dump, dumpArtifact, sourceFingerprint, sourceUnchanged, trial } = gathered;
  const { clone, verified, restored } = gathered;
  const own = {
    begin: [candidateChecks.map(({ message }) => message)],
    replace: [
      [dump?.sha512, dumpArtifact?.sha512, sourceFingerprint?.sha512, sourceUnchanged],
      [trial?.dump, trial?.equal, clone?.id],
    ],
    reopen: [
      sourceFingerprint?.sha512,
      verified?.fingerprint.sha512,
      verified?.equal,
      restored?.import.unexpectedCount,
    ],
    cleanup: [clone?.id],
  };
  return JSON.stringify([gate, plan?.hash, own[gate]]);
}

const yesLasts = 12;

export function hasLapsed(model: Model, hour: number): boolean {
  return model.hour - hour >= yesLasts;
}

/** Every yes that does not count any more goes; returns whose. */
export function forget(model: Model, facts: string): number[] {
  const gone = model.yes.filter((yes) => yes.facts !== facts || hasLapsed(model, yes.hour));
  model.yes = model.yes.filter((yes) => !gone.includes(yes));
  return gone.map(({ person }) => person);
}

/** What a message must come to. */
export type Outcome = 'refused' | 'counted' | 'approved' | 'rejected' | ParkAction;

/** What this message of this person must come to now. */
export function outcomeOf(model: Model, status: UpgradeStatus, message: Message, person: number): Outcome {
  const { wanted, place, planned } = model;
  if (place === 'ended') return 'refused';
  if (wanted.listed && planned && person === 3) return 'refused';
  switch (message.name) {
    case 'resolve':
      return model.park?.id === message.park && model.park.options.includes(message.action)
        ? message.action
        : 'refused';
    case 'rollback':
      return mayGoBack(model, message.acceptLostWrites) ? 'rollback' : 'refused';
    default: {
      const gate = openGateOf(model);
      if (gate === null || gate !== message.gate) return 'refused';
      const facts = factsOf(gate, status);
      if (message.evidence !== null && model.shown.get(message.evidence) !== facts) return 'refused';
      if (message.name === 'reject') return 'rejected';
      if (message.evidence === null) return 'refused';
      if (person === 0 && !wanted.starterMayApprove) return 'refused';
      if (model.yes.some((yes) => yes.person === person)) return 'refused';
      return model.yes.length + 1 === wanted.needed ? 'approved' : 'counted';
    }
  }
}

/** Always before the commit point, after it with an explicit yes, and never when the way back is being removed or over. */
export function mayGoBack({ place, committed }: Model, acceptLostWrites: boolean): boolean {
  if (place === 'back' || place === 'closing' || place === 'ended' || place === 'cleanup') return false;
  return !committed || acceptLostWrites;
}

/** Which answers a failure here must offer. */
export function optionsOf({ place, committed }: Model): ParkAction[] {
  const forward = place !== 'back' && place !== 'closing' && !committed;
  return forward ? ['retry', 'rollback', 'abort'] : ['retry', 'abort'];
}

/** Whether what cannot be taken back may be done. */
export function mayDestroy(phase: 'replace' | 'reopen' | 'cleanup', model: Model, status: UpgradeStatus): boolean {
  const { dump, dumpArtifact, sourceUnchanged, trial, cloneActive, verified, restored } = status.gathered;
  if (model.passed[phase] !== factsOf(phase, status)) return false;
  if (phase === 'cleanup') return model.committed;
  if (phase === 'reopen') return verified?.equal === true && restored?.import.unexpectedCount === 0;
  const proven = dump !== null && dumpArtifact?.sha512 === dump.sha512 && trial?.dump === dump.sha512 && trial.equal;
  const retained = model.changes.some(({ id, undone }) => id === 'prepare/retain' && !undone);
  return proven && sourceUnchanged && cloneActive && retained;
}

/** What is left to put back, in its order: last change first, what only costs money at the end. */
export function leftToUndo({ changes }: Model): string[] {
  const left = changes.filter(({ undone }) => !undone).toReversed();
  return [...left.filter(({ last }) => !last), ...left.filter(({ last }) => last)].map(({ id }) => id);
}

export function tickOff(model: Model, id: string): void {
  const change = model.changes.find((known) => known.id === id);
  expect(change?.undone, `${id} is undone once`).toBe(false);
  if (change) change.undone = true;
}

/** The same value, that throws when anybody changes it. */
export function readOnly<T extends object>(value: T): T {
  const never = (): never => {
    throw new TypeError('the state was changed by what only reads it');
  };
  return new Proxy(value, {
    get(target, key, receiver) {
      const inner: unknown = Reflect.get(target, key, receiver);
      return typeof inner === 'object' && inner !== null ? readOnly(inner) : inner;
    },
    set: never,
    deleteProperty: never,
    defineProperty: never,
    setPrototypeOf: never,
  });
}
