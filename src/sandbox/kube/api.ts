import { randomUUID } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import { parse as parseYaml } from 'yaml';
import { randomSuffix } from './controllers/pods.ts';
import { applyDefaults } from './defaults.ts';
import { alreadyExists, ApiFailure, badRequest, invalid, notFound, type StatusBody } from './failures.ts';
import { mergeApplied, recordManager } from './managed.ts';
import { timestamp, type AnyObject, type Meta } from './objects.ts';
import { isObject, jsonPatch, mergePatch, strategicMerge, withoutNulls, type Json } from './patch.ts';
import { prune } from './prune.ts';
import { groupVersion, infoOf, type ResourceInfo } from './resources.ts';
import type { Store } from './store.ts';
import { checkPreconditions, validate, validateUpdate } from './validate.ts';

/** One write, whichever way it came in. */
export interface Target {
  store: Store;
  info: ResourceInfo;
  /** Empty for what belongs to no namespace. */
  namespace: string;
  subresource?: 'status' | 'scale' | undefined;
  dryRun: boolean;
  /** Who writes, for managedFields. */
  manager: string;
}

export type PatchType = 'json' | 'merge' | 'strategic' | 'apply';

export interface DeleteOptions {
  gracePeriodSeconds?: number | undefined;
  propagationPolicy?: string | undefined;
  preconditions?: { uid?: string; resourceVersion?: string } | undefined;
}

export function readObject(target: Pick<Target, 'store' | 'info' | 'namespace'>, name: string): AnyObject {
  const found = target.store.get(target.info.resource, target.namespace, name);
  if (found === undefined) throw notFound(target.info, name);
  return found;
}

/** Throws 400 for a body of another kind, 404 without the namespace, 409 when it exists, 422 when it is invalid. */
export function createObject(target: Target, body: unknown): AnyObject {
  const { store, info } = target;
  const incoming = readBody(target, body);
  const meta = incoming.metadata as Partial<Meta>;
  if (!meta.name && meta.generateName) meta.name = `${meta.generateName}${randomSuffix()}`;
  if (!meta.name) {
    throw invalid(info, '', [
      {
        field: 'metadata.name',
        reason: 'FieldValueRequired',
        message: 'Required value: name or generateName is required',
      },
    ]);
  }
  if (meta.resourceVersion) throw badRequest('resourceVersion should not be set on objects to be created');
  requireNamespace(target);
  if (info.namespaced) meta.namespace = target.namespace;
  else delete meta.namespace;
  meta.uid = randomUUID();
  for (const field of ['creationTimestamp', 'deletionTimestamp', 'deletionGracePeriodSeconds', 'selfLink'] as const) {
    delete meta[field];
  }
  if (info.status && info.resource !== 'volumeattachments') delete (incoming as { status?: unknown }).status;
  incoming.metadata = {
    ...meta,
    managedFields: recordManager(undefined, incoming, target.manager, 'Update'),
  } as AnyObject['metadata'];
  if (store.get(info.resource, target.namespace, meta.name) !== undefined) throw alreadyExists(info, meta.name);
  admit(target, incoming);
  if (target.dryRun) {
    return {
      ...incoming,
      metadata: { ...incoming.metadata, creationTimestamp: timestamp(), generation: 1 },
    };
  }
  return store.insert(info.resource, incoming);
}

/** Defaults, admission and validation, in the order of the real server. */
function admit(target: Target, object: AnyObject): void {
  const { store, info } = target;
  if (info.resource === 'persistentvolumeclaims') {
    const claim = object as { spec?: { storageClassName?: string } };
    const standard = store
      .list('storageclasses')
      .find((one) => one.metadata.annotations?.['storageclass.kubernetes.io/is-default-class'] === 'true');
    if (standard !== undefined && claim.spec !== undefined) claim.spec.storageClassName ??= standard.metadata.name;
  }
  if (info.status && info.resource !== 'namespaces') (object as { spec?: unknown }).spec ??= {};
  try {
    applyDefaults(info.resource, object);
  } catch (error) {
    // Only a required part that is missing makes a defaulter fail, and validation names it better.
    if (!(error instanceof TypeError)) throw error;
    try {
      validate(info, object);
    } catch (problem) {
      if (problem instanceof ApiFailure) throw problem;
    }
    throw badRequest(`${info.kind} in version "${info.version}" cannot be handled as a ${info.kind}: ${error.message}`);
  }
  validate(info, object);
}

function requireNamespace({ store, info, namespace }: Target): void {
  if (!info.namespaced) return;
  const found = store.get('namespaces', '', namespace);
  if (found === undefined) throw notFound(infoOf('namespaces'), namespace);
  if (found.metadata.deletionTimestamp !== undefined) {
    const message = `unable to create new content in namespace ${namespace} because it is being terminated`;
    throw new ApiFailure(403, 'Forbidden', message);
  }
}

/** A copy of the body as an object of the target's kind, or 400. */
function readBody({ info, namespace }: Target, body: unknown): AnyObject {
  if (!isObject(body)) throw badRequest('the object provided is unrecognized (must be of type Object)');
  const known = withoutNulls(body);
  if (info.schema !== undefined) prune(known, info.schema);
  const copy = known as unknown as AnyObject;
  const wanted = groupVersion(info);
  if ((copy.apiVersion ?? wanted) !== wanted || (copy.kind ?? info.kind) !== info.kind) {
    throw badRequest(
      `the API version or kind in the data (${copy.apiVersion}, ${copy.kind}) does not match the expected one (${wanted}, ${info.kind})`,
    );
  }
  copy.apiVersion = wanted;
  copy.kind = info.kind;
  if (copy.metadata !== undefined && !isObject(copy.metadata)) throw badRequest('metadata must be an object');
  copy.metadata ??= {} as AnyObject['metadata'];
  if (info.namespaced && copy.metadata.namespace && copy.metadata.namespace !== namespace) {
    throw badRequest('the namespace of the provided object does not match the namespace sent on the request');
  }
  return copy;
}

export function updateObject(target: Target, name: string, body: unknown): AnyObject {
  const stored = readObject(target, name);
  const incoming = target.subresource === 'scale' ? fromScale(stored, body) : readBody(target, body);
  if (incoming.metadata.name && incoming.metadata.name !== name) {
    throw badRequest('the name of the object does not match the name on the URL');
  }
  if (target.info.resource === 'leases' && !incoming.metadata.resourceVersion) {
    const problem = { field: 'metadata.resourceVersion', reason: 'FieldValueInvalid' } as const;
    throw invalid(target.info, name, [{ ...problem, message: 'Invalid value: 0: must be specified for an update' }]);
  }
  return write(target, stored, incoming, 'Update');
}

/** Throws 409 on a stale uid or resourceVersion, 422 when a field can't change. */
function write(target: Target, stored: AnyObject, incoming: AnyObject, operation: 'Update' | 'Apply'): AnyObject {
  const { store, info, subresource } = target;
  checkPreconditions(info, stored, incoming.metadata);
  let next = structuredClone(incoming) as AnyObject & { status?: unknown };
  const before = stored as AnyObject & { status?: unknown };
  if (subresource === 'status') next = { ...structuredClone(before), status: next.status } as typeof next;
  else if (info.status) {
    if (before.status === undefined) delete next.status;
    else next.status = structuredClone(before.status);
  }
  next.metadata = { ...next.metadata, ...serverOwned(stored.metadata) };
  for (const field of ['deletionTimestamp', 'deletionGracePeriodSeconds'] as const) {
    if (stored.metadata[field] === undefined) delete next.metadata[field];
  }
  admit(target, next);
  validateUpdate(info, stored, next);
  if (
    isDeepStrictEqual({ ...next, metadata: { ...next.metadata, managedFields: stored.metadata.managedFields } }, stored)
  ) {
    return stored;
  }
  if (operation === 'Update') {
    next.metadata.managedFields = recordManager(
      stored.metadata.managedFields,
      undefined,
      target.manager,
      'Update',
      next,
    );
  }
  return target.dryRun ? next : store.replace(info.resource, next);
}

function serverOwned(meta: Meta): Partial<Meta> {
  const { name, namespace, uid, resourceVersion, creationTimestamp, generation } = meta;
  const { deletionTimestamp, deletionGracePeriodSeconds } = meta;
  return {
    name,
    uid,
    resourceVersion,
    creationTimestamp,
    generation,
    ...(namespace === undefined ? {} : { namespace }),
    ...(deletionTimestamp === undefined ? {} : { deletionTimestamp }),
    ...(deletionGracePeriodSeconds === undefined ? {} : { deletionGracePeriodSeconds }),
  };
}

/** `text` is the raw body: apply patches may be YAML. An apply patch of what doesn't exist creates it. */
export function patchObject(
  target: Target,
  name: string,
  type: PatchType,
  text: string,
): { object: AnyObject; created: boolean } {
  const patch = parseText(text, type === 'apply');
  const { store, info } = target;
  if (type === 'apply' && store.get(info.resource, target.namespace, name) === undefined) {
    if (!isObject(patch)) throw badRequest('an apply patch must be an object');
    const body = { ...patch, metadata: { ...(isObject(patch['metadata']) ? patch['metadata'] : {}), name } };
    const created = createObject(target, body);
    const managedFields = recordManager(undefined, body, target.manager, 'Apply');
    if (target.dryRun) return { object: created, created: true };
    const object = store.mutate(info.resource, target.namespace, name, (draft) => {
      draft.metadata.managedFields = managedFields;
    });
    return { object: object ?? created, created: true };
  }
  const stored = readObject(target, name);
  if (target.subresource === 'scale') {
    const scale = patchDocument(scaleOf(stored) as unknown as Json, type, patch);
    return { object: write(target, stored, fromScale(stored, scale), 'Update'), created: false };
  }
  if (type === 'apply') {
    const merged = mergeApplied(stored, patch, target.manager);
    return { object: write(target, stored, readBody(target, merged), 'Apply'), created: false };
  }
  const patched = patchDocument(stored as unknown as Json, type, patch);
  return { object: write(target, stored, readBody(target, patched), 'Update'), created: false };
}

function patchDocument(document: Json, type: PatchType, patch: Json): Json {
  if (type === 'json') return jsonPatch(document, patch);
  if (!isObject(patch)) throw badRequest('the patch must be an object');
  return type === 'merge' ? mergePatch(document, patch) : strategicMerge(document, patch);
}

function parseText(text: string, yaml: boolean): Json {
  try {
    return (yaml ? parseYaml(text) : JSON.parse(text)) as Json;
  } catch (error) {
    throw badRequest(`error decoding patch: ${error instanceof Error ? error.message : String(error)}`);
  }
}

export interface Scale {
  kind: 'Scale';
  apiVersion: 'autoscaling/v1';
  metadata: { name: string; namespace?: string; uid: string; resourceVersion: string; creationTimestamp: string };
  spec: { replicas: number };
  status: { replicas: number; selector: string };
}

interface Scalable {
  spec: { replicas?: number; selector?: { matchLabels?: Record<string, string> } };
  status?: { replicas?: number };
}

export function scaleOf(object: AnyObject): Scale {
  const { spec, status } = object as unknown as Scalable;
  const { name, namespace, uid, resourceVersion, creationTimestamp } = object.metadata;
  const labels = Object.entries(spec.selector?.matchLabels ?? {});
  return {
    kind: 'Scale',
    apiVersion: 'autoscaling/v1',
    metadata: { name, ...(namespace === undefined ? {} : { namespace }), uid, resourceVersion, creationTimestamp },
    spec: { replicas: spec.replicas ?? 0 },
    status: { replicas: status?.replicas ?? 0, selector: labels.map(([key, value]) => `${key}=${value}`).join(',') },
  };
}

function fromScale(stored: AnyObject, body: unknown): AnyObject {
  const scale = body as Partial<Scale>;
  const replicas = scale.spec?.replicas ?? 0;
  if (!isObject(body) || typeof replicas !== 'number') throw badRequest('spec.replicas must be a number');
  const next = structuredClone(stored) as unknown as Scalable & AnyObject;
  next.spec.replicas = replicas;
  if (scale.metadata?.resourceVersion) next.metadata.resourceVersion = scale.metadata.resourceVersion;
  if (scale.metadata?.uid) next.metadata.uid = scale.metadata.uid;
  return next;
}

/** Kinds whose deletion is answered with the object instead of a Status. */
const returnsDeleted = new Set([
  'pods',
  'persistentvolumeclaims',
  'persistentvolumes',
  'services',
  'volumeattachments',
]);

/** Answers with the object while something still holds it, else as the real server does for that kind. */
export function deleteObject(target: Target, name: string, options: DeleteOptions): AnyObject | StatusBody {
  const { store, info, namespace } = target;
  const stored = readObject(target, name);
  checkPreconditions(info, stored, options.preconditions ?? {});
  const policy = options.propagationPolicy ?? 'Background';
  if (!['Background', 'Foreground', 'Orphan'].includes(policy)) {
    throw invalid(info, name, [
      { field: 'propagationPolicy', reason: 'FieldValueNotSupported', message: `Unsupported value: "${policy}"` },
    ]);
  }
  if (target.dryRun) return returnsDeleted.has(info.resource) ? stored : deletedStatus(info, stored);
  const finalizer = { Foreground: 'foregroundDeletion', Orphan: 'orphan', Background: undefined }[policy];
  if (finalizer !== undefined && stored.metadata.deletionTimestamp === undefined) {
    store.mutate(info.resource, namespace, name, (draft) => {
      draft.metadata.finalizers = [...(draft.metadata.finalizers ?? []), finalizer];
    });
  }
  const removed = store.remove(info.resource, namespace, name, options.gracePeriodSeconds) ?? stored;
  const held = store.get(info.resource, namespace, name) !== undefined;
  return held || returnsDeleted.has(info.resource) ? removed : deletedStatus(info, removed);
}

function deletedStatus(info: ResourceInfo, object: AnyObject): StatusBody {
  const details = { name: object.metadata.name, kind: info.plural, uid: object.metadata.uid };
  const full = info.group === '' ? details : { ...details, group: info.group };
  return { kind: 'Status', apiVersion: 'v1', metadata: {}, status: 'Success', details: full };
}
