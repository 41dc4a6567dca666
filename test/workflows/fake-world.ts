/**
 * A world in memory that answers every activity of the contract and knows the laws: what must not be done is noted in
 * `broken` and refused. It tells a workflow's decisions apart from real systems, and it is strict where a real one is silent.
 */
import { ApplicationFailure, Context } from '@temporalio/activity';
import { setTimeout as delay } from 'node:timers/promises';
import type { Check } from '../../src/domain/checks.ts';
import { specSchema } from '../../src/domain/spec.ts';
import type { Artifact, FingerprintFact, ServiceFact } from '../../src/domain/facts.ts';
import { fakeFacts } from './fake-facts.ts';
import type { FailureType } from '../../src/domain/failures.ts';
import { compared, type OldWorld, type VolumeUsed, type Writes } from '../../src/domain/old-world.ts';
import type { Undo } from '../../src/domain/undo.ts';
import type { ArtifactActivities, SharedActivities } from '../../src/activities/types.ts';

export type AllActivities = SharedActivities & ArtifactActivities;
export type ActivityName = keyof AllActivities;

interface Fault {
  type: FailureType;
  times: number;
  /** Whether the activity takes effect before it fails. */
  after: boolean;
}

export interface Knobs {
  namespace: string;
  queue: string;
  /** Checks that inspectCluster answers beside its facts. */
  failedCheck?: boolean;
  candidateCheckFails?: boolean;
  /** Who else holds the Lease. */
  lockedBy?: string;
  artifactQueue?: string;
}

export type FakeWorld = ReturnType<typeof createWorld>;

function hex(text: string): string {
  return Buffer.from(text).toString('hex').padEnd(128, '0').slice(0, 128);
}

export function createWorld(knobs: Knobs) {
  const { namespace } = knobs;
  const { services, reconcilers, database, routes, sourceFacts, volumeFacts } = fakeFacts(namespace);

  const old = () => ({
    counts: new Map(services.map((known) => [`${known.namespace}/${known.name}`, known.replicas])),
    suspended: new Map(
      services
        .filter(({ kind }) => kind === 'CronJob')
        .map((known) => [`${known.namespace}/${known.name}`, known.suspended]),
    ),
    paused: new Map(reconcilers.map(({ name }) => [name, false])),
    routes: new Map(routes.map((route) => [route.pattern, route.prior?.script ?? null])),
    reclaim: 'Delete' as 'Delete' | 'Retain',
    claim: 'original' as 'original' | 'new',
    image: 'postgres:16',
    source: 'running' as 'running' | 'stopped',
    fenced: false,
    letIn: [] as string[],
    lease: null as string | null,
    candidate: null as number | string | null,
    scratch: false,
    clone: null as string | null,
    originalVolume: true,
  });
  const state = old();
  const target = { fenced: true, pod: 'uid-pod-new', began: '03:00', rows: null as string | null };
  /** What a way back finds left of the old volume. */
  const going = { volume: 'original' as VolumeUsed };
  /** What inspectCluster says of the worker's rights. */
  const rights = { missing: false, blind: false };
  /** What inspectCluster finds in the way beside that. */
  const inTheWay: Check[] = [];
  /** Whether the spec goes without a clone: then nobody asks the provider. */
  let goesWithout = false;
  let scaledByOthers: string | null = null;
  let candidateRows: string | null = null;
  let candidates = 0;
  let atRestSeen = false;
  let clones = 0;
  /** Content of the source, as one word; a test that changes it is a service that still writes. */
  let content = 'rows-v1';
  /** What the source says of itself beside its content. */
  const sourceSeen = { systemIdentifier: sourceFacts.systemIdentifier, housekept: '' };
  const dumps = new Map<string, string>();
  /** Answers of detached jobs, found again under their names until their volume is emptied: what is there now may differ. */
  const jobs = { scratch: new Map<string, unknown>(), target: new Map<string, unknown>() };
  /** Whether an earlier run of a reset workflow left what it did: then an import may meet it, and is refused as by a real server. */
  let leftovers = false;
  const artifacts = new Map<string, string>();
  const journal = {
    begun: false,
    undos: [] as Undo[],
    undone: [] as string[],
    committed: false,
    back: false,
    lost: null as Writes | null,
    old: null as OldWorld | null,
    closed: null as string | null,
  };
  const order: string[] = [];
  const broken: string[] = [];
  const told: { kind: string; text: string }[] = [];
  const faults = new Map<ActivityName, Fault>();
  const holds = new Map<ActivityName, { reached: () => void; release: Promise<void> }>();

  function law(holdsTrue: boolean, text: string): void {
    if (holdsTrue) return;
    broken.push(text);
    throw ApplicationFailure.nonRetryable(`LAW BROKEN: ${text}`, 'Refused');
  }
  function registered(activity: Undo['activity'], matches: (undo: Undo) => boolean = () => true): void {
    const found = journal.undos.some(
      (undo) => undo.activity === activity && matches(undo) && !journal.undone.includes(undo.id),
    );
    law(found, `${activity} was not journalled before its change`);
  }
  function job<T>(volume: keyof typeof jobs, name: string, make: () => T): T {
    if (!jobs[volume].has(name)) jobs[volume].set(name, make());
    return jobs[volume].get(name) as T;
  }
  function intoEmpty(rows: string | null, where: string): void {
    if (!leftovers || (rows ?? '') === '')
      return law((rows ?? '') === '', `a dump is imported into an empty ${where} only`);
    throw ApplicationFailure.create({ message: `the ${where} is not empty`, type: 'JobLost' });
  }
  function asksProvider(): void {
    law(!goesWithout, 'the provider is not asked when the spec goes without a clone');
  }
  function journalOpen(): void {
    law(journal.begun, 'the journal is begun before it is written');
    law(journal.undone.length === 0, 'nothing is journalled any more once it is gone back');
    law(!journal.committed, 'nothing is journalled any more once the target is open');
  }
  const file = (name: string, text: string): Artifact => {
    artifacts.set(name, text);
    return { name, bytes: text.length, sha512: hex(text) };
  };

  const activities: AllActivities = {
    resolveSpec: async (input) => {
      const parsed = specSchema.safeParse(input);
      if (parsed.success) {
        goesWithout = parsed.data.clone === 'none';
        return parsed.data;
      }
      throw ApplicationFailure.nonRetryable(
        parsed.error.issues.map(({ message }) => message).join('; '),
        'SpecInvalid',
      );
    },
    inspectCluster: async () => ({
      facts: rights.blind
        ? null
        : structuredClone({
            clusterUid: 'cluster-1',
            server: 'https://cluster',
            kubernetesVersion: '1.34',
            database: { ...database, volume: { ...database.volume, reclaimPolicy: state.reclaim } },
            services,
            reconcilers,
          }),
      checks: rights.missing
        ? [
            { id: 'kube.lease', status: 'FAILED', message: 'Its own Lease.' },
            { id: 'kube.access', status: 'FAILED', message: 'It may not: patch deployments.', remedy: 'Bind it.' },
          ]
        : knobs.failedCheck
          ? [{ id: 'claim.exists', status: 'FAILED', message: 'The claim is missing.', remedy: 'Name it.' }]
          : [
              { id: 'claim.exists', status: 'PASSED', message: 'The claim exists.' },
              {
                id: 'kube.replicas',
                status: state.source === 'running' ? 'PASSED' : 'FAILED',
                message: 'One replica.',
              },
              ...inTheWay,
            ],
    }),
    inspectSource: async () => ({
      facts: sourceFacts,
      checks: [{ id: 'source.locale', status: 'WARNING', message: 'A locale | with odd `signs`.', remedy: 'Look.' }],
    }),
    inspectVolume: async () => {
      asksProvider();
      return { facts: volumeFacts, checks: [] };
    },
    inspectRoutes: async ({ maintenance }) => ({ routes: maintenance ? routes : [], checks: [] }),
    artifactStore: async () => ({ queue: knobs.artifactQueue ?? knobs.queue, folder: '/artifacts' }),

    takeLease: async ({ world }) => {
      if (knobs.lockedBy !== undefined) throw ApplicationFailure.nonRetryable(`held by ${knobs.lockedBy}`, 'Locked');
      state.lease = world.upgradeId;
    },
    beginJournal: async () => {
      journal.begun = true;
    },
    journalOld: async ({ old: known }) => {
      journalOpen();
      journal.old = known;
    },
    readJournal: async () =>
      journal.begun
        ? {
            committedAt: journal.committed ? '2026-01-01T00:00:00Z' : null,
            outcome: journal.closed,
            undos: journal.undos.map((undo) => ({ ...undo, done: journal.undone.includes(undo.id) })),
          }
        : null,
    journalUndo: async ({ undos }) => {
      journalOpen();
      for (const undo of undos) {
        const index = journal.undos.findIndex(({ id }) => id === undo.id);
        if (index === -1) journal.undos.push(undo);
        else journal.undos[index] = undo;
      }
    },
    journalUndone: async ({ undoId }) => {
      // An entry is marked, and may be marked again when the answer was lost.
      if (!journal.undone.includes(undoId)) journal.undone.push(undoId);
    },
    journalCommit: async () => {
      journal.committed = true;
      return '2026-01-01T00:00:00Z';
    },
    journalBack: async ({ lost }) => {
      if (lost !== undefined)
        law(target.fenced && journal.undone.length === 0, 'what is lost is counted before it goes');
      journal.lost = lost ?? journal.lost;
      law(journal.committed, 'only what was opened is gone back from with a loss');
      journal.back = true;
    },
    closeJournal: async ({ outcome }) => {
      journal.closed = outcome;
    },
    setReclaimPolicy: async () => {
      registered('restoreReclaimPolicy');
      state.reclaim = 'Retain';
    },
    createScratch: async () => {
      registered('removeScratch');
      state.scratch = true;
    },
    createCandidate: async ({ generation }) => {
      registered('removeCandidate');
      law(state.scratch, 'a candidate needs its scratch volume');
      if (state.candidate !== generation) candidateRows = null;
      if (state.candidate !== generation) candidates += 1;
      state.candidate = generation;
      return {
        pod: { namespace, name: 'pgleap-candidate', uid: `uid-candidate-${candidates}`, container: 'postgres' },
        podIp: `10.0.1.${candidates}`,
        versionNum: 180004,
        imageId: 'sha256:abc',
        compression: 'zstd',
      };
    },
    pauseReconciler: async ({ reconciler }) => {
      registered(
        'resumeReconciler',
        (undo) => undo.activity === 'resumeReconciler' && undo.args.reconciler.uid === reconciler.uid,
      );
      state.paused.set(reconciler.name, true);
    },
    seeAtRest: async ({ atRest }) => {
      law(atRest.services.length === services.length, 'all services are looked at');
      atRestSeen = true;
    },
    stopService: async ({ service: known }) => {
      if (known.replicas !== 0) registered('restoreService', about(known));
      law(![...state.paused.values()].includes(false), 'what would start services again is paused before they stop');
      law(!known.readOnly && known.kind !== 'CronJob', 'only services that write are stopped');
      const had = state.counts.get(place(known)) ?? 0;
      state.counts.set(place(known), 0);
      return { had };
    },
    suspendCronJob: async ({ service: known }) => {
      if (known.suspended !== true) registered('restoreCronJob', about(known));
      const wasOn = state.suspended.get(place(known)) !== true;
      state.suspended.set(place(known), true);
      return { runningJobs: 1, wasOn };
    },
    startService: async ({ service: known }) => {
      law(!target.fenced, 'a service sees one database: the target must be open before it starts');
      state.counts.set(place(known), known.replicas);
      return { at: new Date().toISOString() };
    },
    resumeCronJob: async ({ service: known }) => {
      law(!target.fenced, 'a CronJob sees one database');
      state.suspended.set(place(known), false);
      return { missed: '2026-01-01T03:00:00Z' };
    },
    compareOldWorld: async ({ old: before }) => [
      compared('volume', 'volume', 'original', state.claim),
      compared('database', 'image', before.database.image, state.image),
      ...before.services.map((known) => {
        const is = known.kind === 'CronJob' ? state.suspended.get(place(known)) : state.counts.get(place(known));
        return compared('service', place(known), String(known.replicas ?? known.suspended), String(is));
      }),
    ],
    observeService: async () => ({ ready: true, restarts: 0, logProblems: [] }),
    haltDatabase: async ({ atRest }) => {
      law(atRest.reconcilers.length === reconcilers.length, 'services are looked at before the source is stopped');
      registered('restartSource');
      law(dumps.size > 0, 'the source is not stopped before a dump');
      law(state.letIn.length === 0, 'nobody can write between the last look at the source and its stop');
      state.source = 'stopped';
    },
    replaceClaim: async ({ atRest, approvedUntil }) => {
      if (state.claim === 'original' && approvedUntil != null && Date.parse(approvedUntil) <= Date.now()) {
        throw ApplicationFailure.nonRetryable('the approval has lapsed', 'ApprovalLapsed');
      }
      law(atRest.reconcilers.length === reconcilers.length, 'services are looked at before the volume is replaced');
      registered('rebindOriginal');
      law(state.source === 'stopped', 'the source is stopped before its volume is replaced');
      law(state.reclaim === 'Retain', 'the original volume is under Retain before it is replaced');
      law(
        [...artifacts.keys()].some((name) => name.startsWith('dump')),
        'a dump is in the artifact store before replace',
      );
      law(candidateRows === content, 'a trial equals the source before replace');
      law(goesWithout || state.clone === 'active', 'the clone is active before replace');
      law(approvals.has('replace'), 'gate replace is approved before replace');
      state.claim = 'new';
      return { claimUid: 'uid-claim-new', pv: 'pvc-new', handle: '4712-pvcnew' };
    },
    deployTarget: async () => {
      registered('restoreTemplate');
      law(state.claim === 'new', 'the target starts on the new volume only');
      if (state.image !== 'postgres:18') target.rows = '';
      state.image = 'postgres:18';
      return server('target');
    },
    emptyTarget: async () => {
      law(state.claim === 'new' && target.fenced, 'only a fenced target on the new volume is emptied');
      target.rows = '';
      jobs.target.clear();
      return server('target');
    },
    sweepTarget: async ({ target: asked }) => {
      law(asked.pod.uid === target.pod, 'the target is asked in its pod of now');
      law(target.rows === content, 'the target is proven before it is swept');
    },
    openTarget: async () => {
      law(target.rows === content || !target.fenced, 'the target equals the source before it is opened');
      law(approvals.has('reopen'), 'gate reopen is approved before the target is opened');
      law(journal.committed, 'the commit point is journalled before it is passed');
      target.fenced = false;
      return server('target');
    },

    checkCandidate: async () =>
      knobs.candidateCheckFails
        ? [
            {
              id: 'candidate.extensions',
              status: 'FAILED',
              message: 'postgis is missing.',
              remedy: 'Use an image with it.',
            },
          ]
        : [{ id: 'candidate.login', status: 'PASSED', message: 'The candidate reaches the source.' }],
    fenceSource: async ({ candidateIp, source, readOnlyLogins }) => {
      law(source.pod.uid === database.pod.uid, 'the source is asked in its pod of now');
      registered('liftSourceFence');
      law(atRestSeen, 'services are looked at before the source is fenced');
      atRestSeen = false;
      law(candidateIp === `10.0.1.${candidates}`, 'the fence lets the candidate of now in');
      law(
        services.every((known) => known.kind === 'CronJob' || known.readOnly || state.counts.get(place(known)) === 0),
        'services are stopped before the source is fenced',
      );
      state.fenced = true;
      state.letIn = readOnlyLogins;
      return { ended: ['app from 10.0.0.9'], endedCount: 1, at: new Date().toISOString(), hba: 'hba-before' };
    },
    dump: async ({ name, from }) => {
      law(from.host === database.podIp, 'the source is dumped at its address of now');
      law(state.fenced || name.startsWith('rehearsal'), 'the source is fenced before it is dumped');
      return job('scratch', `dump-${name}`, () => {
        dumps.set(name, content);
        return { path: `/pgleap/${name}`, compression: 'zstd' as const, bytes: 1000, sha512: hex(content), seconds: 2 };
      });
    },
    fingerprint: async ({ server: asked, name }): Promise<FingerprintFact> => {
      const { role } = asked;
      const seen = role === 'source' ? content : role === 'candidate' ? candidateRows : target.rows;
      const life = role === 'source' ? '' : role === 'candidate' ? candidates : `${target.pod} ${target.began}`;
      return job(role === 'target' ? 'target' : 'scratch', `fingerprint-${name} ${life}`, () => ({
        path: `/pgleap/${name}`,
        bytes: 100,
        sha512: hex(`fingerprint ${seen ?? ''}`),
        databases: 2,
        tables: 12,
        rows: 345,
        sequences: 1,
        largeObjects: 1,
        roles: 3,
        seconds: 1,
      }));
    },
    importDump: async ({ server: asked, path, name }) => {
      const dumped = dumps.get(path.replace('/pgleap/', '')) ?? artifacts.get(path.replace('/pgleap/', '')) ?? '';
      return job(asked.role === 'target' ? 'target' : 'scratch', `import-${name}`, () => {
        if (asked.role === 'candidate') {
          intoEmpty(candidateRows, 'candidate');
          candidateRows = dumped;
        } else {
          intoEmpty(target.rows, 'target');
          law(state.claim === 'new', 'the original volume is never imported into');
          target.rows = dumped;
        }
        return { expected: [], unexpected: [], unexpectedCount: 0, seconds: 3 };
      });
    },
    tryLogins: async () => ({ tried: 3, failed: [], failedCount: 0 }),
    analyze: async () => ({ seconds: 1 }),
    saveSettings: async () => {
      law(state.source === 'running', 'settings are read while the source runs');
      return { settings: { hba: 'local all all trust', ident: null, autoConf: { work_mem: '8MB' }, refused: [] } };
    },
    carrySettings: async () => ({
      items: [
        { what: 'setting', name: 'work_mem', outcome: 'carried', why: 'it was set' },
        { what: 'file', name: 'server.key', outcome: 'refused', why: 'a secret' },
      ],
    }),
    nextTransaction: async () => {
      law(state.source === 'running', 'only a running source is asked');
      return hex(content);
    },
    seeSource: async () => {
      law(state.source === 'running', 'only a running source is asked');
      return {
        pod: database.pod,
        podIp: database.podIp,
        versionNum: sourceFacts.versionNum,
        systemIdentifier: sourceSeen.systemIdentifier,
        nextTransaction: hex(`${content}${sourceSeen.housekept}`),
        hba: state.fenced ? 'fence' : 'hba-before',
        takesLogins: !state.fenced,
      };
    },
    countWrites: async () => ({ nextTransaction: '100', databases: [] }),
    lostWrites: async ({ opened }) => {
      law(opened?.nextTransaction === '100', 'what is lost is counted from what the target had when it was proven');
      return {
        at: '2026-01-01T00:00:00Z',
        transactions: 7,
        rows: { inserted: 5, updated: 1, deleted: 0 },
        databases: [{ name: 'shop', inserted: 5, updated: 1, deleted: 0 }],
        clients: ['app from web/site'],
        why: null,
      };
    },
    closeTarget: async () => {
      law(
        services.every((known) => known.kind === 'CronJob' || known.readOnly || state.counts.get(place(known)) === 0),
        'services are stopped before the target is closed',
      );
      target.fenced = true;
    },
    otherSessions: async () => [],
    observeDatabase: async () => ({ sessions: 3, logins: ['app'], transactionsPerSecond: 12.5, probeMs: [1] }),

    awaitDetached: async () => {
      asksProvider();
      law(state.source === 'stopped', 'the volume is detached after the source stopped');
    },
    startClone: async ({ label }) => {
      asksProvider();
      registered('removeClone');
      law(state.source === 'stopped', 'the original volume is at rest before it is cloned');
      state.clone = 'creating';
      clones += 1;
      return { id: 4712 + clones, label, sizeGb: 10, region: 'eu' };
    },
    awaitClone: async () => {
      asksProvider();
      state.clone = 'active';
    },
    setRoute: async ({ route }) => {
      registered(
        'restoreRoute',
        (undo) => undo.activity === 'restoreRoute' && undo.args.route.pattern === route.pattern,
      );
      state.routes.set(route.pattern, 'maintenance');
    },
    verifyRoutes: async () => ({ seconds: 1 }),
    copyOut: async ({ path, name, sha512 }) => {
      const dumped = dumps.get(path.replace('/pgleap/', ''));
      return { ...file(name, dumped ?? name), sha512 };
    },
    copyIn: async ({ artifact }) => {
      law(artifacts.has(artifact.name), 'only what the artifact store holds is copied in');
      return { seconds: 1 };
    },
    compareFingerprints: async ({ a, b }) => {
      const equal = a.sha512 === b.sha512;
      return { equal, differing: equal ? 0 : 1, differences: equal ? [] : ['table public.x: 1 row, 2 rows'] };
    },
    editManifest: async () => [file('manifest-postgres.yaml', 'image: postgres:18')],
    writeReport: async () => [file('report.html', '<html>'), file('report.json', '{}')],
    notify: async ({ kind, text }) => {
      told.push({ kind, text });
    },

    restoreReclaimPolicy: async () => {
      law(state.claim === 'original', 'the original volume stays under Retain until it is bound again');
      state.reclaim = 'Delete';
    },
    removeCandidate: async () => {
      state.candidate = null;
    },
    removeScratch: async () => {
      law(state.candidate === null, 'the candidate goes before its volume');
      state.scratch = false;
      jobs.scratch.clear();
    },
    releaseLease: async ({ world }) => {
      if (state.lease === world.upgradeId) state.lease = null;
    },
    restoreRoute: async ({ route }) => {
      law(!state.fenced || !target.fenced || !journal.begun, 'visitors come back to a database that is open');
      state.routes.set(route.pattern, route.prior?.script ?? null);
    },
    restoreService: async ({ service: known }) => {
      law(!state.fenced && state.source === 'running', 'services come back when the source runs and is open');
      state.counts.set(place(known), scaledByOthers === known.name ? (known.replicas ?? 0) + 1 : known.replicas);
    },
    restoreCronJob: async ({ service: known }) => {
      state.suspended.set(place(known), known.suspended);
      return { missed: '2026-01-01T03:00:00Z' };
    },
    resumeReconciler: async ({ reconciler }) => {
      law(
        services.every(
          (known) => known.kind === 'CronJob' || (state.counts.get(place(known)) ?? 0) >= (known.replicas ?? 0),
        ),
        'services are back before what keeps them goes on',
      );
      state.paused.set(reconciler.name, false);
    },
    liftSourceFence: async () => {
      law(state.source === 'running', 'the source runs before its fence is lifted');
      state.fenced = false;
      state.letIn = [];
    },
    restartSource: async () => {
      law(
        state.claim === 'original' && state.image === 'postgres:16',
        'the source runs on its own volume with its own image',
      );
      state.source = 'running';
    },
    rebindOriginal: async ({ volume }) => {
      if (volume !== null) asksProvider();
      law(state.image === 'postgres:16', 'the target is gone before the original volume is bound again');
      law(!journal.committed || journal.back, 'what services wrote is not left behind without a word');
      state.claim = 'original';
      return { volume: going.volume, kept: journal.committed ? { pv: 'pvc-new', handle: '4712-pvcnew' } : null };
    },
    restoreTemplate: async () => {
      state.image = 'postgres:16';
    },
    removeClone: async () => {
      asksProvider();
      law(state.claim === 'original' || approvals.has('cleanup'), 'the clone is kept until it is needed no more');
      law(going.volume !== 'clone', 'the clone is not removed while the database is on it');
      state.clone = null;
    },
    removeOriginal: async ({ volume }) => {
      if (volume !== null) asksProvider();
      law(approvals.has('cleanup'), 'gate cleanup is approved before the original volume is removed');
      law(state.claim === 'new', 'the original volume is not in use when it is removed');
      state.originalVolume = false;
    },
  };
  /** Gates that were answered yes, or pass by policy; set by the test. */
  const approvals = new Set<string>();

  async function perform(name: ActivityName, args: unknown[]): Promise<unknown> {
    if (name !== 'notify') order.push(name);
    const hold = holds.get(name);
    if (hold) {
      holds.delete(name);
      hold.reached();
      const beat = setInterval(() => Context.current().heartbeat({ what: name }), 50);
      try {
        await Promise.race([hold.release, Context.current().cancelled]);
      } finally {
        clearInterval(beat);
      }
    }
    const fault = faults.get(name);
    const fails = fault !== undefined && fault.times > 0;
    if (fails) fault.times -= 1;
    if (fails && !fault.after) throw ApplicationFailure.nonRetryable(`${name} failed on purpose`, fault.type);
    const result = await (activities[name] as (...given: unknown[]) => Promise<unknown>)(...args);
    if (fails) throw ApplicationFailure.nonRetryable(`${name} failed on purpose, after it took effect`, fault.type);
    return result;
  }

  return {
    activities,
    perform,
    state,
    target,
    going,
    rights,
    inTheWay,
    journal,
    order,
    broken,
    told,
    approvals,
    faults,
    /** The spec this world expects; gates are asked unless said otherwise. */
    spec: (more: Record<string, unknown> = {}): Record<string, unknown> => ({
      database: { namespace },
      target: { image: 'postgres:18' },
      maintenance: { zone: '0'.repeat(32), script: 'maintenance', patterns: routes.map(({ pattern }) => pattern) },
      retention: '1ms',
      observe: '1ms',
      ...more,
    }),
    oldState: old,
    /** For tests that change the world behind the upgrade’s back. */
    database,
    services,
    reconcilers,
    meetLeftovers: () => {
      leftovers = true;
    },
    /** A service that somebody else scales up as soon as it is back. */
    scaleWhenBack: (name: string) => {
      scaledByOthers = name;
    },
    writeToSource: (text: string) => {
      content = text;
    },
    /** Another server under the same claim. */
    replaceSource: () => {
      sourceSeen.systemIdentifier = 'another';
    },
    /** Takes a transaction id without a change of the data. */
    housekeeping: () => {
      sourceSeen.housekept = ' and then some';
    },
    failOn: (name: ActivityName, type: FailureType = 'CommandFailed', times = 1, after = false) => {
      faults.set(name, { type, times, after });
    },
    /** Stops the next call of an activity in its midst, until it is released or cancelled. */
    hold: (name: ActivityName) => {
      const arrived = Promise.withResolvers<void>();
      const released = Promise.withResolvers<void>();
      holds.set(name, { reached: arrived.resolve, release: released.promise });
      return { arrived: arrived.promise, release: released.resolve };
    },
    /** For waits of a test on what the world is told. */
    until: async (what: () => boolean) => {
      const deadline = Date.now() + 90_000;
      while (!what()) {
        if (Date.now() > deadline) throw new Error(`never so: last was ${order.at(-1)}. ${broken.join()}`);
        await delay(20);
      }
    },
  };

  function server(role: 'target') {
    const pod = { namespace, name: 'postgres-1', uid: target.pod, container: 'postgres' };
    return { role, pod, superuser: 'postgres', host: null, port: 5432, began: target.began } as const;
  }
}

/** Matches the undo of one service. */
function about(known: ServiceFact): (undo: Undo) => boolean {
  return ({ args }) => 'service' in args && place(args.service) === place(known);
}

function place(known: ServiceFact): string {
  return `${known.namespace}/${known.name}`;
}
