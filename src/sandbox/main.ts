/** The sandbox as a process: `node src/sandbox/main.ts --state DIR [--from 16] [--size 20]`. */
import { startSandbox } from './sandbox.ts';
import { stand } from './world/stand.ts';

await stand('sandbox', startSandbox);
