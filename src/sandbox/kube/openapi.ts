import { groupVersion, resourcesIn, type ResourceInfo } from './resources.ts';
import type { Store } from './store.ts';

/**
 * As much of the OpenAPI documents as kubectl needs to leave validation to the server: which paths take a
 * `fieldValidation` parameter. Without it kubectl refuses to create anything.
 */
export function openApi(store: Store, path: string): unknown {
  if (!path.startsWith('/openapi/')) return undefined;
  const resources = resourcesIn(store);
  const roots = [...new Set(resources.map((info) => rootOf(info)))];
  if (path === '/openapi/v3') {
    const paths = roots.map((root) => [root, { serverRelativeURL: `/openapi/v3/${root}` }]);
    return { paths: Object.fromEntries(paths) };
  }
  const root = roots.find((one) => path === `/openapi/v3/${one}`);
  return root === undefined ? undefined : documentOf(root, resources);
}

function rootOf(info: { group: string; version: string }): string {
  return `${info.group === '' ? 'api' : 'apis'}/${groupVersion(info)}`;
}

function documentOf(root: string, resources: ResourceInfo[]): unknown {
  const parameters = [{ name: 'fieldValidation', in: 'query', schema: { type: 'string', uniqueItems: true } }];
  const paths = resources
    .filter((info) => rootOf(info) === root)
    .map(({ plural, namespaced, group, version, kind }) => {
      const operation = { 'x-kubernetes-group-version-kind': { group, version, kind }, parameters, responses: {} };
      const collection = `/${root}/${namespaced ? 'namespaces/{namespace}/' : ''}${plural}`;
      return [
        [collection, { post: { ...operation, 'x-kubernetes-action': 'post' } }],
        [`${collection}/{name}`, { patch: { ...operation, 'x-kubernetes-action': 'patch' } }],
      ];
    });
  return {
    openapi: '3.0.0',
    info: { title: 'pgleap sandbox', version: 'v1' },
    paths: Object.fromEntries(paths.flat()) as unknown,
    components: { schemas: {} },
  };
}
