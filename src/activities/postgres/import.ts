import type { KubeConfig } from '@kubernetes/client-node';
import { Writable } from 'node:stream';
import { StringDecoder } from 'node:string_decoder';
import type { ImportError, ImportFact, PodRef } from '../../domain/facts.ts';
import { mayPass, psqlErrors } from '../../domain/sqlstate.ts';
import { redact } from '../../domain/redact.ts';
import { fail } from '../errors.ts';
import { noSpace, readJob } from '../kubernetes/jobs.ts';
import type { PostgresActivities } from '../types.ts';
import { fileName, runScript } from './job.ts';

/** How many unexpected errors are kept with their words. */
const kept = 20;

/** Imports into an empty, fenced server over its own socket; every error of SQL is in the result, classified. */
export async function importDump(
  kc: KubeConfig,
  arg: Parameters<PostgresActivities['importDump']>[0],
): Promise<ImportFact> {
  const { server } = arg;
  if (server.role === 'source' || server.host !== null)
    throw fail('Refused', 'nothing is ever imported into the source');
  const name = fileName('import', arg.name);
  const where = `${server.pod.namespace}/${server.pod.name}`;
  const out = await runScript(kc, server, {
    name,
    script: 'import.sh',
    argv: [arg.path, arg.compression, arg.sha512],
    what: 'import',
    unit: 'bytes',
    again: false,
    codes: {
      70: (says) => fail('ChecksumMismatch', `the dump in ${where} is not the one that was made: ${says}`),
      71: () => fail('Refused', `the server in ${where} listens on TCP: pgleap imports only behind its fence`),
      // By an import that is known no more, as of a workflow that was reset: it begins again in an empty one.
      72: (says) => fail('JobLost', `the server in ${where} is not empty: ${says}`),
      73: () => fail('ScratchLost', `the dump ${arg.path} in ${where} is gone`),
    },
  });
  const { seconds }: { seconds: number } = JSON.parse(out);
  const bootstrap = { role: server.superuser, database: 'postgres' };
  const fact: ImportFact = { expected: [], unexpected: [], unexpectedCount: 0, seconds };
  await readErrors(kc, server.pod, name, (error) => {
    if (mayPass(error, bootstrap)) {
      fact.expected.push(error);
      return;
    }
    fact.unexpectedCount += 1;
    if (fact.unexpected.length < kept) fact.unexpected.push({ ...error, message: redact(error.message) });
  });
  // What was lost then is a question of room, not of the dump. 53100: disk_full.
  const full = fact.unexpected.find(({ sqlstate }) => sqlstate === '53100');
  if (full !== undefined) throw await noSpace(kc, server.pod, 'import', full.message);
  return fact;
}

async function readErrors(
  kc: KubeConfig,
  pod: PodRef,
  job: string,
  onError: (error: ImportError) => void,
): Promise<void> {
  const parser = psqlErrors(onError);
  const decoder = new StringDecoder('utf8');
  const stdout = new Writable({
    write(chunk: Buffer, _encoding, done) {
      parser.push(decoder.write(chunk));
      done();
    },
  });
  await readJob(kc, pod, job, 'err', { stdout, timeoutMs: 300_000 });
  parser.push(decoder.end());
  parser.end();
}
