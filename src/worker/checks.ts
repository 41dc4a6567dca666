/** Whether the systems that a worker needs answer and take its credentials: for the worker's start and for `pgleap doctor`. */
import { z } from 'zod';
import type { KubeConfig } from '@kubernetes/client-node';
import { getVolumes } from '@linode/api-v4';
import { messageOf, isFailure } from '../activities/errors.ts';
import { createKube } from '../activities/kubernetes/client.ts';
import { clusterUid } from '../activities/kubernetes/identity.ts';
import { linode } from '../activities/linode-client.ts';
import type { Check } from '../domain/checks.ts';

const limitMs = 10_000;

/** Reads the namespace kube-system, whose uid is the cluster's identity: every upgrade does so, too. */
export async function checkCluster(kubeConfig: KubeConfig): Promise<Check> {
  const id = 'cluster';
  try {
    await clusterUid(createKube(kubeConfig));
    return {
      id,
      status: 'PASSED',
      message: `The Kubernetes API at ${kubeConfig.getCurrentCluster()?.server} answers.`,
    };
  } catch (error) {
    const remedy = isFailure(error, 'AccessDenied')
      ? 'Renew the kubeconfig, or give its user what docs/rbac.md lists.'
      : 'No upgrade can go without its cluster.';
    return { id, status: 'FAILED', message: `${messageOf(error)}.`, remedy };
  }
}

export async function checkLinode(config: { token: string; url: string | undefined }): Promise<Check> {
  const id = 'linode';
  const { token, url } = config;
  if (token === '') {
    return {
      id,
      status: 'SKIPPED',
      message:
        'LINODE_TOKEN is not set: upgrades are refused unless their spec says clone: none. Set it to a token with the scope volumes:read_write.',
    };
  }
  try {
    const access = { token: () => token, timeoutMs: limitMs, ...(url === undefined ? {} : { baseUrl: url }) };
    await linode(access, 'list volumes', z.unknown(), () => getVolumes({ page_size: 25 }));
    return { id, status: 'PASSED', message: 'Linode’s API answers and takes LINODE_TOKEN.' };
  } catch (error) {
    const denied = isFailure(error, 'AccessDenied');
    return {
      id,
      status: denied ? 'FAILED' : 'WARNING',
      message: messageOf(error),
      remedy: denied
        ? 'Make a new token at cloud.linode.com/profile/tokens.'
        : 'Check the network; activities try again until it answers.',
    };
  }
}

/** The token alone: which zone it is for says only the spec, so preflight checks that. */
export async function checkCloudflare(config: { token: string; url: string | undefined }): Promise<Check> {
  const id = 'cloudflare';
  const base = config.url ?? 'https://api.cloudflare.com/client/v4';
  if (config.token === '') {
    return {
      id,
      status: 'SKIPPED',
      message: 'CLOUDFLARE_API_TOKEN is not set: upgrades with maintenance routes are refused.',
    };
  }
  try {
    const response = await fetch(`${base}/user/tokens/verify`, {
      headers: { authorization: `Bearer ${config.token}` },
      signal: AbortSignal.timeout(limitMs),
    });
    if (response.ok)
      return { id, status: 'PASSED', message: 'Cloudflare’s API answers and takes CLOUDFLARE_API_TOKEN.' };
    if ([400, 401, 403].includes(response.status)) {
      return {
        id,
        status: 'FAILED',
        message: `Cloudflare refuses CLOUDFLARE_API_TOKEN (${response.status}).`,
        remedy: 'Make a token with the permission Zone / Workers Routes / Edit for the zone.',
      };
    }
    return {
      id,
      status: 'INFO',
      message: `Cloudflare’s API at ${base} answers, but does not say whether the token is good.`,
    };
  } catch (error) {
    return {
      id,
      status: 'WARNING',
      message: `Cloudflare’s API at ${base} does not answer: ${messageOf(error)}.`,
      remedy: 'Check the network; activities try again until it answers.',
    };
  }
}
