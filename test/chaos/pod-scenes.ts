/** Activities whose pods come and go, that run commands in pods, and that copy. */
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { sha512OfFile } from '../../src/activities/artifacts/store.ts';
import { runInPod } from '../../src/activities/kubernetes/exec.ts';
import type { KubernetesActivities } from '../../src/activities/kubernetes/index.ts';
import { clearJob } from '../../src/activities/kubernetes/jobs.ts';
import { awaitServer } from '../../src/activities/kubernetes/server.ts';
import { sqlText } from '../../src/activities/postgres/psql.ts';
import type { Artifact, ServerRef } from '../../src/domain/facts.ts';
import { expect } from 'vitest';
import { run } from '../activities/environment.ts';
import type { Scene } from './scene.ts';
import {
  artifacts,
  direct,
  facts,
  folder,
  kube,
  namespace,
  objects,
  isTime,
  plain,
  plainPostgres,
  postgres,
  service,
  source,
  stageOf,
  world,
} from './cluster.ts';
import { faults, type Fault } from './faults.ts';

const hbaFile = '/var/lib/postgresql/data/pg_hba.conf';

/** A fenced server that is empty but for what the scenes of jobs put there. */
let fenced: ServerRef | undefined;
/** A file in the source's pod, to be copied. */
let copied: Artifact;

export async function prepare(): Promise<void> {
  const make = 'seq 200000 >/tmp/original && stat -c %s /tmp/original && sha512sum /tmp/original';
  const [bytes = '', sum = ''] = (await runInPod(direct.kc, source.pod, ['sh', '-c', make])).split('\n');
  copied = { name: 'file', bytes: Number(bytes), sha512: sum.slice(0, 128) };
}

async function state(): Promise<unknown> {
  const look = `cat ${hbaFile}; ls ${hbaFile}*; cd /tmp; sha512sum original; sha512sum copy* 2>/dev/null || :`;
  const kept = await readdir(join(folder, 'artifacts'), { recursive: true, withFileTypes: true });
  return {
    objects: await objects(),
    inPod: await runInPod(direct.kc, source.pod, ['sh', '-c', look]),
    jobs: fenced && (await ofJobs(fenced)),
    kept: await Promise.all(
      kept
        .filter((entry) => entry.isFile())
        .map(async ({ name, parentPath }) => [name, await sha512OfFile(join(parentPath, name))]),
    ),
  };
}

const stop = (on: KubernetesActivities) => on.stopService({ world, service: service('metricity') });
const restore = (on: KubernetesActivities) => on.restoreService({ world, service: service('metricity') });
// Through the proxy, also before and after: nothing is ordered from it then.
const fence = () => postgres.fenceSource({ world, source, hbaFile, candidateIp: '10.9.9.9', readOnlyLogins: [] });
const lift = () => postgres.liftSourceFence({ world, database: facts.database, hbaFile });
const copyOut = () => artifacts.copyOut({ world, pod: source.pod, path: '/tmp/original', ...copied });
const forgetCopies = async () => {
  await rm(join(folder, 'artifacts', world.upgradeId), { recursive: true, force: true });
  await runInPod(direct.kc, source.pod, ['sh', '-c', 'rm -f /tmp/copy*']);
};

/** Each start of a job is written down by what stands in the place of setsid. */
const setsid = `#!/bin/sh
echo "$PGLEAP_JOB" >>/pgleap/begun
PATH=\${PATH#*:} exec setsid "$@"
`;

async function fencedServer(): Promise<ServerRef> {
  if (fenced !== undefined) return fenced;
  const at = { namespace, name: 'fenced' };
  const path = (await runInPod(direct.kc, source.pod, ['printenv', 'PATH'])).trim();
  await direct.create('Pod', {
    metadata: at,
    spec: {
      volumes: [{ name: 'scratch', emptyDir: {} }],
      containers: [
        {
          name: 'postgres',
          image: 'postgres:16',
          env: [
            { name: 'POSTGRES_USER', value: source.superuser },
            { name: 'POSTGRES_PASSWORD', value: 'nobody asks for it' },
            { name: 'PATH', value: `/pgleap/bin:${path}` },
          ],
          args: ['-c', 'listen_addresses='],
          volumeMounts: [{ name: 'scratch', mountPath: '/pgleap' }],
        },
      ],
    },
  });
  const { server } = await run(() =>
    awaitServer(
      direct,
      'candidate',
      { container: 'postgres', superuser: source.superuser, port: 5432 },
      { find: () => direct.find('Pod', at), timeoutMs: 60_000 },
    ),
  );
  const script = 'mkdir /pgleap/bin && printf %s "$1" >/pgleap/bin/setsid && chmod 755 /pgleap/bin/setsid';
  await runInPod(direct.kc, server.pod, ['sh', '-c', script, 'sh', setsid]);
  fenced = server;
  return server;
}

/** What jobs were begun, what they left, and how often the dump was imported. */
async function ofJobs(server: ServerRef): Promise<unknown> {
  // Neither is there before the first job.
  const look = 'cd /pgleap && { cat begun; ls -d * jobs/*; } 2>/dev/null; true';
  return {
    files: await runInPod(direct.kc, server.pod, ['sh', '-c', look]),
    imports: await sqlText(direct.kc, server, imports),
  };
}

const imports = `SELECT count(*) FROM pg_class WHERE relname ~ '^imported'`;
const forgetJobs = async () => {
  const server = await fencedServer();
  // None was begun where the very first command failed. A fingerprint's name ends with the life of its server.
  const names = (await runInPod(direct.kc, server.pod, ['sh', '-c', 'ls /pgleap/jobs 2>/dev/null; true'])).split('\n');
  const left = names.filter((name) => /^(import|dump|fingerprint)-a/.test(name));
  await run(() => Promise.all(left.map((name) => clearJob(direct.kc, server.pod, name))));
  await runInPod(direct.kc, server.pod, ['sh', '-c', 'cd /pgleap && rm -rf a.* fingerprint-* begun']);
  const drop = `SELECT format('DROP TABLE %I', relname) FROM pg_class WHERE relname ~ '^imported' \\gexec`;
  await sqlText(direct.kc, server, drop, { write: true, ownSearchPath: true });
};
/** A name of its own for each import: a second one adds to the first. */
const dumpText = `SELECT format('CREATE TABLE imported_%s ()', count(*)) FROM pg_class WHERE relname ~ '^imported' \\gexec`;
const makeDump = async () => {
  const { pod } = await fencedServer();
  const make = 'printf "%s\n" "$1" | gzip >/pgleap/a.sql.gz && sha512sum </pgleap/a.sql.gz';
  dumpSum = (await runInPod(direct.kc, pod, ['sh', '-c', make, 'sh', dumpText])).slice(0, 128);
};
let dumpSum = '';
/** What a job takes is new each time. */
const lasted = <T extends { seconds: number }>({ seconds, ...rest }: T) => ({ ...rest, seconds: seconds >= 0 });
const ofJob = (some: Fault[]) => ({
  only: (call: string, fault: Fault) => call.includes(' of a job') && some.includes(fault),
  before: makeDump,
  after: forgetJobs,
});

/** Of a snapshot, or alone. */
const nextOf = (text: string) => BigInt(text.split(':')[1] ?? text);
let counted = 0n;
/** Its services write meanwhile. */
const counting = {
  before: async () => {
    counted = nextOf(await run(() => plainPostgres.nextTransaction({ server: source })));
  },
};
const sinceCounted = async (next: string) => {
  const now = nextOf(await run(() => plainPostgres.nextTransaction({ server: source })));
  return counted <= nextOf(next) && nextOf(next) <= now;
};

/** A refused command is refused in the same way whichever it is; where an activity may end between two of them is not. */
const eachCommand = (call: string, fault: Fault) =>
  !/command [2-9]$/.test(call) || ['reset before', 'reset after', '403', '429'].includes(fault);

export const podScenes: Scene[] = [
  {
    activity: 'stopService',
    run: () => stop(kube),
    // An attempt whose answer was lost may have stopped it.
    told: (seen) => seen !== undefined && seen.had >= 0,
    after: () => run(() => restore(plain)),
  },
  { activity: 'restoreService', before: () => run(() => stop(plain)), run: () => restore(kube) },
  {
    activity: 'startService',
    before: () => run(() => stop(plain)),
    run: () => kube.startService({ world, service: service('metricity') }),
    told: ({ at }) => isTime(at),
    after: () => run(() => restore(plain)),
  },
  {
    activity: 'nextTransaction',
    ...counting,
    run: () => postgres.nextTransaction({ server: source }),
    told: sinceCounted,
  },
  {
    activity: 'otherSessions',
    run: () => postgres.otherSessions({ server: source }),
    told: (sessions) => {
      // Services are connected all the time, but for the CronJob: else nobody could tell an answer from none.
      const steady = sessions.filter((session) => !session.startsWith('blackbox'));
      expect(steady).not.toEqual([]);
      return steady.toSorted();
    },
  },
  {
    activity: 'countWrites',
    ...counting,
    run: () => postgres.countWrites({ server: source }),
    told: async ({ nextTransaction, databases }) => [
      await sinceCounted(nextTransaction),
      databases.map(({ name, ...rows }) => [name, Object.values(rows).every((count) => count >= 0)]),
    ],
  },
  {
    activity: 'seeSource',
    only: eachCommand,
    ...counting,
    run: () => postgres.seeSource({ world, database: facts.database }),
    told: async (seen) => ({ ...seen, nextTransaction: await sinceCounted(seen.nextTransaction) }),
  },
  {
    activity: 'fenceSource',
    only: eachCommand,
    run: fence,
    // Who is connected changes, and those whom an attempt ended without an answer are gone for the next one.
    told: ({ at, hba, ended, endedCount }) => [
      isTime(at),
      hba,
      endedCount >= ended.length && ended.every((session) => session.includes(' from ')),
    ],
    after: () => run(lift),
  },
  { activity: 'liftSourceFence', only: eachCommand, before: () => run(fence), run: lift, after: () => run(lift) },
  { activity: 'copyOut', only: eachCommand, run: copyOut, after: forgetCopies },
  {
    activity: 'copyIn',
    only: eachCommand,
    before: () => run(copyOut),
    run: () => artifacts.copyIn({ world, artifact: copied, pod: source.pod, path: '/tmp/copy' }),
    told: lasted,
    after: forgetCopies,
  },
  {
    activity: 'importDump',
    ...ofJob([...faults]),
    run: async () => {
      const server = await fencedServer();
      const dump = { path: '/pgleap/a.sql.gz', compression: 'gzip', sha512: dumpSum } as const;
      return await postgres.importDump({ world, server, name: 'a', ...dump });
    },
    told: lasted,
  },
  {
    activity: 'dump',
    ...ofJob(['timeout', 'reset before', 'reset after', '403']),
    run: async () => {
      const from = await fencedServer();
      return await postgres.dump({ world, from, compression: 'gzip', estimateBytes: 0, name: 'a' });
    },
    // Each dump of newer versions has a word of its own in it.
    told: async ({ path, bytes, sha512, ...rest }) => {
      const look = `stat -c %s "$1" && sha512sum <"$1"`;
      const { pod } = await fencedServer();
      const found = await runInPod(direct.kc, pod, ['sh', '-c', look, 'sh', path]);
      return [lasted(rest), path, found.startsWith(`${bytes}\n${sha512} `)];
    },
  },
  {
    activity: 'fingerprint',
    ...ofJob(['reset before', 'reset after']),
    run: async () => postgres.fingerprint({ world, server: await fencedServer(), name: 'a' }),
    told: lasted,
  },
];

export const stage = stageOf(state);
