import { isDeepStrictEqual } from 'node:util';
import { ApiFailure, badRequest } from './failures.ts';

export type Json = null | boolean | number | string | Json[] | JsonObject;
export interface JsonObject {
  [key: string]: Json;
}

export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** RFC 7386. */
export function mergePatch(target: Json | undefined, patch: Json): Json {
  if (!isObject(patch)) return patch;
  const result: JsonObject = isObject(target) ? { ...target } : {};
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete result[key];
    else result[key] = mergePatch(result[key], value);
  }
  return result;
}

/** By which field Kubernetes merges the items of a list; lists that are not here are replaced whole. */
const mergeKeys: Record<string, string[]> = {
  containers: ['name'],
  initContainers: ['name'],
  env: ['name'],
  volumes: ['name'],
  volumeMounts: ['mountPath'],
  volumeDevices: ['devicePath'],
  ports: ['containerPort', 'port'],
  imagePullSecrets: ['name'],
  secrets: ['name'],
  hostAliases: ['ip'],
  ownerReferences: ['uid'],
  conditions: ['type'],
  topologySpreadConstraints: ['topologyKey'],
};
/** Lists of plain values that are joined instead of replaced. */
const mergedSets = new Set(['finalizers']);

/** Strategic merge with `$patch`, `$retainKeys` and `$deleteFromPrimitiveList`; orders of `$setElementOrder` are not kept. */
export function strategicMerge(target: Json | undefined, patch: Json): Json {
  if (!isObject(patch)) return patch;
  if (patch['$patch'] === 'replace') return withoutDirectives(patch);
  const result: JsonObject = isObject(target) ? { ...target } : {};
  const retain = patch['$retainKeys'];
  if (Array.isArray(retain)) for (const key of Object.keys(result)) if (!retain.includes(key)) delete result[key];
  for (const [key, value] of Object.entries(patch)) {
    if (key.startsWith('$deleteFromPrimitiveList/')) {
      const field = key.slice(key.indexOf('/') + 1);
      const list = result[field];
      if (Array.isArray(list) && Array.isArray(value)) {
        result[field] = list.filter((item) => !value.some((gone) => isDeepStrictEqual(gone, item)));
      }
    } else if (key.startsWith('$')) {
      continue;
    } else if (value === null || (isObject(value) && value['$patch'] === 'delete')) {
      delete result[key];
    } else if (Array.isArray(value)) {
      result[key] = mergeList(key, result[key], value);
    } else {
      result[key] = strategicMerge(result[key], value);
    }
  }
  return result;
}

function mergeList(field: string, target: Json | undefined, patch: Json[]): Json[] {
  const before = Array.isArray(target) ? target : [];
  if (mergedSets.has(field)) return [...before, ...patch.filter((item) => !before.includes(item))];
  const key = mergeKeyOf(field, patch);
  if (key === undefined) return patch.map(withoutDirectives);
  if (patch.some((item) => isObject(item) && item['$patch'] === 'replace')) {
    return patch.filter((item) => isObject(item) && item['$patch'] === undefined);
  }
  const result = [...before];
  for (const item of patch) {
    if (!isObject(item)) continue;
    const at = result.findIndex((one) => isObject(one) && isDeepStrictEqual(one[key], item[key]));
    if (item['$patch'] === 'delete') {
      if (at >= 0) result.splice(at, 1);
    } else if (at >= 0) result[at] = strategicMerge(result[at], item);
    else result.push(strategicMerge({}, item));
  }
  return result;
}

/** The field by which the items of this list are told apart, when it is such a list. */
export function mergeKeyOf(field: string, items: Json[]): string | undefined {
  return mergeKeys[field]?.find((key) => items.every((item) => isObject(item) && (key in item || '$patch' in item)));
}

/** A deep copy in which null means absent, as the typed decoding of the real server has it. */
export function withoutNulls(value: Json): Json {
  if (Array.isArray(value)) return value.map(withoutNulls);
  if (!isObject(value)) return value;
  const kept = Object.entries(value).filter(([, one]) => one !== null && one !== undefined);
  return Object.fromEntries(kept.map(([key, one]) => [key, withoutNulls(one)]));
}

function withoutDirectives(value: Json): Json {
  if (Array.isArray(value)) return value.map(withoutDirectives);
  if (!isObject(value)) return value;
  const kept = Object.entries(value).filter(([key, one]) => !key.startsWith('$') && one !== null);
  return Object.fromEntries(kept.map(([key, one]) => [key, withoutDirectives(one)]));
}

/** RFC 6902. A failed `test` or a path that is not there is refused with 422, as by the API server. */
export function jsonPatch(target: Json, operations: Json): Json {
  if (!Array.isArray(operations)) throw badRequest('a JSON patch is a list of operations');
  let result = structuredClone(target);
  for (const operation of operations) {
    if (!isObject(operation) || typeof operation['path'] !== 'string') throw badRequest('operation without a path');
    result = applyOperation(result, operation, operation['path']);
  }
  return result;
}

function applyOperation(document: Json, operation: JsonObject, path: string): Json {
  const from = typeof operation['from'] === 'string' ? operation['from'] : '';
  switch (operation['op']) {
    case 'add':
      return edit(document, path, 'add', operation['value'] ?? null);
    case 'replace':
      return edit(document, path, 'replace', operation['value'] ?? null);
    case 'remove':
      return edit(document, path, 'remove', null);
    case 'move':
      return edit(edit(document, from, 'remove', null), path, 'add', read(document, from));
    case 'copy':
      return edit(document, path, 'add', structuredClone(read(document, from)));
    case 'test':
      if (!isDeepStrictEqual(read(document, path), operation['value'] ?? null)) {
        throw unprocessable(`testing path ${path} failed`);
      }
      return document;
    default:
      throw badRequest(`unknown operation ${JSON.stringify(operation['op'])}`);
  }
}

function unprocessable(message: string): ApiFailure {
  return new ApiFailure(422, 'Invalid', `the server rejected our request due to an error in our request: ${message}`);
}

function tokens(path: string): string[] {
  if (path === '') return [];
  if (!path.startsWith('/')) throw badRequest(`path ${path} must start with /`);
  return path
    .slice(1)
    .split('/')
    .map((token) => token.replaceAll('~1', '/').replaceAll('~0', '~'));
}

function child(parent: Json, token: string, path: string): Json {
  const value = Array.isArray(parent) ? parent[Number(token)] : isObject(parent) ? parent[token] : undefined;
  if (value === undefined) throw unprocessable(`missing path ${path}`);
  return value;
}

function read(document: Json, path: string): Json {
  return tokens(path).reduce((parent, token) => child(parent, token, path), document);
}

function edit(document: Json, path: string, action: 'add' | 'replace' | 'remove', value: Json): Json {
  const parts = tokens(path);
  const last = parts.pop();
  if (last === undefined) return value;
  const parent = parts.reduce((at, token) => child(at, token, path), document);
  if (action !== 'add') child(parent, last, path);
  if (Array.isArray(parent)) {
    const index = last === '-' ? parent.length : Number(last);
    if (!Number.isInteger(index) || index < 0 || index > parent.length) throw unprocessable(`bad index in ${path}`);
    if (action === 'replace') parent[index] = value;
    else parent.splice(index, action === 'remove' ? 1 : 0, ...(action === 'add' ? [value] : []));
  } else if (isObject(parent)) {
    if (action === 'remove') delete parent[last];
    else parent[last] = value;
  } else throw unprocessable(`missing path ${path}`);
  return document;
}
