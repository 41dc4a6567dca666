import type { AnyObject, Resource } from '../objects.ts';
import type { Store } from '../store.ts';
import { startQueue, type Context, type Controller } from './loop.ts';

const finalizers = ['foregroundDeletion', 'orphan'];

/** Deletes what lost its last owner and what lies in a deleted namespace, and works off the two deletion finalizers. */
export function startCollector(context: Context): Controller {
  const { store } = context;
  const queue = startQueue('gc', context, (key) => reconcile(store, key));
  const stop = store.subscribe(({ resource, type, object }) => {
    for (const key of keysOf(resource, type, object)) queue.add(key);
  });
  return {
    close() {
      stop();
      return queue.close();
    },
  };
}

function keysOf(resource: Resource, type: string, object: AnyObject): string[] {
  // Events belong to nobody.
  if (resource === 'events') return [];
  const { metadata } = object;
  const keys: string[] = [];
  if (type === 'DELETED') {
    keys.push(`owner ${metadata.uid}`);
    // Owners and namespaces in deletion wait for this one to go.
    for (const owner of metadata.ownerReferences ?? []) keys.push(`held ${owner.uid}`);
  }
  if (metadata.ownerReferences !== undefined && type === 'ADDED') keys.push(`orphan ${metadata.uid}`);
  if (metadata.deletionTimestamp !== undefined) keys.push(`held ${metadata.uid}`);
  const namespace = resource === 'namespaces' ? metadata.name : metadata.namespace;
  if (namespace !== undefined && (type === 'DELETED' || metadata.deletionTimestamp !== undefined)) {
    keys.push(`namespace ${namespace}`);
  }
  return keys;
}

interface Entry {
  resource: Resource;
  object: AnyObject;
}

function everything(store: Store): Entry[] {
  const resources = store.resources().filter((resource) => resource !== 'events');
  return resources.flatMap((resource) => store.list(resource).map((object: AnyObject) => ({ resource, object })));
}

function remove(store: Store, { resource, object }: Entry): void {
  if (object.metadata.deletionTimestamp === undefined) {
    store.remove(resource, object.metadata.namespace ?? '', object.metadata.name);
  }
}

function reconcile(store: Store, key: string): void {
  const [what, id = ''] = key.split(' ');
  if (what === 'namespace') return emptyNamespace(store, id);
  const all = everything(store);
  const self = all.find(({ object }) => object.metadata.uid === id);
  const dependents = all.filter(({ object }) => object.metadata.ownerReferences?.some((owner) => owner.uid === id));
  if (what === 'owner') for (const dependent of dependents) removeUnlessOwned(store, all, dependent);
  else if (what === 'orphan' && self !== undefined) removeUnlessOwned(store, all, self);
  else if (what === 'held' && self !== undefined) finalize(store, self, dependents);
}

function removeUnlessOwned(store: Store, all: Entry[], entry: Entry): void {
  const owners = entry.object.metadata.ownerReferences ?? [];
  const alive = owners.some((owner) => all.some(({ object }) => object.metadata.uid === owner.uid));
  if (!alive) remove(store, entry);
}

function finalize(store: Store, { resource, object }: Entry, dependents: Entry[]): void {
  const { namespace = '', name, uid } = object.metadata;
  if (object.metadata.deletionTimestamp === undefined) return;
  const pending = (object.metadata.finalizers ?? []).find((one) => finalizers.includes(one));
  if (pending === undefined) return;
  if (pending === 'orphan') {
    for (const { resource: kind, object: child } of dependents) {
      store.mutate(kind, child.metadata.namespace ?? '', child.metadata.name, (draft) => {
        draft.metadata.ownerReferences = (draft.metadata.ownerReferences ?? []).filter((owner) => owner.uid !== uid);
      });
    }
  } else {
    for (const dependent of dependents) remove(store, dependent);
    if (
      dependents.some(({ resource: kind, object: child }) =>
        store.get(kind, child.metadata.namespace ?? '', child.metadata.name),
      )
    ) {
      return;
    }
  }
  store.mutate(resource, namespace, name, (draft) => {
    draft.metadata.finalizers = (draft.metadata.finalizers ?? []).filter((one) => one !== pending);
  });
}

function emptyNamespace(store: Store, name: string): void {
  const namespace = store.get('namespaces', '', name);
  if (namespace?.metadata.deletionTimestamp === undefined) return;
  const content = everything(store).filter(({ object }) => object.metadata.namespace === name);
  for (const entry of content) remove(store, entry);
  if (everything(store).some(({ object }) => object.metadata.namespace === name)) return;
  for (const event of store.list('events', name)) store.remove('events', name, event.metadata.name);
  store.mutate('namespaces', '', name, (draft) => {
    draft.spec = { finalizers: [] };
  });
}
