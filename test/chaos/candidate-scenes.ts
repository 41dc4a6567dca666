/** The candidate made, and activities that ask it or the source: what they run in pods, and what they change. */
import { runInPod } from '../../src/activities/kubernetes/exec.ts';
import { clearJob } from '../../src/activities/kubernetes/jobs.ts';
import { sqlText } from '../../src/activities/postgres/psql.ts';
import type { Check } from '../../src/domain/checks.ts';
import type { CandidateFact, ServerRef, SourceFacts } from '../../src/domain/facts.ts';
import { run } from '../activities/environment.ts';
import type { Scene } from './scene.ts';
import {
  direct,
  facts,
  kube,
  objects,
  plain,
  plainPostgres,
  postgres,
  source,
  spec,
  stageOf,
  world,
} from './cluster.ts';
import type { Fault } from './faults.ts';

let candidate: CandidateFact | undefined;
let sourceFacts: SourceFacts | undefined;

/** In its pod. A socket only, so no host. */
const server = (): ServerRef => {
  if (candidate === undefined) throw new Error('no candidate');
  return { role: 'candidate', pod: candidate.pod, superuser: source.superuser, host: null, port: source.port };
};
/** As the candidate reaches it. */
const sourceFromCandidate = (): ServerRef => ({ ...server(), role: 'source', host: facts.database.podIp });

async function sourceNow(): Promise<SourceFacts> {
  const { facts: found } = await run(() => plainPostgres.inspectSource({ spec, database: facts.database }));
  if (found === null) throw new Error('no facts of the source');
  return (sourceFacts ??= found);
}
async function create(on: typeof kube): Promise<CandidateFact> {
  const known = await sourceNow();
  return (candidate = await on.createCandidate({
    world,
    spec,
    database: facts.database,
    source: known,
    generation: 1,
  }));
}
/** The pod itself is another each time. */
async function asItStands({ pod, podIp, ...rest }: CandidateFact): Promise<unknown> {
  const { metadata, status } = await direct.get('Pod', pod);
  return [rest, pod.name, pod.uid === metadata?.uid, podIp === status?.podIP];
}
async function withScratch(): Promise<void> {
  await run(() => plain.createScratch({ world, claim: facts.database.claim, bytes: 1 }));
}
async function remove(): Promise<void> {
  await run(() => plain.removeCandidate({ world }));
  candidate = undefined;
}
async function stands(): Promise<void> {
  await withScratch();
  if (candidate === undefined) await run(() => create(plain));
}
const settings = { hba: null, ident: null, autoConf: { work_mem: '8MB' }, refused: [] };
const reset = () => sqlText(direct.kc, server(), 'ALTER SYSTEM RESET ALL', { write: true });
/** Jobs keep their results for as long as a server lives. */
async function forgetJobs(): Promise<void> {
  const { pod } = server();
  const jobs = await runInPod(direct.kc, pod, ['sh', '-c', 'ls /pgleap/jobs 2>/dev/null; true']);
  for (const name of jobs.split('\n').filter((one) => one !== '')) await run(() => clearJob(direct.kc, pod, name));
}

const look = `cat "$PGDATA/postgresql.auto.conf"; ls -d /pgleap/pgdata-*; ls /pgleap/jobs 2>/dev/null; true`;
async function state(): Promise<unknown> {
  return {
    objects: await objects(),
    inPod: candidate && (await runInPod(direct.kc, candidate.pod, ['sh', '-c', look])).replaceAll(/\d{6,}/g, '(time)'),
  };
}

/** Changes by each kind of fault, commands by a lost answer and by a refusal: those that look were read by others already. */
const telling: Fault[] = ['timeout', 'reset after', '403', '404', '409', '422', '429', 'garbage'];
const ofCommands: Fault[] = ['reset before', 'reset after', '403'];
const only = (call: string, fault: Fault) =>
  call.startsWith('GET') ? call.includes('/exec, ') && ofCommands.includes(fault) : telling.includes(fault);
const ids = (checks: Check[]) => checks.map(({ id, status }) => `${id} ${status}`);

export const candidateScenes: Scene[] = [
  {
    activity: 'createCandidate',
    // Whether its data is looked at depends on how soon the pod runs.
    never: (call) => call.endsWith('look at its data'),
    only,
    before: withScratch,
    run: () => create(kube),
    told: asItStands,
    after: remove,
  },
  {
    activity: 'createCandidate',
    where: 'one that runs',
    // Whatever goes wrong with the look at its data, the wait for its server sees. One that is gone when it was ready: another
    // is made.
    also: (call, fault) =>
      call.endsWith('look at its data') ? ['mended'] : fault === '404' && call.includes('/exec, ') ? ['Conflict'] : [],
    before: stands,
    run: () => create(kube),
    told: asItStands,
  },
  {
    activity: 'checkCandidate',
    only,
    before: stands,
    run: async () =>
      postgres.checkCandidate({
        world,
        source: sourceFromCandidate(),
        candidate: server(),
        candidateIp: candidate?.podIp ?? '',
        facts: await sourceNow(),
      }),
    // How much is free on the machine's disk.
    told: (checks) =>
      checks.map((check) => ({ ...check, message: check.message.replace(/[\d.]+ GB are free/, 'free') })),
  },
  { activity: 'tryLogins', only, before: stands, run: () => postgres.tryLogins({ world, server: server() }) },
  {
    activity: 'analyze',
    only,
    before: stands,
    run: () => postgres.analyze({ world, server: server() }),
    told: ({ seconds }) => seconds >= 0,
    after: forgetJobs,
  },
  {
    activity: 'carrySettings',
    only,
    before: stands,
    run: () => postgres.carrySettings({ world, target: server(), settings }),
    // What an attempt carried without an answer is the same for the next one.
    told: ({ items }) => items.map(({ what, name, outcome }) => [what, name, outcome !== 'refused']),
    after: reset,
  },
  {
    activity: 'inspectSource',
    only,
    // That the source does not answer is a check of its own.
    also: (_, fault) => (fault === 'reset before' ? ['check FAILED'] : []),
    run: () => postgres.inspectSource({ spec, database: facts.database }),
    // Sizes grow, and what a probe takes is new each time.
    told: ({ facts: found, checks }) => [found && { ...found, bytes: 0, probeMs: [] }, ids(checks)],
  },
  {
    activity: 'saveSettings',
    only,
    run: async () => postgres.saveSettings({ world, source, sourceFacts: await sourceNow() }),
  },
  {
    activity: 'observeDatabase',
    only,
    run: () => postgres.observeDatabase({ spec, server: source }),
    // The CronJob comes and goes.
    told: ({ sessions, logins, transactionsPerSecond, probeMs }) => {
      const steady = logins.filter((login) => login !== 'blackbox');
      return [sessions >= logins.length, steady, transactionsPerSecond >= 0, probeMs.length];
    },
  },
];

export const stage = stageOf(state);
