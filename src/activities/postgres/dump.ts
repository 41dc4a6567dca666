import type { KubeConfig } from '@kubernetes/client-node';
import type { DumpFact, FingerprintFact, ServerRef } from '../../domain/facts.ts';
import { fail } from '../errors.ts';
import type { PostgresActivities } from '../types.ts';
import { fileName, lifeOf, runScript } from './job.ts';

/** pg_dumpall by the target's own client, to `/pgleap/<name>.sql.zst` or `.gz` of the pod that runs it. */
export async function dump(kc: KubeConfig, arg: Parameters<PostgresActivities['dump']>[0]): Promise<DumpFact> {
  const path = `/pgleap/${fileName(arg.name)}.sql.${arg.compression === 'zstd' ? 'zst' : 'gz'}`;
  const out = await runScript(kc, arg.from, {
    name: fileName('dump', arg.name),
    script: 'dump.sh',
    argv: [path, arg.compression, String(Math.max(0, Math.floor(arg.estimateBytes)))],
    what: 'dump',
    unit: 'bytes',
    again: true,
    codes: { 65: (says) => fail('CommandFailed', `the dump is not whole: ${says}`) },
  });
  const made: Pick<DumpFact, 'bytes' | 'sha512' | 'seconds'> = JSON.parse(out);
  return { path, compression: arg.compression, ...made };
}

/**
 * What the server holds, as `/pgleap/fingerprint-<name>` of the pod that asks: see fingerprint.sh. Candidate and target run
 * without fsync: after a restart they may hold less, so that the fingerprint of the life before is not found again.
 */
export async function fingerprint(kc: KubeConfig, server: ServerRef, name: string): Promise<FingerprintFact> {
  const life = server.role === 'source' ? [] : [await lifeOf(kc, server)];
  const job = fileName('fingerprint', name, ...life);
  const path = `/pgleap/${job}`;
  const out = await runScript(kc, server, {
    name: job,
    script: 'fingerprint.sh',
    argv: [path],
    what: 'fingerprint',
    unit: 'tables',
    again: true,
  });
  const made: Omit<FingerprintFact, 'path'> = JSON.parse(out);
  return { path, ...made };
}
