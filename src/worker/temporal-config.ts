import { loadClientConnectConfig } from '@temporalio/envconfig';
import { messageOf } from '../activities/errors.ts';
import { UserError } from '../domain/exit-codes.ts';

/**
 * Address, namespace and credentials as the `temporal` command finds them: environment, then its configuration file. A
 * variable that is empty is one that is not set: an empty API key would mean TLS.
 */
export function loadTemporalConfig(): ReturnType<typeof loadClientConnectConfig> {
  const set = Object.entries(process.env).flatMap(([name, value]) => (value ? [[name, value] as const] : []));
  try {
    return loadClientConnectConfig({ overrideEnvVars: Object.fromEntries(set) });
  } catch (error) {
    throw new UserError('noTemporal', `Temporal’s configuration cannot be used: ${messageOf(error)}`, { cause: error });
  }
}
