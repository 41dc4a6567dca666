/**
 * Plays an upgrade on the domain's functions alone, as the workflow uses them, beside the model: each step compares what they
 * say with what the model says, and looks at the laws.
 */
import { expect } from 'vitest';
import {
  answerGate,
  approvalsNeeded,
  lapsesAt,
  refreshOpenGate,
  whyNeverApproved,
} from '../../src/domain/approvals.ts';
import { budgetAt, insufficientAt } from '../../src/domain/budget.ts';
import { decide, readMessage, whyNoRollback, type Decision, type MessageName } from '../../src/domain/decide.ts';
import { evidenceFor } from '../../src/domain/evidence.ts';
import { isApproved, missingForCleanup, missingForReopen, missingForReplace } from '../../src/domain/laws.ts';
import { failurePolicy, parkOptions, prospects, worldNow } from '../../src/domain/parks.ts';
import { gates, type GateName, type PhaseName } from '../../src/domain/phases.ts';
import {
  gateRow,
  openGate,
  phaseRow,
  recordAttempt,
  type Attempt,
  type Park,
  type UpgradeStatus,
} from '../../src/domain/state.ts';
import { undoOrder } from '../../src/domain/undo.ts';
import { changes, now, results, type Game } from './game.ts';
import {
  factsOf,
  forget,
  hasLapsed,
  leftToUndo,
  mayDestroy,
  mayGoBack,
  openGateOf,
  optionsOf,
  outcomeOf,
  people,
  readOnly,
  route,
  tickOff,
} from './model.ts';

/** As whoever is shown the status sees it: the open gate brought up to now. */
export function look(game: Game): void {
  const { status, model } = game;
  const { voided } = refreshOpenGate(status, now(game));
  const gate = openGateOf(model);
  expect(openGate(status)?.name ?? null, 'the open gate').toBe(gate);
  const gone = gate === null ? [] : forget(model, factsOf(gate, status));
  expect(
    voided.map(({ by }) => personOf(by ?? '')),
    'whose yes is void',
  ).toEqual(gone);
  for (const attempt of voided) record(game, attempt);
  const hash = openGate(status)?.evidence?.hash;
  if (gate !== null && hash !== undefined) {
    const facts = factsOf(gate, status);
    expect(model.shown.get(hash) ?? facts, 'one hash, one meaning').toBe(facts);
    model.shown.set(hash, facts);
  }
  const open = model.park !== null;
  const stage = open ? 'parked' : status.ending ? 'rolling-back' : gate === null ? 'running' : 'waiting';
  if (status.stage !== 'ended') status.stage = stage;
}

/** Whose name this is, however it was kept: each begins with two letters of its own. */
function personOf(by: string): number {
  return people.findIndex(([name]) => name.slice(0, 2).toLowerCase() === by.slice(0, 2).toLowerCase());
}

function record(game: Game, attempt: Attempt): void {
  if (attempt.accepted) game.accepted += 1;
  recordAttempt(game.status, attempt);
  expect(game.status.attempts.at(-1), 'every message is recorded').toBe(attempt);
  expect(attempt.says).not.toBe('');
  expect(game.status.attempts.length).toBeLessThanOrEqual(Math.max(200, game.accepted));
}

function stop(game: Game, how: 'rollback' | 'abort', by: string): void {
  const { status, model } = game;
  status.ending = { how, why: `${by} said so`, by, type: null };
  const row = openGate(status);
  if (row) row.state = 'closed';
  model.place = 'back';
  model.yes = [];
  if (status.park) answerPark(game, how);
  else if (how === 'abort') end(game);
}

function answerPark(game: Game, action: 'retry' | 'rollback' | 'abort'): void {
  const { status, model } = game;
  if (!status.park) throw new TypeError('nothing is parked');
  status.parked.push({ ...status.park, action, by: status.park.by ?? 'somebody' });
  status.park = null;
  model.park = null;
  if (action === 'abort') end(game);
}

function end(game: Game): void {
  game.status.stage = 'ended';
  game.model.place = 'ended';
}

/** Something fails in a phase, on the way back, or at the end. */
function park(game: Game): void {
  const { status, model } = game;
  const { place } = model;
  const where = place === 'back' ? 'rollback' : place === 'closing' ? 'end' : (place as PhaseName);
  const seen = readOnly(status);
  const options = parkOptions(seen, where);
  expect(options, `the answers to a failure in ${place}`).toEqual(optionsOf(model));
  const policy = failurePolicy(seen, where, options);
  const mine: Park = {
    id: `park-${status.parked.length + 1}`,
    phase: where,
    type: 'CommandFailed',
    message: 'it did not work',
    failed: { activity: null, doing: null, code: null },
    options,
    world: worldNow(seen),
    prospects: prospects(seen, where, options),
    policy: policy && { answer: policy.answer, at: new Date(Date.parse(now(game)) + 7_200_000).toISOString() },
    since: now(game),
    action: null,
    by: null,
    note: null,
  };
  const own = status.parked.filter(({ phase, by }) => phase === where && by === 'policy').length;
  const { policy: answer } = model.wanted;
  const byItself = model.planned && where !== 'rollback' && where !== 'end' && answer !== null;
  expect(policy?.answer ?? null, 'what policy answers').toBe(
    byItself && (answer === 'rollback' ? !model.committed : own < 2) ? answer : null,
  );
  status.park = mine;
  model.park = { id: mine.id, options };
}

function openTheGate(game: Game, name: GateName): void {
  const { status, model } = game;
  const { spec, plan } = status;
  if (!spec || !plan?.facts) throw new TypeError('no plan');
  const row = gateRow(status, name);
  Object.assign(row, { state: 'open', openedAt: now(game), decidedAt: null, by: null, note: null, approvals: [] });
  row.evidence = evidenceFor(name, readOnly(status), plan.facts, now(game));
  row.needed = approvalsNeeded(spec.gates[name]);
  model.place = `gate ${name}`;
  model.yes = [];
  delete model.passed[name];
  if (!model.wanted.auto.includes(name)) return;
  row.state = 'approved';
  model.passed[name] = factsOf(name, status);
  pass(game);
}

function pass(game: Game): void {
  const { model } = game;
  const index = route.indexOf(model.place as (typeof route)[number]);
  const next = route[index + 1];
  if (next === undefined) model.place = 'closing';
  else if (next.startsWith('gate ')) openTheGate(game, next.slice(5) as GateName);
  else {
    model.place = next;
    phaseRow(game.status, next as PhaseName).state = 'running';
  }
}

/** What was approved on other facts, or too long ago, is asked again before it is begun. */
function isAskedAgain(game: Game): boolean {
  const { status, model } = game;
  const { spec } = status;
  const approved = isApproved(readOnly(status), 'replace');
  expect(approved, 'gate replace was passed').toBe(model.passed.replace === factsOf('replace', status));
  const { approvals } = gateRow(status, 'replace');
  const fresh = approvals.every(({ at }) => spec && lapsesAt(spec, at) > Date.parse(now(game)));
  expect(fresh, 'each yes still counts').toBe(model.yes.every(({ hour }) => !hasLapsed(model, hour)));
  if (approved && fresh) return false;
  openTheGate(game, 'replace');
  return true;
}

/** What is under way goes on: it fails, or comes to its end. `part` of what it changes was changed when it fails. */
export function work(game: Game, fails: boolean, part: number): void {
  const { status, model } = game;
  const { place } = model;
  if (place === 'ended' || model.park !== null || openGateOf(model) !== null) return;
  if (place === 'back') return putBack(game, fails, part);
  if (place === 'closing') return fails ? park(game) : end(game);
  const phase = place as PhaseName;
  const row = phaseRow(status, phase);
  if (phase === 'replace' && row.tries === 0 && isAskedAgain(game)) return;
  row.state = 'running';
  row.tries += 1;
  if (phase === 'replace' || phase === 'cleanup' || (phase === 'reopen' && !model.committed)) {
    const missing = { replace: missingForReplace, reopen: missingForReopen, cleanup: missingForCleanup }[phase];
    expect(missing(readOnly(status)).length === 0, `${phase} may be done`).toBe(mayDestroy(phase, model, status));
    if (missing(status).length > 0) return park(game);
  }
  const made = changes[phase] ?? [];
  for (const [id, activity, last] of fails ? made.slice(0, part) : made) {
    const undo = { id: `${phase}/${id}`, phase, says: id, activity, args: {}, last, done: false };
    const known = status.undo.findIndex((one) => one.id === undo.id);
    status.undo.splice(known === -1 ? status.undo.length : known, 1, undo as unknown as UpgradeStatus['undo'][number]);
    const change = model.changes.find((one) => one.id === undo.id);
    if (change) change.undone = false;
    else model.changes.push({ id: undo.id, last, undone: false });
  }
  if (!fails || part > 1) results[phase]?.(game);
  row.state = fails ? 'parked' : 'done';
  if (!fails) {
    const { spec } = status;
    const { wanted } = model;
    if (phase === 'preflight' && spec && whyNeverApproved(readOnly(spec), 'Ada') !== null) {
      expect(wanted, 'gates that nobody could pass').toMatchObject({
        listed: true,
        starterMayApprove: false,
        needed: 3,
      });
      expect(wanted.auto.length).toBeLessThan(gates.length);
      return end(game);
    }
    pass(game);
  } else if (phase === 'preflight') end(game);
  else park(game);
}

function putBack(game: Game, fails: boolean, part: number): void {
  const { status, model } = game;
  const order = undoOrder(readOnly(status.undo));
  const wanted = leftToUndo(model);
  expect(
    order.flat().map(({ id }) => id),
    'the way back',
  ).toEqual(wanted);
  const group = order[0]?.map(({ id }) => id) ?? [];
  for (const id of fails ? group.slice(0, part) : group) {
    const undo = status.undo.find((known) => known.id === id);
    if (undo) undo.done = true;
    tickOff(model, id);
  }
  if (fails) return park(game);
  if (leftToUndo(model).length === 0) model.place = 'closing';
}

/** Hours pass: what waits for an answer may answer itself. */
export function wait(game: Game, hours: number): void {
  const { status, model } = game;
  model.hour += hours;
  const at = now(game);
  if (model.place === 'ended') return;
  const budget = budgetAt(readOnly(status), at);
  const down = status.downtime.from !== null && status.downtime.to === null;
  expect(budget !== null, 'services are down, so that time runs').toBe(down);
  if (budget && down) {
    const left = Date.parse(status.downtime.from ?? '') + 7_200_000 - Date.parse(at);
    const short = insufficientAt(readOnly(status), budget, at) <= Date.parse(at);
    // All that is measured takes some seconds.
    if (Math.abs(left) > 60_000) expect(short, 'the time left suffices').toBe(left < 0);
    if (short && model.wanted.goesBackWhenLate && !model.committed && !status.ending) {
      stop(game, 'rollback', 'policy');
      return;
    }
  }
  const { park: parked } = status;
  if (parked?.policy && Date.parse(at) >= Date.parse(parked.policy.at)) {
    parked.by = 'policy';
    if (parked.policy.answer === 'retry') answerPark(game, 'retry');
    else stop(game, 'rollback', 'policy');
  }
  look(game);
  const row = openGate(status);
  const limit = { begin: 24, replace: Infinity, reopen: Infinity, cleanup: 14 * 24 }[row?.name ?? 'replace'];
  if (!row || Date.parse(at) - Date.parse(row.openedAt ?? '') < limit * 3_600_000) return;
  row.state = 'expired';
  row.by = 'time limit';
  if (row.name === 'cleanup') keepEverything(game);
  else stop(game, 'rollback', 'time limit');
}

function keepEverything({ status, model }: Game): void {
  phaseRow(status, 'cleanup').state = 'skipped';
  model.place = 'closing';
}

export function cancel(game: Game): void {
  const { status, model } = game;
  const refused = whyNoRollback(readOnly(status), false);
  expect(refused === null, 'cancel goes back').toBe(!status.ending && mayGoBack(model, false));
  const says = refused ?? 'Rolling back.';
  const accepted = refused === null;
  record(game, { at: now(game), how: 'cancel', message: 'cancel', by: null, gate: null, accepted, says, note: null });
  if (accepted) stop(game, 'rollback', 'cancel');
}

/** What somebody sends reaches the upgrade. Returns whether it was accepted. */
export function send(game: Game, name: MessageName, input: object, person: number): boolean {
  const { status, model } = game;
  look(game);
  const message = readMessage(name, input);
  if (typeof message === 'string') throw new Error(`${JSON.stringify(input)} was taken for malformed: ${message}`);
  const wanted = outcomeOf(model, status, message, person);
  const decision = decide(readOnly(status), message);
  expect(outcomeIn(decision), `${name} ${JSON.stringify(input)} in ${model.place}: ${decision.says}`).toBe(wanted);
  const { accepted, says } = decision;
  const gate = 'gate' in message ? message.gate : null;
  record(game, { at: now(game), how: 'signal', message: name, by: message.by, gate, accepted, says, note: null });
  if (!accepted) return false;
  apply(game, decision.effect, person);
  look(game);
  return true;
}

function outcomeIn(decision: Decision): string {
  if (!decision.accepted) return 'refused';
  const { effect } = decision;
  return effect.kind === 'gate' ? effect.outcome : effect.kind === 'resolve' ? effect.action : 'rollback';
}

function apply(game: Game, effect: Extract<Decision, { accepted: true }>['effect'], person: number): void {
  const { status, model } = game;
  if (effect.kind === 'rollback') return stop(game, 'rollback', effect.by);
  if (effect.kind === 'resolve') {
    if (effect.action === 'retry' || status.ending) return answerPark(game, effect.action);
    return stop(game, effect.action, effect.by);
  }
  const { gate } = effect;
  answerGate(status, effect, now(game));
  if (effect.outcome === 'rejected')
    return gate === 'cleanup' ? keepEverything(game) : stop(game, 'rollback', effect.by);
  const facts = factsOf(gate, status);
  model.yes.push({ person, facts, hour: model.hour });
  if (effect.outcome === 'counted') return;
  const distinct = new Set(model.yes.filter((yes) => yes.facts === facts).map((yes) => yes.person));
  expect(distinct.size, `people who said yes to gate ${gate}`).toBe(model.wanted.needed);
  model.passed[gate] = facts;
  pass(game);
}

/** What was sent could not be read. */
export function sendMalformed(game: Game, name: MessageName, input: unknown): void {
  const says = readMessage(name, input);
  if (typeof says !== 'string') throw new Error(`${name} ${JSON.stringify(input)} was taken for a message`);
  const at = now(game);
  record(game, { at, how: 'signal', message: name, by: null, gate: null, accepted: false, says, note: null });
}

/** From wherever it is some answers lead to an end: `forward`, `back` as early as it may be, or `abort` at the first failure. */
export function toTheEnd(game: Game, way: 'forward' | 'back' | 'abort'): void {
  const { status, model } = game;
  const ended = () => model.place === 'ended';
  if (ended()) return;
  for (let steps = 0; !ended(); steps += 1) {
    expect(steps, `${way} from ${model.place} leads to an end`).toBeLessThan(100);
    look(game);
    const gate = openGateOf(model);
    const { park: parked } = status;
    if (way === 'back' && mayGoBack(model, true))
      send(game, 'rollback', { by: 'Grace Hopper', acceptLostWrites: true }, 1);
    else if (parked) {
      const stuck = ['replace', 'reopen', 'cleanup'].includes(model.place);
      const wanted = way === 'abort' ? 'abort' : stuck ? 'rollback' : 'retry';
      const action = parked.options.includes(wanted) ? wanted : stuck ? 'abort' : 'retry';
      expect(send(game, 'resolve', { park: parked.id, action, by: 'Grace Hopper' }, 1)).toBe(true);
    } else if (gate !== null && way === 'forward') {
      const evidence = gateRow(status, gate).evidence?.hash;
      for (const [person, [by]] of people.entries()) send(game, 'approve', { gate, by, evidence }, person);
      expect(openGateOf(model), `everybody said yes at gate ${gate}`).not.toBe(gate);
    } else if (gate !== null) expect(send(game, 'reject', { gate, by: 'Grace Hopper' }, 1)).toBe(true);
    else work(game, way === 'abort' && model.place !== 'preflight', 1);
  }
  if (status.ending?.how === 'rollback' && way !== 'abort')
    expect(leftToUndo(model), 'what was not put back').toEqual([]);
}

/** An upgrade that has ended takes nothing more. */
export function takesNothing(game: Game): void {
  const { status, model } = game;
  expect([model.place, status.stage]).toEqual(['ended', 'ended']);
  const evidence = gateRow(status, 'reopen').evidence?.hash ?? null;
  const by = 'Grace Hopper';
  for (const name of ['approve', 'reject'] as const)
    expect(send(game, name, { gate: 'reopen', by, evidence }, 1)).toBe(false);
  expect(send(game, 'resolve', { park: `park-${status.parked.length}`, action: 'retry', by }, 1)).toBe(false);
  expect(send(game, 'rollback', { by, acceptLostWrites: true }, 1)).toBe(false);
  expect(whyNoRollback(readOnly(status), true)).not.toBeNull();
}
