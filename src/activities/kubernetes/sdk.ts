/**
 * The Kubernetes SDK's kubeconfig without its generated calls and models, none of which pgleap uses: 20 MB of source that each
 * process would read at its start and keep.
 */
import { registerHooks } from 'node:module';

const parts = new URL('sdk-parts.ts', import.meta.url).href;

const hooks = registerHooks({
  resolve(specifier, context, next) {
    const all = specifier === './gen/index.js' && context.parentURL?.endsWith('/client-node/dist/config.js');
    return all ? { url: parts, shortCircuit: true } : next(specifier, context);
  },
});
export const { KubeConfig } = await import('@kubernetes/client-node/dist/config.js');
hooks.deregister();
