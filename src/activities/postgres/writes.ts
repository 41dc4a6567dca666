import { unknownWrites, writesSince, type WriteCounts, type Writes } from '../../domain/old-world.ts';
import type { ServerRef } from '../../domain/facts.ts';
import type { KubeConfig } from '@kubernetes/client-node';
import { messageOf } from '../errors.ts';
import type { Kube } from '../kubernetes/client.ts';
import { sqlJson } from './psql.ts';

/** Sessions report what they did at most once a second. */
const countsSql = `
SELECT json_build_object(
  'nextTransaction', pg_snapshot_xmax(pg_current_snapshot())::text,
  'databases', (SELECT coalesce(json_agg(json_build_object('name', datname, 'inserted', tup_inserted, 'updated', tup_updated,
    'deleted', tup_deleted) ORDER BY datname), '[]') FROM pg_stat_database WHERE datname IS NOT NULL))`;

const clientsSql = `
SELECT coalesce(json_agg(DISTINCT jsonb_build_object('says', concat_ws(' ', usename, nullif(application_name, '')),
  'address', host(client_addr))), '[]')
FROM pg_stat_activity WHERE backend_type IN ('client backend', 'walsender') AND application_name <> 'pgleap' AND pid <> pg_backend_pid()`;

const clientsNamed = 20;

/** Rows and transactions that the server has counted until now. */
export async function countWrites(kc: KubeConfig, server: ServerRef): Promise<WriteCounts> {
  return await sqlJson<WriteCounts>(kc, server, countsSql);
}

/** Counts again and names who is connected, by the pods of `namespaces` that have the sessions' addresses. */
export async function lostWrites(
  kube: Kube,
  server: ServerRef,
  opened: WriteCounts | null,
  namespaces: string[],
): Promise<Writes> {
  try {
    const clients = await sqlJson<{ says: string; address: string | null }[]>(kube.kc, server, clientsSql);
    const counts = await countWrites(kube.kc, server);
    const pods = await podsByAddress(kube, namespaces);
    const named = clients.map(
      ({ says, address }) => `${says} from ${address === null ? 'the socket' : (pods.get(address) ?? address)}`,
    );
    const clientsSeen = [...new Set(named)].sort().slice(0, clientsNamed);
    return writesSince(opened, counts, clientsSeen, new Date().toISOString());
  } catch (error) {
    return unknownWrites(`the target could not be asked: ${messageOf(error)}`, new Date().toISOString());
  }
}

async function podsByAddress(kube: Kube, namespaces: string[]): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  for (const namespace of new Set(namespaces)) {
    for (const { metadata, status } of await kube.list('Pod', { namespace })) {
      if (status?.podIP !== undefined && status.phase === 'Running') {
        found.set(status.podIP, `${namespace}/${metadata?.name}`);
      }
    }
  }
  return found;
}
