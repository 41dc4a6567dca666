import type { ActivityDeps } from '../activities/index.ts';
import type { KubeConfig } from '@kubernetes/client-node';
import path from 'node:path';
import { z } from 'zod';
import * as sdk from '../activities/kubernetes/sdk.ts';
import { UserError } from '../domain/exit-codes.ts';

/** What the worker needs besides Temporal's own `TEMPORAL_*` variables, read from the environment only. */
export interface WorkerConfig extends ActivityDeps {
  taskQueue: string;
  /** Absolute path of the artifact folder. */
  artifacts: string;
  /** `host:port` of the Prometheus endpoint; undefined for none. */
  metrics: string | undefined;
  /** `host:port` of the kubelet's probes; undefined for none. */
  health: string | undefined;
}

const address = z.string().regex(/^\S+:\d{1,5}$/, 'an address such as 127.0.0.1:9464');

const url = z
  .url({ protocol: /^https?$/, error: 'an http or https URL' })
  .transform((text) => text.replace(/\/+$/, ''));

/** Every variable with what it is for: documentation and validation in one place. */
const variables = z.object({
  PGLEAP_TASK_QUEUE: z.string().min(1).default('pgleap'),
  PGLEAP_ARTIFACTS: z.string().min(1).default('artifacts'),
  LINODE_TOKEN: z.string().trim().default(''),
  // The SDK adds the version itself.
  LINODE_API_URL: url.transform((text) => text.replace(/\/v4$/, '')).optional(),
  CLOUDFLARE_API_TOKEN: z.string().trim().default(''),
  CLOUDFLARE_API_URL: url.optional(),
  PGLEAP_NOTIFY_URL: url.optional(),
  PGLEAP_METRICS: address.optional(),
  PGLEAP_HEALTH: address.optional(),
});

/** Throws UserError `configuration` with everything that is wrong, in one paragraph; values are never shown. */
export function readWorkerConfig(env: NodeJS.ProcessEnv = process.env): WorkerConfig {
  // `LINODE_API_URL=` in an .env file means that it is not set.
  const set = Object.fromEntries(Object.entries(env).filter(([, value]) => value !== ''));
  const parsed = variables.safeParse(set);
  if (!parsed.success) {
    const problems = parsed.error.issues.map((issue) => `${issue.path.join('.')} must be ${issue.message}`);
    throw new UserError('configuration', `The worker’s environment is wrong: ${problems.join('; ')}.`);
  }
  const found = parsed.data;
  return {
    taskQueue: found.PGLEAP_TASK_QUEUE,
    artifacts: path.resolve(found.PGLEAP_ARTIFACTS),
    kubeConfig: loadKubeConfig(env),
    linodeToken: found.LINODE_TOKEN,
    linodeUrl: found.LINODE_API_URL,
    cloudflareToken: found.CLOUDFLARE_API_TOKEN,
    cloudflareUrl: found.CLOUDFLARE_API_URL,
    notifyUrl: found.PGLEAP_NOTIFY_URL,
    metrics: found.PGLEAP_METRICS,
    health: found.PGLEAP_HEALTH,
  };
}

/** KUBECONFIG, then ~/.kube/config, then the pod's own service account. Throws UserError when there is none of them. */
export function loadKubeConfig(env: NodeJS.ProcessEnv = process.env): KubeConfig {
  const kubeConfig = new sdk.KubeConfig();
  const from = env['KUBECONFIG'] ? `KUBECONFIG=${env['KUBECONFIG']}` : '~/.kube/config';
  try {
    kubeConfig.loadFromDefault();
  } catch (error) {
    // Of a file that is YAML, but not a kubeconfig, the library says what JavaScript says.
    const why =
      error instanceof TypeError || error instanceof RangeError
        ? 'it has not the shape of a kubeconfig'
        : error instanceof Error
          ? error.message
          : String(error);
    throw new UserError('configuration', `The kubeconfig (${from}) cannot be read: ${why}`, { cause: error });
  }
  // With nothing to read the library invents a cluster at localhost:8080.
  if (kubeConfig.getCurrentCluster()?.server === 'http://localhost:8080' && !env['KUBECONFIG']) {
    throw new UserError(
      'configuration',
      'No Kubernetes cluster is configured. Set KUBECONFIG to a kubeconfig file, put one at ~/.kube/config, ' +
        'or run the worker in the cluster with a service account.',
    );
  }
  if (!kubeConfig.getCurrentCluster()) {
    throw new UserError(
      'configuration',
      `The kubeconfig (${from}) has no current context with a cluster. Choose one: kubectl config use-context NAME.`,
    );
  }
  return kubeConfig;
}
