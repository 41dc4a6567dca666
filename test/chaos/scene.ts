import { existsSync, readFileSync } from 'node:fs';
import type { LinodeActivities } from '../../src/activities/linode.ts';
import type { ArtifactActivities, SharedActivities } from '../../src/activities/types.ts';
import { faults, type Fault } from './faults.ts';

/*
 * The fault matrix: every call that an activity makes, by every fault. The calls are those that were seen to pass: they are
 * kept in calls.json, and a test fails when an activity makes others. PGLEAP_WRITE_CALLS=1 writes them anew.
 */

export const callsFile = new URL('calls.json', import.meta.url);
export const known: Record<string, string[]> = existsSync(callsFile) ? JSON.parse(readFileSync(callsFile, 'utf8')) : {};

type Activities = SharedActivities & ArtifactActivities & LinodeActivities;
export type Activity = keyof Activities;
type Result<A extends Activity> = Awaited<ReturnType<Activities[A]>>;

/** One activity in a world of which it can be run again and again. */
export interface SceneOf<A extends Activity> {
  activity: A;
  /** Where it has several scenes. */
  where?: string;
  /** What cannot be met here; why stands beside it. */
  never?: (call: string, fault: Fault) => boolean;
  /** What is met here even if another scene meets it, too; default all. Of what takes seconds: what tells most. */
  only?: (call: string, fault: Fault) => boolean;
  /** What else is right here, and why stands beside it. */
  also?: (call: string, fault: Fault) => string[];
  before?: () => Promise<unknown>;
  /** Resolves with the activity's own result: it must be the same after a fault as without one. */
  run: () => Promise<Result<A>>;
  /** The result without what is new each time. Default: all of it. */
  told?: (result: Result<A>) => unknown;
  /** Whether the attempt that met the fault may tell this instead; why stands beside it. */
  orTold?: (result: Result<A>, call: string, fault: Fault) => boolean;
  /** Undoes what `before` and `run` did. */
  after?: () => Promise<unknown>;
}

export type Scene = { [A in Activity]: SceneOf<A> }[Activity];

export function nameOf({ activity, where }: Scene): string {
  return where === undefined ? activity : `${activity} (${where})`;
}

export function isCommand(call: string): boolean {
  return call.includes('/exec, ');
}

/**
 * Of activities that wait until what they delete is gone: told in error that it is, they wait a minute and more, and say
 * NotStopped.
 */
export const toldGone = (call: string, fault: Fault) => fault === '404' && call.startsWith('DELETE');

/** Each call of a scene by each fault that it is to meet. */
export function cellsOf(scene: Scene): { scene: Scene; call: string; fault: Fault }[] {
  return (known[nameOf(scene)] ?? []).flatMap((call) =>
    faults
      .filter((fault) => !scene.never?.(call, fault) && (scene.only?.(call, fault) ?? true))
      .map((fault) => ({ scene, call, fault })),
  );
}

/**
 * The same tables, of which each takes a part. In each scene every change, and every command in a pod, meets every fault that
 * the scene is for; a read meets it in one scene of each table, in turn, because one client reads for all of them. What is left
 * over, because only scenes have it that are for something else, falls to those of the first table that can, in turn as well.
 */
export function takingTurns<Name extends string>(tables: Record<Name, Scene[]>): Record<Name, Scene[]> {
  const all: Scene[][] = Object.values(tables);
  const can = (call: string, fault: Fault) => (scene: Scene) =>
    (known[nameOf(scene)] ?? []).includes(call) && !scene.never?.(call, fault);
  const wants = (call: string, fault: Fault) => (scene: Scene) =>
    can(call, fault)(scene) && (scene.only?.(call, fault) ?? true);
  const turnOf = (scenes: Scene[], fault: Fault) => scenes[faults.indexOf(fault) % scenes.length];
  const takes = (scene: Scene, table: Scene[], call: string, fault: Fault): boolean => {
    const wanting = table.filter(wants(call, fault));
    if (wanting.length > 0) {
      const isRead = call.startsWith('GET') && !isCommand(call);
      return isRead ? turnOf(wanting, fault) === scene : wanting.includes(scene);
    }
    if (all.some((other) => other.some(wants(call, fault)))) return false;
    const able = all.map((other) => other.filter(can(call, fault))).find((some) => some.length > 0);
    return able !== undefined && turnOf(able, fault) === scene;
  };
  const taking = (table: Scene[]) =>
    table.map((scene): Scene => ({ ...scene, only: (call, fault) => takes(scene, table, call, fault) }));
  return Object.fromEntries(Object.entries<Scene[]>(tables).map(([name, table]) => [name, taking(table)])) as Record<
    Name,
    Scene[]
  >;
}
