import { z } from 'zod';
import type { World } from '../../domain/facts.ts';
import type { OldWorld, Writes } from '../../domain/old-world.ts';
import { placeOf } from '../../domain/text.ts';
import type { RegisteredUndo, Undo } from '../../domain/undo.ts';
import type { ClusterActivities, UndoActivities } from '../types.ts';
import { fail, isFailure } from '../errors.ts';
import type { Kube, Resource } from './client.ts';
import { checkCluster, isOurs, names, strange, upgradeLabel } from './identity.ts';
import { lockedBy, microTime } from './lease.ts';

/** The head of a journal, its key `upgrade`. */
export interface JournalHead {
  upgradeId: string;
  workflowId: string;
  planHash: string;
  summary: string;
  startedAt: string;
  /** Set just before the commit point: undoing from here on loses what services wrote. */
  committedAt: string | null;
  /** Set when it was decided to go back after the commit point nevertheless. */
  backAt: string | null;
  /** What services wrote and that leaves behind; missing until it is counted, and in journals of older versions. */
  lost?: Writes;
  /** null while the upgrade is under way. */
  outcome: string | null;
  closedAt: string | null;
}

export interface JournalEntry {
  undo: Undo;
  undoneAt: string | null;
}

export interface Journal {
  name: string;
  head: JournalHead;
  /** null until prepare has written it. */
  old: OldWorld | null;
  /** In the order of the changes; undo from the last one back. */
  entries: JournalEntry[];
}

/**
 * Reads a journal back, for people and programs that undo without Temporal. undefined when it is no journal; throws
 * WrongWorld for one that somebody edited so that it cannot be read.
 */
function parseJournal(map: Resource<'ConfigMap'>): Journal | undefined {
  const { upgrade, old, ...rest } = map.data ?? {};
  if (upgrade === undefined) return undefined;
  const keys = Object.keys(rest).filter((key) => key.startsWith('undo.'));
  const at = { namespace: map.metadata?.namespace, name: map.metadata?.name ?? '' };
  // oxlint-disable-next-line typescript/no-unnecessary-type-parameters -- only the caller knows what it asked for
  const read = <T>(key: string, text: string | undefined, shape: z.ZodType): T => {
    const value = jsonOf(text);
    if (!shape.safeParse(value).success) throw strange('ConfigMap', at, `is a journal whose key ${key} cannot be read`);
    // As it was written, with whatever a newer version has put there.
    return value as T;
  };
  return {
    name: at.name,
    head: read<JournalHead>('upgrade', upgrade, headShape),
    old: old === undefined ? null : read<OldWorld>('old', old, z.looseObject({})),
    entries: keys.sort().map((key) => read<JournalEntry>(key, rest[key], entryShape)),
  };
}

const headShape = z.looseObject({
  upgradeId: z.string(),
  workflowId: z.string(),
  startedAt: z.string(),
  committedAt: z.string().nullable(),
  outcome: z.string().nullable(),
});
const entryShape = z.looseObject({
  undo: z.looseObject({ id: z.string(), activity: z.string(), args: z.looseObject({}) }),
  undoneAt: z.string().nullable(),
});

function jsonOf(text: string | undefined): unknown {
  try {
    return JSON.parse(text ?? '');
  } catch {
    return undefined;
  }
}

/** All journals of a namespace, open ones and closed ones. */
export async function listJournals(kube: Kube, namespace: string): Promise<Journal[]> {
  const maps = await kube.list('ConfigMap', { namespace, labels: upgradeLabel });
  return maps.map(parseJournal).filter((journal) => journal !== undefined);
}

async function journalOf(kube: Kube, world: World): Promise<Journal | undefined> {
  const map = await kube.find('ConfigMap', { namespace: world.namespace, name: names.journal(world.upgradeId) });
  return map === undefined || !isOurs(map, world) ? undefined : parseJournal(map);
}

/** Of this upgrade's journal; undefined when there is none. */
export async function headOf(kube: Kube, world: World): Promise<JournalHead | undefined> {
  return (await journalOf(kube, world))?.head;
}

/** What a journal says is to be undone, and what is already. */
export function undosOf({ entries }: Journal): RegisteredUndo[] {
  return entries.map(({ undo, undoneAt }) => ({ ...undo, done: undoneAt !== null }));
}

/**
 * A workflow that was reset to before its end must not change a world that nobody holds for it any more; nor one whose services
 * write to the target; nor one that went back in part: services may have written to the source since its dump, which would be
 * found as done.
 */
function requireForward({ head, name, entries }: Journal): void {
  if (head.outcome !== null) throw fail('Refused', overText(name, head.outcome));
  if (head.backAt) {
    throw fail(
      'Refused',
      `journal ${name} says that this upgrade has been going back since ${head.backAt}, from a target that was open: nothing of what ` +
        `comes before that is done again. Abort it, and then: pgleap recover ${placeOf(head.workflowId)}`,
    );
  }
  if (head.committedAt !== null) {
    throw fail(
      'Refused',
      `journal ${name} says that the target has been open since ${head.committedAt}, so nothing of what comes before that is done ` +
        `again. In phase reopen answer retry; in any other answer abort, and then: pgleap recover ${placeOf(head.workflowId)}`,
    );
  }
  const undone = entries.find(({ undoneAt }) => undoneAt !== null);
  if (undone === undefined) return;
  throw fail(
    'Refused',
    `journal ${name} says that this upgrade has begun to go back (undone at ${undone.undoneAt}: ${undone.undo.says}), so what ` +
      `it has of the database may be out of date. Let it go back: pgleap rollback; or terminate it, and then: pgleap recover ${placeOf(head.workflowId)}`,
  );
}

function overText(name: string, outcome: string): string {
  return `journal ${name} was closed as ${outcome}: this upgrade is over, and changes nothing more. Abort it, and start a new one`;
}

/** Throws Refused unless the journal says that what comes before the commit point may be changed now. */
export async function requireMayChange(kube: Kube, world: World): Promise<void> {
  requireForward(await journalThere(kube, world));
}

/**
 * The same of what services and visitors lose first, with which going back after the commit point begins, too: it is noted
 * before, and nothing is put back until all of that is done. After that it would stop what is live again.
 */
export async function requireMayStop(kube: Kube, world: World): Promise<void> {
  const journal = await journalThere(kube, world);
  const { head, entries } = journal;
  const beginsBack = head.outcome === null && head.backAt && entries.every(({ undoneAt }) => undoneAt === null);
  if (!beginsBack) requireForward(journal);
}

async function journalThere(kube: Kube, world: World): Promise<Journal> {
  await checkCluster(kube, world);
  const journal = await journalOf(kube, world);
  if (journal !== undefined) return journal;
  throw fail(
    'NotFound',
    `journal ${world.namespace}/${names.journal(world.upgradeId)} is gone: nothing is changed without it`,
  );
}

/** Throws PreflightRefused when the upgrade is over: a workflow that was reset to its beginning must not lock the database anew. */
export async function requireNotOver(kube: Kube, world: World): Promise<void> {
  await checkCluster(kube, world);
  const { name = '', head } = (await journalOf(kube, world)) ?? {};
  if (head && head.outcome !== null) throw fail('PreflightRefused', overText(name, head.outcome));
}

export function createJournalActivities(
  kube: Kube,
): Pick<
  ClusterActivities,
  | 'takeLease'
  | 'beginJournal'
  | 'journalOld'
  | 'readJournal'
  | 'journalUndo'
  | 'journalUndone'
  | 'journalCommit'
  | 'journalBack'
  | 'closeJournal'
> &
  Pick<UndoActivities, 'releaseLease'> {
  /**
   * Changes the journal's data under its resourceVersion, again if somebody was faster. What only ticks off may find no
   * journal: somebody removed it, or it was never begun, and going back does not depend on it.
   */
  async function change(
    world: World,
    edit: (journal: Journal) => Record<string, object>,
    { mayBeGone = false } = {},
  ): Promise<void> {
    await checkCluster(kube, world);
    const at = { namespace: world.namespace, name: names.journal(world.upgradeId) };
    for (let attempt = 1; ; attempt += 1) {
      const map = await kube.find('ConfigMap', at);
      if (map === undefined && mayBeGone) return;
      if (map === undefined)
        throw fail('NotFound', `journal ${at.namespace}/${at.name} is gone: nothing is changed without it`);
      const journal = parseJournal(map);
      if (journal === undefined || !isOurs(map, world))
        throw strange('ConfigMap', at, 'is not the journal of this upgrade');
      const changes = edit(journal);
      if (Object.keys(changes).length === 0) return;
      const data = Object.fromEntries(Object.entries(changes).map(([key, value]) => [key, JSON.stringify(value)]));
      try {
        await kube.patch('ConfigMap', at, { metadata: { resourceVersion: map.metadata?.resourceVersion }, data });
        return;
      } catch (error) {
        if (!isFailure(error, 'Conflict') || attempt === 5) throw error;
      }
    }
  }

  async function changeHead(
    world: World,
    edit: (head: JournalHead) => Partial<JournalHead>,
    options: { mayBeGone?: boolean } = {},
  ): Promise<void> {
    await change(
      world,
      ({ head }) => {
        const changed = { ...head, ...edit(head) };
        return JSON.stringify(changed) === JSON.stringify(head) ? {} : { upgrade: changed };
      },
      options,
    );
  }

  return {
    async takeLease({ world, workload, workflowId }) {
      await checkCluster(kube, world);
      const name = names.lease(workload);
      try {
        await kube.create('Lease', {
          metadata: {
            namespace: world.namespace,
            name,
            labels: { [upgradeLabel]: world.upgradeId },
          },
          spec: { holderIdentity: workflowId, acquireTime: microTime(new Date()) },
        });
      } catch (error) {
        if (!isFailure(error, 'Conflict')) throw error;
        const lease = await kube.find('Lease', { namespace: world.namespace, name });
        // Let go in between: the next attempt takes it.
        if (lease === undefined) throw error;
        if (isOurs(lease, world)) return;
        throw fail('Locked', lockedBy(workload, world.namespace, lease));
      }
    },

    async releaseLease({ world, workload }) {
      await checkCluster(kube, world);
      const at = { namespace: world.namespace, name: names.lease(workload) };
      const lease = await kube.find('Lease', at);
      if (lease !== undefined && isOurs(lease, world)) await kube.remove('Lease', at, lease.metadata?.uid ?? '');
    },

    async beginJournal({ world, workflowId, planHash, summary }) {
      await checkCluster(kube, world);
      const at = { namespace: world.namespace, name: names.journal(world.upgradeId) };
      const head: JournalHead = {
        upgradeId: world.upgradeId,
        workflowId,
        planHash,
        summary,
        startedAt: world.startedAt,
        committedAt: null,
        backAt: null,
        outcome: null,
        closedAt: null,
      };
      try {
        await kube.create('ConfigMap', {
          metadata: { ...at, labels: { [upgradeLabel]: world.upgradeId, 'app.kubernetes.io/managed-by': 'pgleap' } },
          data: { upgrade: JSON.stringify(head) },
        });
      } catch (error) {
        if (!isFailure(error, 'Conflict')) throw error;
        const map = await kube.get('ConfigMap', at);
        if (!isOurs(map, world)) throw strange('ConfigMap', at, 'exists, but is not of this upgrade');
      }
    },

    async journalOld({ world, old }) {
      await change(world, (journal) => {
        requireForward(journal);
        return JSON.stringify(journal.old) === JSON.stringify(old) ? {} : { old };
      });
    },

    async readJournal({ world }) {
      await checkCluster(kube, world);
      const journal = await journalOf(kube, world);
      if (journal === undefined) return null;
      const { committedAt, outcome } = journal.head;
      return { committedAt, outcome, undos: undosOf(journal) };
    },

    async journalUndo({ world, undos }) {
      await change(world, (journal) => {
        requireForward(journal);
        const { entries } = journal;
        const changes: Record<string, JournalEntry> = {};
        let next = entries.length;
        for (const undo of undos) {
          const at = entries.findIndex((entry) => entry.undo.id === undo.id);
          changes[keyOf(at === -1 ? next++ : at)] = { undo, undoneAt: null };
        }
        return changes;
      });
    },

    async journalUndone({ world, undoId }) {
      await change(
        world,
        ({ entries }) => {
          const at = entries.findIndex((entry) => entry.undo.id === undoId);
          const entry = entries[at];
          if (entry === undefined || entry.undoneAt !== null) return {};
          return { [keyOf(at)]: { ...entry, undoneAt: new Date().toISOString() } };
        },
        { mayBeGone: true },
      );
    },

    async journalCommit({ world }) {
      let committedAt = new Date().toISOString();
      await changeHead(world, (head) => ({ committedAt: (committedAt = head.committedAt ?? committedAt) }));
      return committedAt;
    },

    async journalBack({ world, lost }) {
      await changeHead(
        world,
        (head) => {
          // Whoever begins again may find nobody to count.
          const known = lost !== undefined && (lost.transactions !== null || head.lost === undefined);
          return { backAt: head.backAt ?? new Date().toISOString(), ...(known ? { lost } : {}) };
        },
        { mayBeGone: true },
      );
    },

    async closeJournal({ world, outcome }) {
      await changeHead(
        world,
        (head) => ({ outcome, closedAt: head.outcome === outcome ? head.closedAt : new Date().toISOString() }),
        { mayBeGone: true },
      );
    },
  };
}

/** Entries are never removed, so an entry's place is its number. */
function keyOf(index: number): string {
  return `undo.${String(index + 1).padStart(4, '0')}`;
}
