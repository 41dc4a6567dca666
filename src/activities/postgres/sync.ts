import type { KubeConfig } from '@kubernetes/client-node';
import type { ServerRef } from '../../domain/facts.ts';
import { fail } from '../errors.ts';
import { execInPod } from '../kubernetes/exec.ts';
import { script, serverArgs, sqlFailure } from './psql.ts';

/** After the mark in its shared memory, which other pods of the node may see. */
export const unsynced = ({ pod }: ServerRef) => `pgleap-unsynced-${pod.uid}`;

/** Waits until all that the server has written is on its disk. Throws CommandFailed when the disk did not take it. */
export async function syncData(kc: KubeConfig, server: ServerRef): Promise<void> {
  const argv = ['bash', '-c', script('sync.sh'), 'pgleap', ...serverArgs(server), unsynced(server)];
  const { code, stderr } = await execInPod(kc, server.pod, argv, { timeoutMs: 10 * 60_000 });
  if (code === 0) return;
  if (code !== 74) throw sqlFailure(server, code, stderr);
  const { namespace, name } = server.pod;
  throw fail(
    'CommandFailed',
    `the disk of ${namespace}/${name} did not take all that was written (${stderr.trim()}): what its server reads from memory may be ` +
      'lost with the next crash. Go back, and look at the volume and its node. It is not asked again before the pod is another',
  );
}
