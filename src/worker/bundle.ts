/** Run as a process: prints the workflows as a worker loads them. Its argument: the module of another failure converter. */
import { bundleWorkflowCode, DefaultLogger } from '@temporalio/worker';
import { fileURLToPath } from 'node:url';

const failureConverterPath = process.argv[2];
const { code } = await bundleWorkflowCode({
  workflowsPath: fileURLToPath(new URL('../workflows/index.ts', import.meta.url)),
  workflowInterceptorModules: [fileURLToPath(new URL('../workflows/interceptors.ts', import.meta.url))],
  logger: new DefaultLogger('ERROR'),
  ...(failureConverterPath === undefined ? {} : { failureConverterPath }),
  // A worker keeps the source map: with all sources in it that is 18 MB.
  webpackConfigHook: (config) => ({ ...config, devtool: 'inline-nosources-source-map' }),
});
process.stdout.write(code);
