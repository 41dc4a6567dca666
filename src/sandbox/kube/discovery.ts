import { groupVersion, resourcesIn, type ResourceInfo } from './resources.ts';
import type { Store } from './store.ts';

const verbs = ['create', 'delete', 'get', 'list', 'patch', 'update', 'watch'];

/** Answers of the paths by which clients learn what the server has, or undefined when the path is none of them. */
export function discover(store: Store, path: string): unknown {
  if (!/^\/(api|apis|version)(\/|$)/.test(path)) return undefined;
  const resources = resourcesIn(store);
  switch (path) {
    case '/api':
      return { kind: 'APIVersions', versions: ['v1'], serverAddressByClientCIDRs: [] };
    case '/apis':
      return {
        kind: 'APIGroupList',
        apiVersion: 'v1',
        groups: groupsOf(resources).map((group) => describeGroup(resources, group)),
      };
    case '/version':
      return {
        major: '1',
        minor: '34',
        gitVersion: 'v1.34.0+pgleap.sandbox',
        gitCommit: '',
        gitTreeState: 'clean',
        buildDate: '1970-01-01T00:00:00Z',
        goVersion: '',
        compiler: '',
        platform: `${process.platform}/${process.arch}`,
      };
    default:
      return discoverGroup(resources, path);
  }
}

function groupsOf(resources: ResourceInfo[]): string[] {
  return [...new Set(resources.map((info) => info.group)), 'authorization.k8s.io', 'authentication.k8s.io'].filter(
    (group) => group !== '',
  );
}

function versionOf(resources: ResourceInfo[], group: string): string {
  return resources.find((info) => info.group === group)?.version ?? 'v1';
}

function describeGroup(resources: ResourceInfo[], name: string) {
  const latest = versionOf(resources, name);
  const version = { groupVersion: `${name}/${latest}`, version: latest };
  return { name, versions: [version], preferredVersion: version };
}

function discoverGroup(resources: ResourceInfo[], path: string): unknown {
  if (path === '/api/v1') return list('v1', resourcesOf(resources, ''));
  const found = /^\/apis\/([^/]+)(?:\/([^/]+))?$/.exec(path);
  const group = found?.[1];
  if (group === undefined || !groupsOf(resources).includes(group)) return undefined;
  if (found?.[2] === undefined) return { kind: 'APIGroup', apiVersion: 'v1', ...describeGroup(resources, group) };
  if (found[2] !== versionOf(resources, group)) return undefined;
  return list(`${group}/${found[2]}`, resourcesOf(resources, group));
}

function list(version: string, entries: unknown[]): unknown {
  return { kind: 'APIResourceList', apiVersion: 'v1', groupVersion: version, resources: entries };
}

function resourcesOf(resources: ResourceInfo[], group: string): unknown[] {
  if (group === 'authentication.k8s.io') {
    const review = { singularName: 'selfsubjectreview', namespaced: false, kind: 'SelfSubjectReview' };
    return [{ name: 'selfsubjectreviews', ...review, verbs: ['create'] }];
  }
  if (group === 'authorization.k8s.io') {
    const review = { singularName: 'selfsubjectaccessreview', namespaced: false, kind: 'SelfSubjectAccessReview' };
    return [{ name: 'selfsubjectaccessreviews', ...review, verbs: ['create'] }];
  }
  return resources.filter((info) => info.group === group).flatMap(describe);
}

function describe(info: ResourceInfo): unknown[] {
  const { plural: name, kind, namespaced, singular: singularName, shortNames } = info;
  const entries: unknown[] = [
    { name, singularName, namespaced, kind, verbs, ...(shortNames.length === 0 ? {} : { shortNames }) },
  ];
  const below = { singularName: '', namespaced, kind, verbs: ['get', 'patch', 'update'] };
  if (info.status) entries.push({ name: `${name}/status`, ...below });
  if (info.scale) {
    entries.push({ name: `${name}/scale`, ...below, kind: 'Scale', group: 'autoscaling', version: 'v1' });
  }
  if (name === 'pods') {
    entries.push({ name: 'pods/log', ...below, verbs: ['get'] });
    entries.push({ name: 'pods/exec', ...below, kind: 'PodExecOptions', verbs: ['create', 'get'] });
  }
  return entries;
}

/** The kind and version of a list of this resource. */
export function listKind(info: ResourceInfo): { kind: string; apiVersion: string } {
  return { kind: `${info.kind}List`, apiVersion: groupVersion(info) };
}
