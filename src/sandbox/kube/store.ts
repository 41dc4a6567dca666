import { randomUUID } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import { timestamp, type AnyObject, type Kinds, type Pod, type Resource } from './objects.ts';

export interface Change<R extends Resource = Resource> {
  type: 'ADDED' | 'MODIFIED' | 'DELETED';
  resource: R;
  object: Kinds[R];
  version: number;
}

/** As much of the past as a watch may ask for; older resource versions are answered with 410 Gone. */
const keptChanges = 5000;

export interface Store {
  /** Objects that come out are shared: change a copy, or use `mutate`. */
  get<R extends Resource>(resource: R, namespace: string, name: string): Kinds[R] | undefined;
  /** In order of namespace and name; all namespaces when none is given. */
  list<R extends Resource>(resource: R, namespace?: string): Kinds[R][];
  /** Gives uid, resourceVersion and creationTimestamp. Throws when the name is taken: callers check first. */
  insert<R extends Resource>(resource: R, object: Unstamped<R>): Kinds[R];
  /** Writes a whole object over the stored one; takes it away when its last finalizer went while it was being deleted. */
  replace<R extends Resource>(resource: R, object: Kinds[R]): Kinds[R];
  /** Changes a copy of the stored object and writes it back, unless nothing changed or it is gone. */
  mutate<R extends Resource>(
    resource: R,
    namespace: string,
    name: string,
    change: (draft: Kinds[R]) => void,
  ): Kinds[R] | undefined;
  /** Deletes as the API does: at once, or by setting deletionTimestamp while a finalizer or a running pod holds it. */
  remove(resource: Resource, namespace: string, name: string, graceSeconds?: number): AnyObject | undefined;
  /** Called after each write, in order. Listeners only take note: they don't write to the store. */
  subscribe(listener: (change: Change) => void): () => void;
  /** Changes after a version, or undefined when they are no longer kept. */
  since(version: number): Change[] | undefined;
  version(): number;
  /** Every resource that has or had objects. */
  resources(): Resource[];
}

export type Unstamped<R extends Resource> = Omit<Kinds[R], 'metadata'> & {
  metadata: Omit<Kinds[R]['metadata'], 'uid' | 'resourceVersion' | 'creationTimestamp' | 'generation'> & {
    uid?: string;
  };
};

export function createStore(): Store {
  const tables = new Map<Resource, Map<string, AnyObject>>();
  const listeners = new Set<(change: Change) => void>();
  let changes: Change[] = [];
  // Far from 0, so that nobody takes a resource version for a count.
  let version = 1000;

  function table<R extends Resource>(resource: R): Map<string, Kinds[R]> {
    let found = tables.get(resource);
    if (found === undefined) {
      found = new Map();
      tables.set(resource, found);
    }
    return found as Map<string, Kinds[R]>;
  }

  function record<R extends Resource>(type: Change['type'], resource: R, object: Kinds[R]): void {
    const change: Change<R> = { type, resource, object, version };
    changes.push(change);
    if (changes.length > keptChanges * 1.2) changes = changes.slice(-keptChanges);
    for (const listener of listeners) listener(change);
  }

  function stamp<R extends Resource>(object: Kinds[R]): Kinds[R] {
    version += 1;
    object.metadata.resourceVersion = String(version);
    return object;
  }

  const store: Store = {
    get: (resource, namespace, name) => table(resource).get(keyIn(namespace, name)),

    list(resource, namespace) {
      const all = [...table(resource).entries()].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, object]) => object);
      return namespace === undefined ? all : all.filter((object) => object.metadata.namespace === namespace);
    },

    insert<R extends Resource>(resource: R, object: Unstamped<R>) {
      const name = keyIn(object.metadata.namespace, object.metadata.name);
      if (table(resource).has(name)) throw new Error(`${resource} ${name} exists already`);
      const copy = structuredClone(object) as Kinds[R];
      copy.metadata.uid = object.metadata.uid ?? randomUUID();
      copy.metadata.creationTimestamp = timestamp();
      copy.metadata.generation = 1;
      table(resource).set(name, stamp<R>(copy));
      record('ADDED', resource, copy);
      return copy;
    },

    replace<R extends Resource>(resource: R, object: Kinds[R]) {
      const name = keyIn(object.metadata.namespace, object.metadata.name);
      const before = table(resource).get(name);
      const copy = structuredClone(object);
      if (before !== undefined) {
        const changed = !isDeepStrictEqual(specOf(before), specOf(copy));
        copy.metadata.generation = before.metadata.generation + (changed ? 1 : 0);
      }
      stamp<R>(copy);
      if (copy.metadata.deletionTimestamp !== undefined && !isHeld(resource, copy)) {
        table(resource).delete(name);
        record('DELETED', resource, copy);
      } else {
        table(resource).set(name, copy);
        record('MODIFIED', resource, copy);
      }
      return copy;
    },

    mutate<R extends Resource>(resource: R, namespace: string, name: string, change: (draft: Kinds[R]) => void) {
      const before = table(resource).get(keyIn(namespace, name));
      if (before === undefined) return undefined;
      const draft = structuredClone(before);
      change(draft);
      return isDeepStrictEqual(draft, before) ? before : store.replace(resource, draft);
    },

    remove(resource, namespace, name, graceSeconds) {
      return store.mutate(resource, namespace, name, (draft) => {
        const meta = draft.metadata;
        const grace = resource === 'pods' ? podGrace(draft as Pod, graceSeconds) : 0;
        meta.deletionTimestamp ??= timestamp(Date.now() + grace * 1000);
        // A second delete can only make the time shorter.
        meta.deletionGracePeriodSeconds = Math.min(grace, meta.deletionGracePeriodSeconds ?? grace);
        if (resource === 'namespaces') (draft as Kinds['namespaces']).status = { phase: 'Terminating' };
      });
    },

    subscribe(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },

    since(after) {
      const first = changes[0];
      if (first !== undefined && first.version > after + 1) return undefined;
      return changes.filter((change) => change.version > after);
    },

    version: () => version,
    resources: () => [...tables.keys()],
  };
  return store;
}

function keyIn(namespace: string | undefined, name: string): string {
  return `${namespace ?? ''}/${name}`;
}

function specOf(object: AnyObject): unknown {
  const { metadata, status: _status, ...rest } = object as AnyObject & { status?: unknown };
  return { ...rest, deleting: metadata.deletionTimestamp };
}

/** What keeps a deleted object in the store. */
function isHeld(resource: Resource, object: AnyObject): boolean {
  if ((object.metadata.finalizers ?? []).length > 0) return true;
  if (resource === 'pods') return object.metadata.deletionGracePeriodSeconds !== 0;
  if (resource === 'namespaces') return ((object as Kinds['namespaces']).spec?.finalizers ?? []).length > 0;
  return false;
}

/** Seconds a deleted pod may take: none when nothing runs for it yet or any more. */
function podGrace(pod: Pod, asked: number | undefined): number {
  if (pod.spec.nodeName === undefined || pod.status?.phase === 'Succeeded' || pod.status?.phase === 'Failed') return 0;
  return asked ?? pod.spec.terminationGracePeriodSeconds ?? 30;
}
