/** What pgleap and the SDK's own reading of kubeconfigs use of its generated code: see sdk.ts. */
export { createConfiguration } from '@kubernetes/client-node/dist/gen/configuration.js';
export {
  HttpMethod,
  wrapHttpLibrary,
  type RequestContext,
  type ResponseContext,
} from '@kubernetes/client-node/dist/gen/http/http.js';
export { ServerConfiguration } from '@kubernetes/client-node/dist/gen/servers.js';
