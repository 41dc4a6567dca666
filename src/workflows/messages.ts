/**
 * Signals, updates and queries. They are registered before anything is awaited, so that none is lost. Their descriptions
 * are what Temporal's Web UI shows in its dialogs.
 */
import {
  ApplicationFailure,
  CancellationScope,
  defineQuery,
  defineSignal,
  defineUpdate,
  log,
  setHandler,
} from '@temporalio/workflow';
import type { Progress } from '../activities/types.ts';
import { decide, readMessage, shapeOf, type Effect, type Message, type MessageName } from '../domain/decide.ts';
import { answerGate } from '../domain/approvals.ts';
import { recordAttempt, type Attempt, type UpgradeResult, type UpgradeStatus } from '../domain/state.ts';
import { actOnce } from './activities.ts';
import { failureOf } from './park.ts';
import { answerPark, freshen, now, resolved, show, stop, tell, type Run } from './run.ts';

const says: Record<MessageName, string> = {
  approve: 'Say yes at the open gate.',
  reject: 'Say no at the open gate: everything is put back (at gate cleanup: everything is kept).',
  resolve: 'Say what to do about the failure that is parked.',
  rollback: 'Stop at the next safe point and put everything back.',
};

const messageNames = ['approve', 'reject', 'resolve', 'rollback'] as const satisfies readonly MessageName[];

export function registerMessages(run: Run): void {
  for (const name of messageNames) {
    const description = `${says[name]} JSON: ${shapeOf(name)}`;
    setHandler(
      defineUpdate<string, [unknown]>(name),
      async (input: unknown) => {
        const message = readMessage(name, input);
        if (typeof message === 'string') throw ApplicationFailure.nonRetryable(message, 'MessageRefused');
        await countBeforeRefusal(run, message);
        const attempt = receive(run, 'update', message);
        if (!attempt.accepted) throw ApplicationFailure.nonRetryable(attempt.says, 'MessageRefused');
        return attempt.says;
      },
      {
        description,
        // Only the shape: a well-formed answer that is refused is worth keeping in the history, with who gave it.
        validator: (input: unknown) => {
          const message = readMessage(name, input);
          if (typeof message === 'string') throw ApplicationFailure.nonRetryable(message, 'MessageRefused');
        },
      },
    );
    setHandler(
      defineSignal<[unknown]>(name),
      async (input: unknown) => {
        const message = readMessage(name, input);
        if (typeof message === 'string') return malformed(run, name, message);
        await countBeforeRefusal(run, message);
        receive(run, 'signal', message);
      },
      { description: `${description}. A signal gets no answer: look at query status.` },
    );
  }
  setHandler(defineSignal<[unknown]>('progress'), (input: unknown) => progress(run, input), {
    description: 'Sent by pgleap’s own activities: {"what", "done", "total", "unit"}.',
  });
  setHandler(defineQuery<UpgradeStatus>('status'), () => run.status, {
    description: 'The whole state as JSON: stage, phases, gates with their evidence, park, attempts, undo, progress.',
  });
  setHandler(defineQuery<UpgradeResult | null>('report'), () => run.status.result, {
    description: 'The result as JSON, and where the report lies; null until the upgrade has one.',
  });
}

/** Who asks to go back after the commit point is told what that would lose, as of now. */
async function countBeforeRefusal(run: Run, message: Message): Promise<void> {
  const { status } = run;
  if (message.name !== 'rollback' || message.acceptLostWrites) return;
  if (status.committedAt === null || status.ending !== null || status.stage === 'ended') return;
  const { world, plan } = resolved(run);
  const { database, services } = plan.facts.cluster;
  const namespaces = services.map(({ namespace }) => namespace);
  try {
    status.writes = await CancellationScope.nonCancellable(() =>
      actOnce('lostWrites', 'count what was written since', {
        world,
        database,
        opened: run.gathered.opened,
        namespaces,
      }),
    );
  } catch (error) {
    log.warn('writes could not be counted', { error: failureOf(run, error).message });
  }
}

function receive(run: Run, how: 'signal' | 'update', message: Message): Attempt {
  freshen(run);
  const decision = decide(run.status, message);
  const attempt: Attempt = {
    at: now(),
    how,
    message: message.name,
    by: message.by,
    gate: 'gate' in message ? message.gate : null,
    accepted: decision.accepted,
    says: decision.says,
    note: message.note,
  };
  recordAttempt(run.status, attempt);
  if (decision.accepted) apply(run, decision.effect, decision.says);
  else log.warn('a message was refused', { message: message.name, how });
  show(run);
  return attempt;
}

function apply(run: Run, effect: Effect, text: string): void {
  switch (effect.kind) {
    case 'gate':
      answerGate(run.status, effect, now());
      if (effect.outcome === 'counted') tell(run, 'gate', `${run.status.workflowId}: ${text}`);
      break;
    case 'resolve':
      if (effect.action === 'retry' || run.status.ending) answerPark(run, effect.action, effect.by, effect.note);
      else {
        const why = `${effect.by} answered ${effect.park} with ${effect.action}${effect.note === null ? '' : `: ${effect.note}`}`;
        stop(run, { how: effect.action, why, by: effect.by, type: null });
      }
      break;
    case 'rollback':
      stop(run, { how: 'rollback', why: effect.why, by: effect.by, type: null });
      break;
  }
}

function malformed(run: Run, name: MessageName, what: string): void {
  recordAttempt(run.status, {
    at: now(),
    how: 'signal',
    message: name,
    by: null,
    gate: null,
    accepted: false,
    says: what,
    note: null,
  });
  log.warn('a malformed signal was refused', { message: name });
  show(run);
}

const units: readonly string[] = ['bytes', 'rows', 'tables', 'seconds'] satisfies Progress['unit'][];
const progressKept = 8;

/** The newest of each kind; anything that is no progress is dropped without a word, as nobody typed it. */
function progress(run: Run, input: unknown): void {
  if (typeof input !== 'object' || input === null) return;
  const { what, done, total, unit } = input as Record<string, unknown>;
  if (typeof what !== 'string' || typeof done !== 'number' || typeof unit !== 'string') return;
  if (!units.includes(unit) || (total !== null && typeof total !== 'number')) return;
  const { status } = run;
  const entry = { what: what.slice(0, 100), done, total, unit: unit as Progress['unit'], at: now() };
  status.progress = [...status.progress.filter((known) => known.what !== entry.what), entry].slice(-progressKept);
  show(run);
}
