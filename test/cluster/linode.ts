/** The Linode API's stand-in as a process of the test cluster. Ends with SIGTERM. */
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { startLinode } from '../../src/sandbox/clouds/linode.ts';

const text = { type: 'string' } as const;
const { values } = parseArgs({
  options: { host: text, port: text, 'state-dir': text, 'token-file': text, region: text },
});
const { host = '', port = '', 'state-dir': stateDir = '', 'token-file': tokenFile = '', region = '' } = values;
const linode = await startLinode({
  stateDir,
  token: readFileSync(tokenFile, 'utf8').trim(),
  region,
  listen: { host, port: Number(port) },
  // Driver and sidecars ask with the token of the tests; each has its own at a provider.
  limits: { list: 1200, create: 600, other: 9600 },
  log: (line) => process.stdout.write(`${new Date().toISOString()} ${line}\n`),
});
process.stdout.write(`listening at ${linode.url}\n`);
process.once('SIGTERM', () => void linode.close());
