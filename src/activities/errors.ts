import { ApplicationFailure } from '@temporalio/common';
import { failures, type FailureType } from '../domain/failures.ts';
import { redact } from '../domain/redact.ts';

const longest = 4000;

/**
 * Makes the ApplicationFailure of one of the known types; whether it may be retried is the type's, from
 * `src/domain/failures.ts`. The cause keeps only its redacted message: what SDKs throw carries headers and bodies.
 */
export function fail(
  type: FailureType,
  message: string,
  options: { cause?: unknown; retryAfterMs?: number; details?: unknown[] } = {},
): ApplicationFailure {
  return ApplicationFailure.create({
    type,
    message: short(redact(message)),
    nonRetryable: !failures[type].retry,
    ...(options.cause === undefined ? {} : { cause: new Error(short(redact(messageOf(options.cause)))) }),
    ...(options.retryAfterMs === undefined ? {} : { nextRetryDelay: options.retryAfterMs }),
    ...(options.details === undefined ? {} : { details: options.details }),
  });
}

/** What a server answers can be of any length, and Temporal keeps every failure of every attempt. */
function short(text: string): string {
  return text.length <= longest ? text : `${text.slice(0, longest - 1)}…`;
}

export function isFailure(error: unknown, ...types: FailureType[]): error is ApplicationFailure {
  return error instanceof ApplicationFailure && types.some((type) => type === error.type);
}

/** The text of whatever was thrown, with the texts of its causes: `fetch failed` alone helps nobody. */
export function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return typeof error === 'string' ? error : JSON.stringify(error);
  const nested = error instanceof AggregateError ? error.errors : error.cause === undefined ? [] : [error.cause];
  return [error.message, ...nested.map(messageOf)].filter((text) => text !== '').join(': ');
}
