import type { ServerResponse } from 'node:http';
import { ApiFailure } from './failures.ts';
import type { AnyObject } from './objects.ts';
import { groupVersion, type ResourceInfo } from './resources.ts';
import type { Change, Store } from './store.ts';

export interface WatchRequest {
  info: ResourceInfo;
  /** Undefined for all namespaces. */
  namespace: string | undefined;
  /** Changes after this version; undefined or 0 starts with what is there as ADDED. */
  after: number | undefined;
  selects: (object: AnyObject) => boolean;
  /** How the client wants to see an object. */
  show: (object: AnyObject) => unknown;
  timeoutSeconds: number | undefined;
  bookmarks: boolean;
}

/** Streams changes as JSON lines until the client goes or the time is up. Throws 410 when the past is no longer kept. */
export function streamChanges(store: Store, request: WatchRequest, response: ServerResponse): void {
  const { info, namespace, after, selects } = request;
  const past = after ? store.since(after) : [];
  if (past === undefined) throw new ApiFailure(410, 'Expired', `too old resource version: ${after}`);
  response.writeHead(200, { 'content-type': 'application/json', 'transfer-encoding': 'chunked' });
  // Lets the client see that the watch stands, even when nothing happens for long.
  response.flushHeaders();

  const shown = new Set<string>();
  function send(type: string, object: AnyObject): void {
    response.write(`${JSON.stringify({ type, object: request.show(object) })}\n`);
  }
  /** A change that takes an object out of the selection, or into it, shows as DELETED or ADDED. */
  function forward(change: Change): void {
    const { object } = change;
    if (change.resource !== info.resource) return;
    if (namespace !== undefined && object.metadata.namespace !== namespace) return;
    const { uid } = object.metadata;
    const was = shown.has(uid);
    const is = change.type !== 'DELETED' && selects(object);
    if (is) shown.add(uid);
    else shown.delete(uid);
    if (is) send(was ? 'MODIFIED' : change.type === 'ADDED' || after === undefined ? 'ADDED' : change.type, object);
    else if (was || (change.type === 'DELETED' && selects(object))) send('DELETED', object);
  }

  if (after) for (const change of past) forward(change);
  else {
    for (const object of store.list(info.resource, namespace)) {
      if (!selects(object)) continue;
      shown.add(object.metadata.uid);
      send('ADDED', object);
    }
  }
  const stop = store.subscribe(forward);
  const timer = setTimeout(
    () => {
      if (request.bookmarks) {
        const metadata = { resourceVersion: String(store.version()) };
        const object = { kind: info.kind, apiVersion: groupVersion(info), metadata };
        response.write(`${JSON.stringify({ type: 'BOOKMARK', object })}\n`);
      }
      response.end();
    },
    (request.timeoutSeconds ?? 1800) * 1000,
  );
  response.on('close', () => {
    clearTimeout(timer);
    stop();
  });
}
