import { randomBytes, timingSafeEqual } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { ApiFailure, notFound } from './failures.ts';
import { infoOf } from './resources.ts';
import type { Store } from './store.ts';

/*
 * Who asks, and whether that user may: bearer tokens, and the rules of Roles and ClusterRoles as their bindings give them
 * out. As in the real server it is decided on the path alone, before anybody looks whether there is such a resource.
 */

export interface User {
  name: string;
  groups: string[];
}

/** What is asked for. `resource` is with its subresource, as `pods/exec`; namespace and name are empty for none. */
export interface Wish {
  verb: string;
  group: string;
  resource: string;
  namespace: string;
  name: string;
}

export interface Users {
  /** Throws 401 for a token that is nobody's. */
  authenticate(request: IncomingMessage): User;
  /** A new token of a ServiceAccount; throws 404 without that account. */
  issue(namespace: string, account: string): string;
}

/** The holder of `adminToken` may do everything, as the user of a fresh cluster's kubeconfig. */
export function createUsers(store: Store, adminToken: string): Users {
  const known = new Map<string, User>([
    [adminToken, { name: 'admin', groups: ['system:masters', 'system:authenticated'] }],
  ]);
  return {
    authenticate(request) {
      const given = Buffer.from(request.headers.authorization ?? '');
      for (const [token, user] of known) {
        const wanted = Buffer.from(`Bearer ${token}`);
        if (given.length === wanted.length && timingSafeEqual(given, wanted)) return user;
      }
      throw new ApiFailure(401, 'Unauthorized', 'Unauthorized');
    },
    issue(namespace, account) {
      if (store.get('serviceaccounts', namespace, account) === undefined) {
        throw notFound(infoOf('serviceaccounts'), account);
      }
      const token = randomBytes(32).toString('hex');
      const groups = ['system:serviceaccounts', `system:serviceaccounts:${namespace}`, 'system:authenticated'];
      known.set(token, { name: `system:serviceaccount:${namespace}:${account}`, groups });
      return token;
    },
  };
}

const verbs: Record<string, [ofOne: string, ofAll: string]> = {
  GET: ['get', 'list'],
  POST: ['create', 'create'],
  PUT: ['update', 'update'],
  PATCH: ['patch', 'patch'],
  DELETE: ['delete', 'deletecollection'],
};

/** What a request wants; undefined for paths of no resource (versions, discovery, health), which every user may read. */
export function wishOf(method: string, url: URL): Wish | undefined {
  const parts = url.pathname
    .split('/')
    .filter((part) => part !== '')
    .map(decoded);
  const core = parts[0] === 'api';
  const rest = parts.slice(core ? 2 : 3);
  if ((!core && parts[0] !== 'apis') || rest.length === 0) return undefined;
  let namespace = '';
  if (rest[0] === 'namespaces' && rest.length > 1) {
    namespace = rest[1] ?? '';
    if (rest.length > 2 && rest[2] !== 'status' && rest[2] !== 'finalize') rest.splice(0, 2);
  }
  const [plural = '', name = '', subresource] = rest;
  const [ofOne, ofAll] = verbs[method] ?? ['', ''];
  const watches = ['true', '1'].includes(url.searchParams.get('watch') ?? '');
  return {
    verb: watches && method === 'GET' ? 'watch' : name === '' ? ofAll : ofOne,
    group: core ? '' : (parts[1] ?? ''),
    resource: subresource === undefined ? plural : `${plural}/${subresource}`,
    namespace,
    name,
  };
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    // Refused with 400 once it is known who asks.
    return part;
  }
}

/** Whether a rule that is bound to this user allows it. */
function allows(store: Store, user: User, wish: Wish): boolean {
  if (user.groups.includes('system:masters')) return true;
  // What the real server's system:basic-user gives to everybody.
  if (/^self\w+reviews$/.test(wish.resource)) return true;
  const everywhere = store.list('clusterrolebindings');
  const here = wish.namespace === '' ? [] : store.list('rolebindings', wish.namespace);
  return [...everywhere, ...here].some(
    ({ subjects = [], roleRef, metadata }) =>
      subjects.some(
        ({ kind, name, namespace }) =>
          (kind === 'User' && name === user.name) ||
          (kind === 'Group' && user.groups.includes(name)) ||
          (kind === 'ServiceAccount' && user.name === `system:serviceaccount:${namespace}:${name}`),
      ) &&
      (roleRef.kind === 'ClusterRole'
        ? store.get('clusterroles', '', roleRef.name)
        : store.get('roles', metadata.namespace ?? '', roleRef.name)
      )?.rules?.some(
        (rule) =>
          has(rule.verbs, wish.verb) &&
          has(rule.apiGroups, wish.group) &&
          has(rule.resources, wish.resource) &&
          (!rule.resourceNames?.length || rule.resourceNames.includes(wish.name)),
      ) === true,
  );
}

function has(list: string[] | undefined, wanted: string): boolean {
  return list?.some((one) => one === '*' || one === wanted) ?? false;
}

/** Throws 403 in the real server's words. */
export function authorize(store: Store, user: User, wish: Wish | undefined): void {
  if (wish === undefined || allows(store, user, wish)) return;
  const { verb, group, resource, namespace, name } = wish;
  const [plural = ''] = resource.split('/');
  const what = `${plural}${group === '' ? '' : `.${group}`}${name === '' ? '' : ` "${name}"`}`;
  const where = namespace === '' ? 'at the cluster scope' : `in the namespace "${namespace}"`;
  throw new ApiFailure(
    403,
    'Forbidden',
    `${what} is forbidden: User "${user.name}" cannot ${verb} resource "${resource}" in API group "${group}" ${where}`,
    { ...(name === '' ? {} : { name }), ...(group === '' ? {} : { group }), kind: plural },
  );
}

interface ReviewSpec {
  resourceAttributes?: Partial<Wish> & { subresource?: string };
}

/** The answer to a SelfSubjectAccessReview: what the same user's request would be answered. */
export function accessReview(store: Store, user: User, review: { spec?: ReviewSpec }): object {
  const { subresource, resource = '', ...rest } = review.spec?.resourceAttributes ?? {};
  const wish = { verb: '', group: '', namespace: '', name: '', ...rest };
  const whole = subresource ? `${resource}/${subresource}` : resource;
  return { ...review, status: { allowed: allows(store, user, { ...wish, resource: whole }) } };
}
