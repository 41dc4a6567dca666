import { AsyncLocalStorage } from 'node:async_hooks';
import { baseRequest } from '@linode/api-v4';
import { CancelledFailure } from '@temporalio/common';
import type { ApplicationFailure } from '@temporalio/common';
import { z } from 'zod';
import { abortSignal, requireLeave } from './context.ts';
import { fail, messageOf } from './errors.ts';
import { retryAfterMs } from './retry-after.ts';

export interface LinodeConfig {
  /** In place of `https://api.linode.com`, without `/v4`. */
  baseUrl?: string;
  /** Read at every request, so that a rotated token is used at once. */
  token: () => string | undefined;
  /** For one request; the SDK itself would wait for ever. Default 12 s: two in a row fit in a heartbeat timeout. */
  timeoutMs?: number;
}

interface Call {
  config: LinodeConfig;
  /** What the token may do, as the API's last answer said. */
  scopes?: string;
}

const SDK_BASE_URL = 'https://api.linode.com';
const calls = new AsyncLocalStorage<Call>();

/*
 * The SDK has one axios instance for the whole process, absolute URLs in every request, no time-out, and interceptors
 * that only stack. So there is one interceptor, and what it puts in is the running call's own.
 */
baseRequest.interceptors.request.use(async (request) => {
  if (request.method !== 'get') await requireLeave();
  const call = calls.getStore();
  const token = call?.config.token();
  if (call === undefined || token === undefined || token === '') {
    throw fail('AccessDenied', 'There is no Linode API token. Set LINODE_TOKEN where the worker runs.');
  }
  const { baseUrl = SDK_BASE_URL, timeoutMs = 12_000 } = call.config;
  request.url = (request.url ?? '').replace(SDK_BASE_URL, baseUrl.replace(/\/+$/, ''));
  request.headers.set('Authorization', `Bearer ${token}`);
  request.timeout = timeoutMs;
  const signal = abortSignal();
  if (signal !== undefined) request.signal = signal;
  return request;
});
baseRequest.interceptors.response.use((response) => {
  const scopes = z.string().safeParse(response.headers['x-oauth-scopes']);
  const call = calls.getStore();
  if (call !== undefined && scopes.success) call.scopes = scopes.data;
  return response;
});

/**
 * Runs calls of the Linode SDK with this configuration. Whatever goes wrong leaves as one of pgleap's failures, which
 * holds neither the request nor its headers; `what` begins its message, e.g. `clone volume 123`. An answer that is not of
 * this shape is nobody's word: a gateway's page must not pass for an empty list.
 */
export async function linode<T>(
  config: LinodeConfig,
  what: string,
  shape: z.ZodType<T>,
  run: () => Promise<unknown>,
): Promise<T> {
  return (await linodeWithScopes(config, what, shape, run)).value;
}

/** The same, with the scopes of the token; null when the API did not name them. */
export async function linodeWithScopes<T>(
  config: LinodeConfig,
  what: string,
  shape: z.ZodType<T>,
  run: () => Promise<unknown>,
): Promise<{ value: T; scopes: string | null }> {
  const call: Call = { config };
  let answer: unknown;
  try {
    answer = await calls.run(call, run);
  } catch (error) {
    throw translate(error, what, config.token());
  }
  const read = shape.safeParse(answer);
  if (!read.success) {
    throw fail(
      'Unreachable',
      `What answered is not Linode’s API: could not ${what}. Check LINODE_API_URL, and for a proxy or login page in between.`,
    );
  }
  return { value: read.data, scopes: call.scopes ?? null };
}

const reasons = z.array(z.object({ field: z.string().nullish(), reason: z.string() }));
const httpError = z.object({
  response: z.object({
    status: z.number(),
    headers: z.looseObject({ 'retry-after': z.coerce.string().optional() }),
    data: z.object({ errors: reasons }).catch({ errors: [] }),
  }),
});

/** `details` of a `Refused` failure are the names of the fields that the API complained about. */
function translate(error: unknown, what: string, token: string | undefined): Error {
  const signal = abortSignal();
  if (signal?.aborted === true) {
    return signal.reason instanceof Error ? signal.reason : new CancelledFailure(`Cancelled: ${what}`);
  }
  const known = ownFailure(error);
  if (known) return known;
  const clean = (text: string) => (token === undefined || token === '' ? text : text.replaceAll(token, '***'));
  // What the SDK's own validation refuses is an array and not an Error.
  const refused = reasons.safeParse(error);
  if (refused.success) return refusal(what, refused.data, clean);
  const http = httpError.safeParse(error);
  if (!http.success) {
    return fail('Unreachable', `Linode did not answer: could not ${what} (${clean(messageOf(error))}).`);
  }
  const { status, headers, data } = http.data.response;
  const said = clean(data.errors.map(({ reason }) => reason).join('; ')) || `status ${status}`;
  switch (status) {
    case 401:
    case 403:
      return fail(
        'AccessDenied',
        `Linode refused the API token when asked to ${what}: ${said}. ` +
          'Set LINODE_TOKEN to a token with the scope volumes:read_write.',
      );
    case 404:
      return fail('NotFound', `Linode does not have it: could not ${what} (${said}).`);
    case 409:
      return fail('Conflict', `Linode could not ${what} now: ${said}.`);
    case 429:
      return fail('RateLimited', `Linode asked to slow down (${what}).`, {
        retryAfterMs: retryAfterMs(headers['retry-after'], 60_000),
      });
    default:
      if (status >= 500 || status === 408) {
        return fail('Unreachable', `Linode answered with an error of its own, ${status}: could not ${what} (${said}).`);
      }
      // Only a wait helps against these, and the API has no status of its own for them.
      return /busy|in progress/i.test(said)
        ? fail('Conflict', `Linode could not ${what} now: ${said}.`)
        : refusal(what, data.errors, clean);
  }
}

/** A failure of ours that was thrown inside of the SDK, where axios may have wrapped it. */
function ownFailure(error: unknown): Error | undefined {
  const causes = [error, error instanceof Error ? error.cause : undefined];
  return causes.find((one): one is ApplicationFailure => one instanceof Error && one.name === 'ApplicationFailure');
}

function refusal(what: string, errors: z.infer<typeof reasons>, clean: (text: string) => string): ApplicationFailure {
  const said = errors.map(({ field, reason }) => (field ? `${field}: ${reason}` : reason)).join('; ');
  return fail('Refused', clean(`Linode refused to ${what}: ${said || 'it gave no reason'}.`), {
    details: errors.flatMap(({ field }) => field ?? []),
  });
}
