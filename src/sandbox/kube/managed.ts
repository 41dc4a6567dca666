import { badRequest } from './failures.ts';
import { timestamp, type AnyObject, type Meta } from './objects.ts';
import { isObject, mergeKeyOf, strategicMerge, type Json, type JsonObject } from './patch.ts';

type ManagedFields = NonNullable<Meta['managedFields']>;
type Operation = 'Apply' | 'Update';

/**
 * Notes who wrote. For an apply the fields are recorded, since the next apply of the same manager removes what it
 * then leaves out; an update only leaves its name, as nothing in the sandbox asks which fields it changed.
 */
export function recordManager(
  before: ManagedFields | undefined,
  applied: unknown,
  manager: string,
  operation: Operation,
  object?: AnyObject,
): ManagedFields {
  const given = isObject(applied) ? applied['apiVersion'] : undefined;
  const apiVersion = object?.apiVersion ?? (typeof given === 'string' ? given : 'v1');
  const others = (before ?? []).filter((one) => one.manager !== manager || one.operation !== operation);
  const entry = { manager, operation, apiVersion, time: timestamp(), fieldsType: 'FieldsV1' };
  const fieldsV1 = operation === 'Apply' && isObject(applied) ? fieldsOf('', ownedPart(applied)) : {};
  return [...others, { ...entry, fieldsV1 }];
}

/** What an apply configuration owns: all but identity. */
function ownedPart(applied: JsonObject): JsonObject {
  const { apiVersion: _version, kind: _kind, metadata, ...rest } = applied;
  if (!isObject(metadata)) return rest;
  const { labels, annotations, finalizers } = metadata;
  const kept = Object.entries({ labels, annotations, finalizers }).filter((one) => one[1] !== undefined);
  return kept.length === 0 ? rest : { ...rest, metadata: Object.fromEntries(kept) as JsonObject };
}

/** A FieldsV1 tree: `f:` for fields, `k:` for items of keyed lists, empty for a leaf. */
function fieldsOf(field: string, value: Json): JsonObject {
  if (isObject(value)) {
    return Object.fromEntries(Object.entries(value).map(([key, one]) => [`f:${key}`, fieldsOf(key, one)]));
  }
  const key = Array.isArray(value) ? mergeKeyOf(field, value) : undefined;
  if (!Array.isArray(value) || key === undefined) return {};
  return Object.fromEntries(
    value.filter(isObject).map((item) => [`k:${JSON.stringify({ [key]: item[key] })}`, fieldsOf('', item)]),
  );
}

/** The stored object with the configuration laid over it, less what the manager applied before and now leaves out. */
export function mergeApplied(stored: AnyObject, configuration: Json, manager: string): Json {
  if (!isObject(configuration)) throw badRequest('an apply patch must be an object');
  const fields = stored.metadata.managedFields ?? [];
  const earlier = fields.find((one) => one.manager === manager && one.operation === 'Apply')?.fieldsV1 as
    Json | undefined;
  const merged = structuredClone(strategicMerge(stored as unknown as Json, configuration));
  if (isObject(earlier) && isObject(merged)) removeLeftOut(merged, earlier, fieldsOf('', ownedPart(configuration)));
  if (isObject(merged) && isObject(merged['metadata'])) {
    merged['metadata']['managedFields'] = recordManager(fields, configuration, manager, 'Apply') as Json;
  }
  return merged;
}

function removeLeftOut(target: JsonObject, earlier: JsonObject, now: JsonObject): void {
  for (const [path, children] of Object.entries(earlier)) {
    if (!path.startsWith('f:') || !isObject(children)) continue;
    const name = path.slice(2);
    const kept = now[path];
    const value = target[name];
    if (kept === undefined && Object.keys(children).length === 0) delete target[name];
    else if (Array.isArray(value)) target[name] = keptItems(value, children, isObject(kept) ? kept : {});
    else if (isObject(value)) removeLeftOut(value, children, isObject(kept) ? kept : {});
  }
}

function keptItems(items: Json[], earlier: JsonObject, now: JsonObject): Json[] {
  return items.filter((item) => {
    const before = entryOf(item, earlier);
    if (before === undefined) return true;
    const kept = now[before];
    if (kept === undefined) return false;
    const children = earlier[before];
    if (isObject(item) && isObject(children) && isObject(kept)) removeLeftOut(item, children, kept);
    return true;
  });
}

/** The entry of a FieldsV1 tree that stands for this item of a list. */
function entryOf(item: Json, tree: JsonObject): string | undefined {
  return Object.keys(tree).find((entry) => {
    const [field, value] = Object.entries(JSON.parse(entry.slice(2)) as JsonObject)[0] ?? [];
    return field !== undefined && isObject(item) && item[field] === value;
  });
}
