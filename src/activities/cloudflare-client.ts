import { CancelledFailure } from '@temporalio/common';
import Cloudflare, { APIError } from 'cloudflare';
import { z } from 'zod';
import { abortSignal, requireLeave } from './context.ts';
import { fail, isFailure, messageOf } from './errors.ts';
import { retryAfterMs } from './retry-after.ts';

export interface CloudflareConfig {
  /** In place of `https://api.cloudflare.com/client/v4`. */
  baseUrl?: string;
  /** Read at every request, so that a rotated token is used at once. */
  token: () => string | undefined;
  /** For one request. Default 12 s. */
  timeoutMs?: number;
}

/** A Worker route as it stands. `script` is null for one that lets requests pass every Worker by. */
export interface StandingRoute {
  id: string;
  pattern: string;
  script: string | null;
}

export interface RoutesClient {
  /** Null when the token may not read zones, which nothing else here needs. */
  zoneName(zone: string): Promise<string | null>;
  list(zone: string): Promise<StandingRoute[]>;
  create(zone: string, pattern: string, script: string | null): Promise<void>;
  replace(zone: string, id: string, pattern: string, script: string | null): Promise<void>;
  /** Nothing to do when it is gone already. */
  remove(zone: string, id: string): Promise<void>;
}

/** What is used of Cloudflare's answers. */
const zoneShape = z.object({ name: z.string() });
const routesShape = z.object({
  result: z.array(z.object({ id: z.string().min(1), pattern: z.string(), script: z.string().nullish() })),
});

/** Cloudflare's error codes on these endpoints; they mean other things in other parts of its API. */
const CODE = { unknownZone: 7003, auth: 10_000, unknownScript: 10_019, duplicate: 10_020 } as const;

/**
 * Worker routes through the SDK. Whatever goes wrong leaves as one of pgleap's failures, which holds neither the request
 * nor its headers. A route that stands already is a `Conflict`: look again and converge.
 */
export function routesClient(config: CloudflareConfig): RoutesClient {
  async function call<T>(
    what: string,
    zone: string,
    shape: z.ZodType<T>,
    run: (client: Cloudflare, options: { signal?: AbortSignal }) => PromiseLike<unknown>,
  ): Promise<T> {
    const token = config.token();
    if (token === undefined || token === '') {
      throw fail('AccessDenied', 'There is no Cloudflare API token. Set CLOUDFLARE_API_TOKEN where the worker runs.');
    }
    const signal = abortSignal();
    const client = new Cloudflare({
      apiToken: token,
      baseURL: config.baseUrl ?? 'https://api.cloudflare.com/client/v4',
      timeout: config.timeoutMs ?? 12_000,
      // The SDK would repeat also what is not safe to repeat, and a 409. Temporal retries, after another look.
      maxRetries: 0,
      // Otherwise the SDK takes them from the environment and sends them along.
      apiKey: null,
      apiEmail: null,
      userServiceKey: null,
      logLevel: 'off',
    });
    let answer: unknown;
    try {
      answer = await run(client, signal === undefined ? {} : { signal });
    } catch (error) {
      if (signal?.aborted === true) {
        throw signal.reason instanceof Error ? signal.reason : new CancelledFailure(`Cancelled: ${what}`);
      }
      throw translate(error, what, zone, token);
    }
    const read = shape.safeParse(answer);
    if (read.success) return read.data;
    // A gateway's page must not pass for a zone without routes.
    throw fail(
      'Unreachable',
      `What answered is not Cloudflare’s API: could not ${what}. Check CLOUDFLARE_API_URL, and for a proxy or login page in between.`,
    );
  }

  return {
    async zoneName(zone) {
      try {
        return (
          await call('read the zone', zone, zoneShape, (sdk, options) => sdk.zones.get({ zone_id: zone }, options))
        ).name;
      } catch (error) {
        if (isFailure(error, 'AccessDenied')) return null;
        throw error;
      }
    },
    async list(zone) {
      const page = await call('list the Worker routes', zone, routesShape, (sdk, options) =>
        // The SDK's own reading makes an empty list of whatever has no `result`.
        sdk.workers.routes
          .list({ zone_id: zone }, options)
          .asResponse()
          .then((response) => response.json()),
      );
      // The API writes "no Worker" as null, as an empty text, or not at all.
      return page.result.map(({ id, pattern, script }) => ({ id, pattern, script: script || null }));
    },
    async create(zone, pattern, script) {
      await requireLeave();
      const body = { zone_id: zone, pattern, ...(script === null ? {} : { script }) };
      await call(`make the route ${pattern}`, zone, z.unknown(), (sdk, options) =>
        sdk.workers.routes.create(body, options),
      );
    },
    async replace(zone, id, pattern, script) {
      await requireLeave();
      const body = { zone_id: zone, pattern, ...(script === null ? {} : { script }) };
      await call(`change the route ${pattern}`, zone, z.unknown(), (sdk, options) =>
        sdk.workers.routes.update(id, body, options),
      );
    },
    async remove(zone, id) {
      await requireLeave();
      try {
        await call('remove the route', zone, z.unknown(), (sdk, options) =>
          sdk.workers.routes.delete(id, { zone_id: zone }, options),
        );
      } catch (error) {
        // A zone that is unknown answers 404 too; there the caller's next look at the list fails.
        if (!isFailure(error, 'NotFound')) throw error;
      }
    },
  };
}

function translate(error: unknown, what: string, zone: string, token: string): Error {
  const clean = (text: string) => text.replaceAll(token, '***');
  if (!(error instanceof APIError)) {
    return fail('Unreachable', `Cloudflare did not answer: could not ${what} (${clean(messageOf(error))}).`);
  }
  const { status, headers, errors } = error;
  if (typeof status !== 'number') {
    return fail('Unreachable', `Cloudflare did not answer: could not ${what} (${clean(messageOf(error))}).`);
  }
  const codes = errors.map(({ code }) => code);
  const said = clean(errors.map(({ code, message }) => `${code}: ${message}`).join('; ')) || `status ${status}`;
  if (status === 429) {
    // Its limit of requests is lifted after five minutes.
    const header = headers instanceof Headers ? headers.get('retry-after') : null;
    return fail('RateLimited', `Cloudflare asked to slow down (${what}).`, {
      retryAfterMs: retryAfterMs(header, 300_000),
    });
  }
  if (status >= 500 || status === 408) {
    return fail('Unreachable', `Cloudflare answered with an error of its own, ${status}: could not ${what} (${said}).`);
  }
  if (codes.includes(CODE.unknownScript)) {
    return fail(
      'NotFound',
      `Cloudflare has no such Worker: could not ${what} (${said}). Deploy it, or correct maintenance.script.`,
    );
  }
  if (status === 401 || status === 403 || codes.includes(CODE.auth)) {
    return fail(
      'AccessDenied',
      `Cloudflare refused the API token when asked to ${what} of zone ${zone}: ${said}. ` +
        'Set CLOUDFLARE_API_TOKEN to a token with the permission Workers Routes: Edit for this zone.',
    );
  }
  if (status === 404 || codes.includes(CODE.unknownZone)) {
    return fail(
      'NotFound',
      `Cloudflare does not have it: could not ${what} of zone ${zone} (${said}). Check maintenance.zone.`,
    );
  }
  if (status === 409 || codes.includes(CODE.duplicate)) {
    return fail('Conflict', `Cloudflare could not ${what}, the pattern has a route already (${said}).`);
  }
  return fail('Refused', `Cloudflare refused to ${what}: ${said}.`);
}
