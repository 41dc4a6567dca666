import {
  isAlias,
  isMap,
  isScalar,
  isSeq,
  parseAllDocuments,
  type Document,
  type Node,
  type YAMLMap,
  type YAMLSeq,
} from 'yaml';
import { z } from 'zod';
import type { DatabaseFact, SourceFacts } from '../../domain/facts.ts';
import { targetLayout } from '../../domain/pgdata.ts';
import type { Spec } from '../../domain/spec.ts';
import { majorOfImage } from '../../domain/versions.ts';

/*
 * The operator's own manifest with the upgrade's changes in it. Only the document that changes is written anew, and what
 * does not change in it keeps its comments, order and style.
 */

/** How lists of a workload are merged: by this key of their items; other lists are replaced. As the API server does it. */
const mergeKeys: Record<string, string> = {
  containers: 'name',
  initContainers: 'name',
  ephemeralContainers: 'name',
  volumes: 'name',
  env: 'name',
  imagePullSecrets: 'name',
  volumeMounts: 'mountPath',
  volumeDevices: 'devicePath',
  ports: 'containerPort',
  hostAliases: 'ip',
  topologySpreadConstraints: 'topologyKey',
};

interface Edited {
  name: string;
  text: string;
}

/** The manifests that change, edited: image, the spec's patch, and PGDATA where the target needs it. */
export function editManifest(spec: Spec, database: DatabaseFact, source: SourceFacts): Edited[] {
  return spec.database.manifests.flatMap(({ name, text }) => {
    const edited = editText(text, spec, database, source);
    return edited === text ? [] : [{ name, text: edited }];
  });
}

function editText(text: string, spec: Spec, database: DatabaseFact, source: SourceFacts): string {
  let result = text;
  // From the last one back, so that positions before it stay true.
  for (const document of parseAllDocuments(text).reverse()) {
    const { contents } = document;
    if (!isMap(contents) || contents.range == null || !isWorkload(document, database)) continue;
    const before = JSON.stringify(document.toJS());
    if (spec.target.patch !== undefined) mergeMap(document, contents, spec.target.patch);
    const container = findContainer(document, database.pod.container);
    if (container !== undefined) {
      setScalar(document, container, 'image', spec.target.image);
      setPgdata(document, container, spec, database, source);
    }
    if (JSON.stringify(document.toJS()) === before) continue;
    result = result.slice(0, contents.range[0]) + write(document, text) + result.slice(contents.range[1]);
  }
  return result;
}

function isWorkload(document: Document, { workload }: DatabaseFact): boolean {
  const namespace = document.getIn(['metadata', 'namespace']);
  return (
    document.get('kind') === workload.kind &&
    document.getIn(['metadata', 'name']) === workload.name &&
    (namespace === undefined || namespace === workload.namespace)
  );
}

function findContainer(document: Document, name: string): YAMLMap | undefined {
  const containers = document.getIn(['spec', 'template', 'spec', 'containers']);
  if (!isSeq(containers)) return undefined;
  const maps = containers.items.filter((item) => isMap(item));
  return maps.find((item) => item.get('name') === name);
}

/** The same rule as in the cluster; here only the manifest and what the running pod told are known. */
function setPgdata(
  document: Document,
  container: YAMLMap,
  spec: Spec,
  database: DatabaseFact,
  source: SourceFacts,
): void {
  const major = spec.target.major ?? majorOfImage(spec.target.image);
  if (major === null) return;
  const shape = z.object({
    env: z.array(z.object({ name: z.string(), value: z.string().optional() })).default([]),
    volumeMounts: z
      .array(z.object({ name: z.string(), mountPath: z.string(), subPath: z.string().optional() }))
      .default([]),
  });
  const parsed = shape.safeParse(container.toJS(document));
  if (!parsed.success) return;
  const { env, volumeMounts } = parsed.data;
  const mount = volumeMounts.find((one) => one.name === database.volumeName);
  const layout = targetLayout({
    major,
    explicit: env.find((one) => one.name === 'PGDATA')?.value ?? database.pgdataEnv,
    mountPath: mount?.mountPath ?? database.mountPath,
    subPath: mount === undefined ? database.subPath : (mount.subPath ?? null),
    sourceMajor: source.major,
    sourceDataDirectory: source.dataDirectory,
  });
  if ('problem' in layout || layout.set === null) return;
  mergeMap(document, container, { env: [{ name: 'PGDATA', value: layout.set }] });
}

/** A strategic merge patch on the tree of a document: null removes, lists of things with a key merge by it. */
function mergeMap(document: Document, map: YAMLMap, patch: object): void {
  for (const [key, value] of Object.entries(patch) as [string, unknown][]) {
    if (key === '$patch') continue;
    const found = map.get(key, true);
    const node = isAlias(found) ? undefined : found;
    const mergeKey = mergeKeys[key];
    if (value === null) {
      map.delete(key);
    } else if (Array.isArray(value) && mergeKey !== undefined && isSeq(node)) {
      mergeList(document, node, value, mergeKey);
    } else if (typeof value === 'object' && !Array.isArray(value) && isMap(node) && !replaces(value)) {
      mergeMap(document, node, value);
    } else if (typeof value === 'object') {
      map.set(key, document.createNode(withoutDirectives(value)));
    } else {
      setScalar(document, map, key, value);
    }
  }
}

function mergeList(document: Document, list: YAMLSeq, patch: unknown[], mergeKey: string): void {
  for (const item of patch) {
    if (typeof item !== 'object' || item === null) continue;
    const fields = item as Record<string, unknown>;
    const at = list.items.findIndex((node) => isMap(node) && node.get(mergeKey) === fields[mergeKey]);
    const existing = list.items[at];
    if (fields['$patch'] === 'delete') {
      if (at !== -1) list.items.splice(at, 1);
    } else if (isMap(existing) && !replaces(item)) {
      mergeMap(document, existing, item);
    } else if (at !== -1) {
      list.items[at] = document.createNode(withoutDirectives(item));
    } else if (fields[mergeKey] !== undefined) {
      list.items.push(document.createNode(withoutDirectives(item)));
    }
  }
}

function replaces(value: object): boolean {
  return '$patch' in value && value.$patch === 'replace';
}

function withoutDirectives(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutDirectives);
  if (typeof value !== 'object' || value === null) return value;
  const entries = Object.entries(value).filter(([key, inner]) => !key.startsWith('$') && inner !== null);
  return Object.fromEntries(entries.map(([key, inner]) => [key, withoutDirectives(inner)]));
}

/** Keeps the comment beside the value, and the quotes around it. */
function setScalar(document: Document, map: YAMLMap, key: string, value: unknown): void {
  const node = map.get(key, true);
  if (isScalar(node)) node.value = value;
  else map.set(key, document.createNode(value) as Node);
}

/**
 * The document's contents in the manner of the file: its indentation, its lists indented or not, no folded lines. What
 * stands before them is not part of the range that is replaced.
 */
function write(document: Document, text: string): string {
  const bare = document.clone();
  bare.commentBefore = null;
  if (isMap(bare.contents)) {
    bare.contents.commentBefore = null;
    const first = bare.contents.items[0]?.key;
    if (isScalar(first)) first.commentBefore = null;
  }
  bare.comment = null;
  bare.directives = undefined;
  const indent = /^( +)\S/m.exec(text)?.[1]?.length ?? 2;
  return bare.toString({
    lineWidth: 0,
    indent: indent >= 2 && indent <= 8 ? indent : 2,
    indentSeq: !/^( *)[\w.-]+:[^\S\n]*(?:#.*)?\n\1- /m.test(text),
    flowCollectionPadding: !/[[{][^\s\]}]/.test(text),
  });
}
