import type { KubeConfig } from '@kubernetes/client-node';
import type { ApplicationFailure } from '@temporalio/common';
import type { FailureType } from '../../domain/failures.ts';
import { z } from 'zod';
import { redact } from '../../domain/redact.ts';
import { fail, messageOf } from '../errors.ts';
import { retryAfterMs } from '../retry-after.ts';

/** What the API server answers in place of an object. */
const statusShape = z.object({
  message: z.string().optional(),
  reason: z.string().max(100).optional().catch(undefined),
  details: z
    .object({ retryAfterSeconds: z.number().optional().catch(undefined) })
    .nullish()
    .catch(undefined),
});
type Status = z.infer<typeof statusShape>;

function typeOf(code: number): FailureType {
  if (code === 401 || code === 403) return 'AccessDenied';
  if (code === 404) return 'NotFound';
  if (code === 409 || code === 410) return 'Conflict';
  if (code === 429) return 'RateLimited';
  // Below 400: a login page or a redirect to one, where the API server should have answered.
  if (code >= 500 || code < 400) return 'Unreachable';
  return 'Refused';
}

/** The failure for an HTTP answer that is not 2xx. `what` names the request; headers are looked at, never kept. */
export function fromResponse(
  code: number,
  body: string,
  headers: Record<string, string | string[] | undefined>,
  what: string,
): ApplicationFailure {
  const status = readStatus(body);
  const header = headers['retry-after'];
  const seconds = status.details?.retryAfterSeconds;
  const retryAfter = Array.isArray(header)
    ? header[0]
    : (header ?? (seconds === undefined ? undefined : String(seconds)));
  const text =
    status.message === undefined || status.message === '' ? '' : `: ${redact(status.message).slice(0, 1000)}`;
  // The API server answers 403 to what admission refuses, too: no right would help.
  const quota = code === 403 && /exceeded quota|failed quota|\b(maximum|minimum) .* usage per /.test(text);
  const remedy =
    code === 401
      ? '; check the credentials of the kubeconfig'
      : quota
        ? '; raise the namespace’s ResourceQuota or LimitRange for the time of the upgrade'
        : code === 403
          ? '; docs/rbac.md lists what pgleap needs to be allowed'
          : '';
  return fail(quota ? 'Refused' : typeOf(code), `the Kubernetes API answered ${code} to ${what}${text}${remedy}`, {
    ...(retryAfter === undefined ? {} : { retryAfterMs: retryAfterMs(retryAfter, 1000) }),
    details: [{ code, reason: status.reason ?? null }],
  });
}

/** The API server's own word for a failure of fromResponse; null where the answer held none. */
export function reasonOf({ details }: ApplicationFailure): string | null {
  const [first] = (details ?? []) as { reason?: string | null }[];
  return first?.reason ?? null;
}

/** The failure for an answer that no API server gives. A page of a gateway must not pass for an object or an empty list. */
export function notTheApi(kc: KubeConfig, what: string): ApplicationFailure {
  const server = kc.getCurrentCluster()?.server;
  return fail(
    'Unreachable',
    `what answered ${what} at ${server} is not the Kubernetes API; look for a proxy or login page in front of it`,
  );
}

/** Proxies in front of the API server answer with plain text, HTML, or JSON of their own. */
function readStatus(body: string): Status {
  try {
    const read = statusShape.safeParse(JSON.parse(body));
    if (read.success) return read.data;
  } catch {
    // Then it is text.
  }
  return { message: body.slice(0, 1000) };
}

/** The failure for a request that got no answer: says the server's address and what to check. */
export function unreachable(kc: KubeConfig, error: unknown): ApplicationFailure {
  const server = kc.getCurrentCluster()?.server ?? '(no cluster in the kubeconfig)';
  const text = messageOf(error);
  const check = /certificate|self.signed|TLS|SSL/i.test(text)
    ? 'check certificate-authority and the server name in the kubeconfig'
    : /timeout|aborted/i.test(text)
      ? 'check that the API server is up and not blocked by a firewall'
      : 'check the address in the kubeconfig, the network, and that the API server is up';
  return fail('Unreachable', `the Kubernetes API at ${server} does not answer (${text}); ${check}`);
}
