import type { KubeConfig } from '@kubernetes/client-node';
import { ApplicationFailure } from '@temporalio/common';
import type { ActivityInterceptorsFactory } from '@temporalio/worker';
import { redact } from '../domain/redact.ts';

/** What the kubeconfig holds in itself; what a command or a file gives it is asked for anew each time, and never shown. */
export function kubeSecrets(kubeConfig: KubeConfig): string[] {
  return kubeConfig.getUsers().flatMap(({ token, password, keyData }) => {
    const key = keyData === undefined ? [] : [keyData, Buffer.from(keyData, 'base64').toString('utf8')];
    return [token, password, ...key].filter((secret): secret is string => Boolean(secret));
  });
}

/** Takes the worker's own secrets, and what looks like one, out of a text. */
export function cleaner(secrets: string[]): (text: string) => string {
  // A short one would also be part of innocent words.
  const known = secrets.filter((secret) => secret.length > 3);
  return (text) => redact(known.reduce((left, secret) => left.replaceAll(secret, '***'), text));
}

/**
 * The last net before Temporal's history: whatever an SDK puts into its errors, no message, stack or detail that leaves an
 * activity holds one of the worker's secrets.
 */
export function secretsNet(clean: (text: string) => string): ActivityInterceptorsFactory {
  return () => ({
    inbound: {
      async execute(input, next) {
        try {
          return await next(input);
        } catch (error) {
          cleanError(error, clean);
          throw error;
        }
      },
    },
  });
}

function cleanError(error: unknown, clean: (text: string) => string): void {
  for (let one: unknown = error; one instanceof Error; one = one.cause) {
    one.message = clean(one.message);
    if (one.stack !== undefined) one.stack = clean(one.stack);
    if (one instanceof ApplicationFailure && one.details) {
      const text = JSON.stringify(one.details);
      const cleaned = clean(text);
      if (cleaned !== text) Object.assign(one, { details: [cleaned] });
    }
  }
}
