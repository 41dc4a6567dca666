/**
 * Puts the old world back from the list of undos, last change first, and compares it with what was. The workflow and
 * `pgleap recover` do this alike: nothing here knows who calls the activities.
 */
import type { SharedActivities } from '../activities/types.ts';
import type { ServerRef, ServiceFact, World } from '../domain/facts.ts';
import {
  compared,
  comparedHash,
  compareRoutes,
  isAsBefore,
  unknownWrites,
  unseen,
  type Back,
  type Compared,
  type OldWorld,
  type SourceSeen,
  type Writes,
} from '../domain/old-world.ts';
import { undoOrder, type RegisteredUndo } from '../domain/undo.ts';

type Answer<Name extends keyof SharedActivities> = Awaited<ReturnType<SharedActivities[Name]>>;

/** How activities are called on the way back. */
export interface Way {
  /** Calls until it works; throws when it is given up. */
  call: <Name extends keyof SharedActivities>(
    name: Name,
    says: string,
    arg: Parameters<SharedActivities[Name]>[0],
  ) => Promise<Answer<Name>>;
  /** Calls what may fail without harm: the failure is its answer. */
  look: <Name extends keyof SharedActivities>(
    name: Name,
    says: string,
    arg: Parameters<SharedActivities[Name]>[0],
  ) => Promise<{ answer: Answer<Name> } | { failed: string }>;
  /** Whether this change of the workflow is made: not by one that passed here before it was. */
  patched: (change: string) => boolean;
  /** Told of each undo when it is done and ticked off. */
  undone: (undo: RegisteredUndo) => void;
  /** Waits for all, also when one fails, and then throws the first failure. */
  all: <T>(promises: Promise<T>[]) => Promise<T[]>;
}

/**
 * Undoes all that is not undone. `opened`: the commit point was passed and somebody accepted what is lost: services are taken
 * off the target first, and what they wrote is counted, if nothing was put back yet: else it is `lost`, if that is known.
 */
export async function goBack(
  way: Way,
  arg: { world: World; undos: RegisteredUndo[]; old: OldWorld | null; opened: boolean; lost: Writes | null },
): Promise<Back> {
  const { world, undos, old, opened, lost } = arg;
  const back: Back = {
    compared: [],
    volume: null,
    kept: null,
    cloneKept: null,
    lostWrites: null,
    switchedOff: [],
    missedRuns: [],
  };
  // Later the pod under the claim is the source again, and nothing of the target is left to be counted.
  if (opened && old) {
    if (undos.every(({ done }) => !done)) {
      Object.assign(back, await takeDown(way, world, undos, old));
    } else {
      const why = 'an earlier run was stopped after it had counted';
      back.lostWrites = lost ?? unknownWrites(why, new Date().toISOString());
    }
  }

  const order = undoOrder(undos);
  const proof: Compared[] = [];
  // By a run that was killed, whose proof went with it.
  if (old && undos.some(({ activity, done }) => activity === 'liftSourceFence' && done)) {
    const why = 'an earlier run lifted the fence: services may have written since';
    proof.push(unseen('data', 'fingerprint', old.fingerprint?.sha512.slice(0, 16) ?? 'none', why));
  }
  for (const group of order.filter(([first]) => first?.last === false)) {
    // From here on services write.
    if (group[0]?.activity === 'liftSourceFence') {
      if (old) proof.push(...(await proveData(way, world, old)));
      // Before the fence is ticked off: whoever goes on from there does not prove it again. A clone is only made of a source
      // that was stopped, so there is none where nothing needs a proof.
      if (!isProven(proof)) back.cloneKept = await keepClone(way, world, undos);
    }
    await way.all(group.map((undo) => putBack(way, world, undo, undos, back)));
  }
  // The old world stands: comparing it need not wait for what only costs money.
  const [seen] = await way.all([
    old ? compare(way, world, old, undos) : Promise.resolve([]),
    removeRest(way, world, order, undos, back),
  ]);
  back.compared = [...(seen ?? []), ...proof];
  return back;
}

async function removeRest(
  way: Way,
  world: World,
  order: RegisteredUndo[][],
  undos: RegisteredUndo[],
  back: Back,
): Promise<Compared[]> {
  for (const group of order.filter(([first]) => first?.last === true)) {
    await way.all(group.map((undo) => putBack(way, world, undo, undos, back)));
  }
  return [];
}

async function putBack(
  way: Way,
  world: World,
  undo: RegisteredUndo,
  undos: RegisteredUndo[],
  back: Back,
): Promise<void> {
  if (undo.done) return;
  const { activity, says } = undo;
  // The pair of name and argument was checked where the undo was made.
  const call = way.call as (name: string, text: string, arg: unknown) => Promise<unknown>;
  const answer = await call(activity, `undo: ${says}`, undo.args);
  if (activity === 'rebindOriginal') {
    const rebound = answer as Answer<'rebindOriginal'>;
    back.volume = rebound.volume;
    back.kept = rebound.kept;
    // Before this undo is ticked off: whoever goes on from here must not take the database's own volume for a spare copy.
    if (rebound.volume === 'clone') await keepClone(way, world, undos);
  }
  if (activity === 'restoreCronJob') {
    const { missed } = answer as Answer<'restoreCronJob'>;
    if (missed !== null) back.missedRuns.push(missed);
  }
  await tickOff(way, world, undo);
}

/** Whether the data was seen to be what was fingerprinted: what nobody could look at proves nothing. */
function isProven(proof: readonly Compared[]): boolean {
  return proof.some(({ equal }) => equal === true) && proof.every(({ equal }) => equal !== false);
}

/** Ticks off the clone's removal without removing it. Returns its label; null when there is none to be removed. */
async function keepClone(way: Way, world: World, undos: RegisteredUndo[]): Promise<string | null> {
  let label: string | null = null;
  for (const undo of undos) {
    if (undo.activity !== 'removeClone' || undo.done) continue;
    await tickOff(way, world, undo);
    label = undo.args.label;
  }
  return label;
}

async function tickOff(way: Way, world: World, undo: RegisteredUndo): Promise<void> {
  await way.call('journalUndone', `journal: undone: ${undo.says}`, { world, undoId: undo.id });
  undo.done = true;
  way.undone(undo);
}

/** Nobody uses the target any more, and what was written to it is counted; it is kept, with its fence. */
async function takeDown(
  way: Way,
  world: World,
  undos: RegisteredUndo[],
  old: OldWorld,
): Promise<Pick<Back, 'lostWrites' | 'switchedOff'>> {
  const { database, opened } = old;
  const namespaces = old.services.map(({ namespace }) => namespace);
  const count = async (): Promise<Writes> => {
    const seen = await way.look('lostWrites', 'count what was written since', { world, database, opened, namespaces });
    return 'answer' in seen ? seen.answer : unknownWrites(seen.failed, new Date().toISOString());
  };
  const alsoOff = way.patched('way-back-stops-what-was-off');
  await way.call('journalCommit', 'journal: the commit point', { world });
  await way.call('journalBack', 'journal: back, and what was written since is lost', { world });
  const before = await count();
  const routes = undos.flatMap((undo) => (undo.activity === 'restoreRoute' ? [undo.args] : []));
  await way.all(routes.map((arg) => way.look('setRoute', `maintenance for ${arg.route.pattern}`, arg)));
  // They may be on again since, and would start what is stopped now. One that is gone or was changed is no reason to stay.
  const reconcilers = undos.flatMap((undo) => (undo.activity === 'resumeReconciler' ? [undo.args] : []));
  await way.all(
    reconcilers.map((arg) => way.look('pauseReconciler', `pause ${arg.reconciler.kind} ${arg.reconciler.name}`, arg)),
  );
  const switchedOff: string[] = [];
  const wereOff = alsoOff ? old.services.filter((service) => !service.readOnly && !hasUndo(undos, service)) : [];
  await way.all([
    ...undos.flatMap((undo) =>
      undo.activity === 'restoreCronJob'
        ? [way.call('suspendCronJob', `suspend ${undo.args.service.namespace}/${undo.args.service.name}`, undo.args)]
        : [],
    ),
    ...undos.flatMap((undo) =>
      undo.activity === 'restoreService'
        ? [way.call('stopService', `stop ${undo.args.service.namespace}/${undo.args.service.name}`, undo.args)]
        : [],
    ),
    ...wereOff.map(async (service) => switchedOff.push(...(await switchOff(way, world, service)))),
  ] as Promise<unknown>[]);
  await way.look('closeTarget', 'fence the target', { world, database });
  const after = await count();
  // Who was connected is seen only while they are.
  const known = after.transactions === null ? before : after;
  const clients = [before.clients, after.clients].filter((one) => one !== null);
  const lostWrites = { ...known, clients: clients.length === 0 ? null : [...new Set(clients.flat())] };
  // Nothing of the target is left to be counted by whoever goes on from the first undo.
  if (way.patched('journal-keeps-what-is-lost')) {
    await way.call('journalBack', 'journal: what was written since', { world, lost: lostWrites });
  }
  return { lostWrites, switchedOff };
}

function hasUndo(undos: RegisteredUndo[], { uid }: ServiceFact): boolean {
  return undos.some(({ args }) => 'service' in args && args.service.uid === uid);
}

/** Stops what was off before the upgrade, and stays off: nothing puts it back. Says what it was, if somebody had switched it on. */
async function switchOff(way: Way, world: World, service: ServiceFact): Promise<string[]> {
  const { kind, namespace, name } = service;
  if (kind === 'CronJob') {
    const { wasOn } = await way.call('suspendCronJob', `suspend ${namespace}/${name}`, { world, service });
    return wasOn === true ? [`CronJob ${namespace}/${name}`] : [];
  }
  const { had = 0 } = (await way.call('stopService', `stop ${namespace}/${name}`, { world, service })) ?? {};
  return had > 0 ? [`${kind} ${namespace}/${name} (${had} replicas)`] : [];
}

/**
 * The data is what was fingerprinted, as far as it can be shown while the fence still stands: by another fingerprint, unless the
 * spec's longest downtime has no room for it, or by a transaction id that nobody has taken since.
 */
async function proveData(way: Way, world: World, old: OldWorld): Promise<Compared[]> {
  const { fingerprint, quietAt, database, systemIdentifier } = old;
  if (fingerprint === null) return [unseen('data', 'fingerprint', 'none', 'none was taken before')];
  const expected = fingerprint.sha512.slice(0, 16);
  const seen = await way.look('seeSource', 'look at the source', { world, database });
  if ('failed' in seen) return [unseen('data', 'fingerprint', expected, seen.failed)];
  if (seen.answer.systemIdentifier !== systemIdentifier) {
    return [compared('data', 'fingerprint', expected, `that of another server, ${seen.answer.systemIdentifier}`)];
  }
  const taken = await takeAgain(way, world, old, seen.answer);
  if ('answer' in taken) return [comparedHash('data', 'fingerprint', fingerprint.sha512, taken.answer.sha512)];
  const rows = [unseen('data', 'fingerprint', expected, taken.failed)];
  if (quietAt !== null) {
    const next = seen.answer.nextTransaction;
    rows.push(
      next === quietAt
        ? compared('data', 'next transaction id since the fingerprint', quietAt, next)
        : unseen('data', 'next transaction id since the fingerprint', quietAt, `${next}: housekeeping takes ids, too`),
    );
  }
  return rows;
}

async function takeAgain(
  way: Way,
  world: World,
  old: OldWorld,
  source: SourceSeen,
): Promise<{ answer: Answer<'fingerprint'> } | { failed: string }> {
  const { candidate, fingerprint, database } = old;
  const left = timeLeft(old);
  const seconds = Math.ceil(fingerprint?.seconds ?? 0);
  if (left !== null && seconds > left) {
    return { failed: `it took ${seconds} s, and of maxDowntime ${Math.max(0, Math.round(left))} s are left` };
  }
  if (candidate === null) return { failed: 'there is no candidate to take it' };
  const { superuser, port } = database;
  const server: ServerRef = { role: 'source', pod: candidate, superuser, host: source.podIp, port };
  // Found again after a crash, but not when somebody wrote since.
  const name = `source-back-${source.pod.uid.slice(0, 8)}-${source.nextTransaction.replaceAll(/[:,]/g, '-')}`;
  return await way.look('fingerprint', 'fingerprint of the source, before services come back', { world, server, name });
}

/** Seconds until the spec's longest downtime is over; null when there is no such limit. */
function timeLeft({ maxDowntimeMs, downSince }: OldWorld): number | null {
  if (maxDowntimeMs === null || downSince === null) return null;
  return (Date.parse(downSince) + maxDowntimeMs - Date.now()) / 1000;
}

type Looking = Pick<Way, 'look' | 'all'>;

/** Everything that can be seen of the old world, beside what it was. Nothing is changed to make it so. */
export async function compare(way: Looking, world: World, old: OldWorld, undos: RegisteredUndo[]): Promise<Compared[]> {
  const touched = undos.some(({ activity }) => activity === 'restoreRoute');
  const maintenance = touched ? old.maintenance : null;
  const parts = await way.all([
    compareCluster(way, world, old),
    compareServer(way, world, old),
    ...(maintenance ? [compareSite(way, old, maintenance)] : []),
  ]);
  return parts.flat();
}

async function compareCluster(way: Looking, world: World, old: OldWorld): Promise<Compared[]> {
  const seen = await way.look('compareOldWorld', 'compare the cluster with what it was', { world, old });
  if ('answer' in seen) return seen.answer;
  return (['volume', 'database', 'service'] as const).map((area) => unseen(area, area, 'as it was', seen.failed));
}

async function compareServer(
  way: Looking,
  world: World,
  { database, hba, systemIdentifier }: OldWorld,
): Promise<Compared[]> {
  const seen = await way.look('seeSource', 'look at the old server', { world, database });
  if ('failed' in seen) return [unseen('database', 'server', 'as it was', seen.failed)];
  const { answer } = seen;
  return [
    compared('database', 'system identifier', systemIdentifier, answer.systemIdentifier),
    compared('database', 'takes logins over TCP', 'yes', answer.takesLogins ? 'yes' : 'no'),
    ...(hba === null ? [] : [comparedHash('database', 'pg_hba.conf', hba, answer.hba)]),
  ];
}

async function compareSite(
  way: Looking,
  old: OldWorld,
  maintenance: NonNullable<OldWorld['maintenance']>,
): Promise<Compared[]> {
  const [routes, site] = await Promise.all([
    way.look('inspectRoutes', 'compare the routes with what they were', { maintenance }),
    way.look('verifyRoutes', 'see the site itself', { maintenance, expect: 'normal' }),
  ]);
  const rows =
    'answer' in routes
      ? compareRoutes(old.routes, routes.answer.routes)
      : [unseen('route', 'routes', 'as they were', routes.failed)];
  // A site that the maintenance Worker has now is not asked for itself: its silence would look like a yes.
  const failed = 'failed' in site ? site.failed : 'its routes are not as they were';
  const seen = 'answer' in site && isAsBefore(rows, 'route');
  return [
    ...rows,
    seen
      ? compared('route', 'the site over HTTP', 'itself', 'itself')
      : unseen('route', 'the site over HTTP', 'itself', failed),
  ];
}
