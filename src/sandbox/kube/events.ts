import { randomBytes } from 'node:crypto';
import { timestamp, type AnyObject } from './objects.ts';
import type { Store } from './store.ts';

/** Tells a user what a controller did or can't do, as an Event of the object. */
export interface Recorder {
  (source: string, object: AnyObject, type: 'Normal' | 'Warning', reason: string, message: string): void;
}

/** The real server drops events after an hour; here the oldest go when there are many. */
const keptEvents = 1000;

export function createRecorder(store: Store): Recorder {
  return (source, object, type, reason, message) => {
    const { name, namespace = 'default', uid, resourceVersion } = object.metadata;
    if (store.get('namespaces', '', namespace) === undefined) return;
    const events = store.list('events');
    const same = events.find(
      (event) => event.involvedObject.uid === uid && event.reason === reason && event.message === message,
    );
    if (same !== undefined) {
      store.mutate('events', same.metadata.namespace ?? '', same.metadata.name, (draft) => {
        draft.count = (draft.count ?? 1) + 1;
        draft.lastTimestamp = timestamp();
      });
      return;
    }
    const oldest = events.toSorted(
      (a, b) => Number(a.metadata.resourceVersion) - Number(b.metadata.resourceVersion),
    )[0];
    if (events.length >= keptEvents && oldest !== undefined) {
      store.remove('events', oldest.metadata.namespace ?? '', oldest.metadata.name);
    }
    const { apiVersion, kind } = object;
    const related = object.metadata.namespace === undefined ? {} : { namespace };
    store.insert('events', {
      apiVersion: 'v1',
      kind: 'Event',
      metadata: { name: `${name}.${randomBytes(8).toString('hex')}`, namespace },
      involvedObject: { apiVersion, kind, name, ...related, uid, resourceVersion },
      type,
      reason,
      message,
      source: { component: source },
      reportingComponent: source,
      count: 1,
      firstTimestamp: timestamp(),
      lastTimestamp: timestamp(),
    });
  };
}
