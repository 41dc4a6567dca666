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
  /** Namespace and name of each event by what it says of whom, oldest first. */
  const known = new Map<string, { namespace: string; name: string }>();
  return (source, object, type, reason, message) => {
    const { name, namespace = 'default', uid, resourceVersion } = object.metadata;
    if (store.get('namespaces', '', namespace) === undefined) return;
    const content = `${uid} ${reason} ${message}`;
    const same = known.get(content);
    const counted =
      same === undefined
        ? undefined
        : store.mutate('events', same.namespace, same.name, (draft) => {
            draft.count = (draft.count ?? 1) + 1;
            draft.lastTimestamp = timestamp();
          });
    if (counted !== undefined) return;
    const [oldest] = known;
    if (known.size >= keptEvents && oldest !== undefined) {
      known.delete(oldest[0]);
      store.remove('events', oldest[1].namespace, oldest[1].name);
    }
    const eventName = `${name}.${randomBytes(8).toString('hex')}`;
    known.delete(content);
    known.set(content, { namespace, name: eventName });
    const { apiVersion, kind } = object;
    const related = object.metadata.namespace === undefined ? {} : { namespace };
    store.insert('events', {
      apiVersion: 'v1',
      kind: 'Event',
      metadata: { name: eventName, namespace },
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
