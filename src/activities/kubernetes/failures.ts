import type { KubeConfig } from '@kubernetes/client-node';
import type { ApplicationFailure } from '@temporalio/common';
import type { FailureType } from '../../domain/failures.ts';
import { fail, messageOf } from '../errors.ts';

/** What the API server answers in place of an object. */
interface Status {
  message?: string;
  reason?: string;
  details?: { retryAfterSeconds?: number };
}

function typeOf(code: number): FailureType {
  if (code === 401 || code === 403) return 'AccessDenied';
  if (code === 404) return 'NotFound';
  if (code === 409 || code === 410) return 'Conflict';
  if (code === 429) return 'RateLimited';
  if (code >= 500) return 'Unreachable';
  return 'Refused';
}

/** The failure for an HTTP answer that is not 2xx. `what` names the request; headers are looked at, never kept. */
export function fromResponse(
  code: number,
  body: string,
  headers: Record<string, string | string[] | undefined>,
  what: string,
): ApplicationFailure {
  let status: Status = {};
  try {
    status = JSON.parse(body);
  } catch {
    // Proxies in front of the API server answer with plain text or HTML.
    status = { message: body.slice(0, 300) };
  }
  const retryAfter = Number(headers['retry-after'] ?? status.details?.retryAfterSeconds);
  const text = status.message === undefined || status.message === '' ? '' : `: ${status.message}`;
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
    ...(Number.isFinite(retryAfter) && retryAfter > 0 ? { retryAfterMs: retryAfter * 1000 } : {}),
    details: [{ code, reason: status.reason ?? null }],
  });
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
