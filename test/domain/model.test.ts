/*
 * Random upgrades: whatever phases come to, people send and time does, the domain's functions keep the laws and agree with the
 * model. PGLEAP_CHAOS_SEED repeats a run; each failure prints the seed and the shortest sequence that fails.
 */
import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import type { MessageName } from '../../src/domain/decide.ts';
import { gates } from '../../src/domain/phases.ts';
import { seed } from '../chaos/seed.ts';
import { openGateOf, people, route, type Wanted } from './model.ts';
import { mend, newGame, spoil, spoilingsCount, type Game } from './game.ts';
import { cancel, look, send, sendMalformed, takesNothing, toTheEnd, wait, work } from './play.ts';

const sequences = 10_000;

const gateNames = gates.map(({ name }) => name);

const wanted: fc.Arbitrary<Wanted> = fc.record({
  listed: fc.boolean(),
  starterMayApprove: fc.boolean(),
  needed: fc.constantFrom(1, 1, 2, 3),
  auto: fc.oneof({ weight: 3, arbitrary: fc.constant([]) }, { weight: 1, arbitrary: fc.subarray(gateNames) }),
  policy: fc.constantFrom(null, null, 'retry', 'rollback'),
  goesBackWhenLate: fc.boolean(),
});

/** Who, in which way to write the name. */
const by = fc.record({ person: fc.nat(people.length - 1), spelling: fc.nat(3) });

const answer = fc.record({
  does: fc.constantFrom('approve' as const, 'approve' as const, 'approve' as const, 'reject' as const),
  by,
  gate: fc.oneof({ weight: 5, arbitrary: fc.constant(null) }, { weight: 1, arbitrary: fc.constantFrom(...gateNames) }),
  evidence: fc.constantFrom('now', 'now', 'now', 'as last seen', 'seen before', 'of nothing', 'none'),
});

const step = fc.oneof(
  { weight: 8, arbitrary: answer },
  {
    weight: 6,
    arbitrary: fc.record({
      does: fc.constant('work' as const),
      fails: fc.constantFrom(false, false, true),
      part: fc.nat(3),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      does: fc.constant('resolve' as const),
      by,
      park: fc.constantFrom(0, 0, 0, 1),
      action: fc.constantFrom('retry', 'retry', 'rollback', 'abort'),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      does: fc.constant('rollback' as const),
      by,
      acceptLostWrites: fc.constantFrom(undefined, false, true),
    }),
  },
  { weight: 2, arbitrary: fc.record({ does: fc.constant('spoil' as const), what: fc.nat(spoilingsCount - 1) }) },
  { weight: 1, arbitrary: fc.record({ does: fc.constant('mend' as const) }) },
  {
    weight: 2,
    arbitrary: fc.record({ does: fc.constant('wait' as const), hours: fc.constantFrom(0.25, 1.5, 5, 12, 30, 400) }),
  },
  { weight: 1, arbitrary: fc.record({ does: fc.constantFrom('look' as const, 'cancel' as const) }) },
  { weight: 1, arbitrary: fc.record({ does: fc.constant('malformed' as const), what: fc.nat(99) }) },
);

type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

/** Where a sequence begins: an upgrade that went well until there. */
const begins = fc.nat(route.length);

const malformed: unknown[] = [
  null,
  undefined,
  7,
  'yes',
  [],
  {},
  { by: '' },
  { by: 7 },
  { by: 'policy' },
  { by: 'Ada\u202e' },
  { by: 'x'.repeat(501) },
  { by: 'Ada', note: 7 },
  { by: 'Ada', gate: 'front', action: 'dance', park: '', acceptLostWrites: 'yes' },
];

const messageNames: MessageName[] = ['approve', 'reject', 'resolve', 'rollback'];

function play(game: Game, next: Step): void {
  const { status, model } = game;
  switch (next.does) {
    case 'work':
      return work(game, next.fails, next.part);
    case 'spoil':
      return spoil(game, next.what);
    case 'mend':
      return mend(game);
    case 'wait':
      return wait(game, next.hours);
    case 'look':
      return look(game);
    case 'cancel':
      return cancel(game);
    case 'malformed': {
      const name = messageNames[next.what % messageNames.length] ?? 'approve';
      return sendMalformed(game, name, malformed[next.what % malformed.length]);
    }
    default: {
      const { person, spelling } = next.by;
      const name = people[person]?.[spelling];
      if (next.does === 'rollback') {
        send(game, 'rollback', { by: name, acceptLostWrites: next.acceptLostWrites }, person);
      } else if (next.does === 'resolve') {
        const park = `park-${status.parked.length + 1 - next.park}`;
        send(game, 'resolve', { park, action: next.action, by: name, note: 'because' }, person);
      } else {
        const gate = next.gate ?? openGateOf(model) ?? 'begin';
        send(game, next.does, { gate, by: name, evidence: evidence(game, next.evidence) }, person);
      }
    }
  }
}

function evidence(game: Game, which: string): string | null {
  if (which === 'now') look(game);
  const seen = [...game.model.shown.keys()];
  const row = game.status.gates.find(({ state }) => state === 'open');
  if (which === 'now' || which === 'as last seen') return row?.evidence?.hash ?? seen.at(-1) ?? null;
  if (which === 'none') return null;
  return which === 'seen before' && seen[0] !== undefined ? seen[0] : 'a'.repeat(64);
}

/** An upgrade that goes well until there. */
function until(game: Game, place: number): void {
  for (let steps = 0; steps < 60; steps += 1) {
    const at = route.findIndex((known) => known === game.model.place);
    if (at === -1 || at >= place) return;
    const gate = openGateOf(game.model);
    if (gate === null) work(game, false, 0);
    else
      for (const [person, [name]] of people.entries())
        send(game, 'approve', { gate, by: name, evidence: evidence(game, 'now') }, person);
  }
}

test(`${sequences} random upgrades keep the laws`, { timeout: 300_000 }, () => {
  const met = new Map<string, number>();
  const way = fc.constantFrom('forward' as const, 'back' as const, 'abort' as const);
  fc.assert(
    fc.property(wanted, begins, fc.array(step, { maxLength: 30 }), way, (wants, place, steps, last) => {
      const game = newGame(wants);
      until(game, place);
      for (const next of steps) play(game, next);
      met.set(game.model.place, (met.get(game.model.place) ?? 0) + 1);
      toTheEnd(game, last);
      takesNothing(game);
    }),
    { seed, numRuns: sequences },
  );
  // A model that gets nowhere proves nothing.
  for (const place of [...route, 'back', 'closing', 'ended'])
    expect(met.get(place), `upgrades left in ${place}`).toBeGreaterThan(10);
});
