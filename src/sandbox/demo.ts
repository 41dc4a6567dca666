/**
 * `npm run demo`: a real PostgreSQL with real data and live services over a major version, on this machine, with nothing but this
 * repository. With `--spec FILE` it tells the same story about your own upgrade, on your own cluster and Temporal.
 */
import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { userInfo } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { UserError, exitCodes, type ExitName } from '../domain/exit-codes.ts';
import { say, style, type Terminal } from './demo/narrate.ts';
import { performUpgrade, type DemoResult } from './demo/perform.ts';
import type { Stage, StageMessage } from './demo/stage.ts';
import { SOURCE_MAJORS, type SourceMajor } from './world/world.ts';

const usage = `Usage: npm run demo -- [options]

  --yes         approve every gate
  --json        narration on stderr; the last line of stdout is one JSON object
  --size MB     bulk data beside the few MB that there always are (default 20)
  --from MAJOR  ${SOURCE_MAJORS.join(' or ')} (default 16; with --cluster 15 or 17, default 15)
  --keep        leave everything running, and say how to stop it
  --cluster     in a real one-node Kubernetes on this machine (npm run cluster:up; Debian 12, root) instead of the sandbox
  --spec FILE   your own spec, on the cluster of KUBECONFIG, your Temporal and your worker
  --help        this text
`;

interface Options {
  yes: boolean;
  json: boolean;
  keep: boolean;
  size: number;
  from: SourceMajor;
  cluster: boolean;
  spec: string | undefined;
}

function readOptions(): Options | undefined {
  let values;
  try {
    ({ values } = parseArgs({
      options: {
        yes: { type: 'boolean', default: false },
        json: { type: 'boolean', default: false },
        keep: { type: 'boolean', default: false },
        size: { type: 'string', default: '20' },
        from: { type: 'string' },
        cluster: { type: 'boolean', default: false },
        spec: { type: 'string' },
        help: { type: 'boolean', default: false },
      },
    }));
  } catch (error) {
    throw new UserError('usage', `${error instanceof Error ? error.message : String(error)}\n\n${usage}`);
  }
  if (values.help) return undefined;
  const size = Number(values.size);
  if (!Number.isFinite(size) || size < 0 || size > 20_000) {
    throw new UserError('usage', `--size takes megabytes from 0 to 20000, not ${values.size}.`);
  }
  // The cluster has images of Debian's releases.
  const majors = values.cluster ? SOURCE_MAJORS.filter((major) => major !== 16) : SOURCE_MAJORS;
  const from = majors.find((major) => String(major) === (values.from ?? (values.cluster ? '15' : '16')));
  if (from === undefined) {
    throw new UserError('usage', `--from takes ${majors.join(' or ')}, not ${values.from}: there is no image of it.`);
  }
  const { yes, json, keep, cluster, spec } = values;
  if (!yes && !(process.stdin.isTTY && process.stdout.isTTY)) {
    throw new UserError(
      'usage',
      'The demo asks a person at each gate, and this is no terminal. Add --yes to approve every gate: npm run demo -- --yes',
    );
  }
  if (spec === undefined && process.platform !== 'linux') {
    throw new UserError(
      'usage',
      `The embedded sandbox runs its pods in Linux namespaces, and this is ${process.platform}. Use a Linux machine or VM, or your ` +
        'own cluster: npm run demo -- --spec upgrade.yaml',
    );
  }
  return { yes, json, keep, size, from, cluster, spec };
}

async function main(): Promise<ExitName> {
  const options = readOptions();
  if (options === undefined) {
    process.stdout.write(usage);
    return 'ok';
  }
  const terminal: Terminal = {
    out: options.json ? process.stderr : process.stdout,
    yes: options.yes,
    progress: '',
    by: userInfo().username || 'demo',
  };
  const interrupted = new Promise<never>((_, reject) => {
    const stop = () => reject(new UserError('interrupted', 'Ended by a signal; nothing of the sandbox is left.'));
    process.once('SIGINT', stop).once('SIGTERM', stop).once('SIGHUP', stop);
  });
  const curtain: Curtain = { child: undefined, keep: options.keep };
  let result: DemoResult;
  try {
    result = await Promise.race([run(options, terminal, curtain), interrupted]);
  } finally {
    await curtainFall(curtain, terminal);
  }
  if (options.json) process.stdout.write(`${JSON.stringify(result)}\n`);
  return result.ok ? 'ok' : result.outcome === 'rolled-back' ? 'rolledBack' : 'failed';
}

async function run(options: Options, terminal: Terminal, curtain: Curtain): Promise<DemoResult> {
  say(terminal, style(terminal, 'bold', 'pgleap: PostgreSQL over a major version, as a durable workflow'));
  if (options.spec !== undefined) return performUpgrade({ kind: 'own', spec: resolve(options.spec) }, terminal);
  say(terminal, 'Setting the stage: real servers, real data, live services; nothing outside this machine.');
  const artifacts = resolve('artifacts');
  const stage = await raiseCurtain(curtain, terminal, [
    '--from',
    String(options.from),
    '--size',
    String(options.size),
    '--artifacts',
    artifacts,
    ...(options.cluster ? ['--cluster'] : []),
  ]);
  if (stage.temporal.uiUrl !== null) say(terminal, `  Temporal’s Web UI   ${stage.temporal.uiUrl}`);
  say(terminal, `  the website         ${stage.sandbox.siteUrl}`);
  say(terminal, `  the spec            ${stage.sandbox.upgradeSpec}`);
  say(terminal);
  Object.assign(process.env, stage.env);
  return performUpgrade({ kind: 'sandbox', stage, artifacts }, terminal);
}

interface Curtain {
  child: ChildProcess | undefined;
  keep: boolean;
}

/** Starts the stage in a process group of its own: Ctrl-C reaches the demo alone, which then ends it in order. */
async function raiseCurtain(curtain: Curtain, terminal: Terminal, args: string[]): Promise<Stage> {
  const child = fork(join(import.meta.dirname, 'demo', 'stage.ts'), args, {
    detached: true,
    stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
  });
  curtain.child = child;
  return new Promise((resolveStage, reject) => {
    child.on('message', (message: StageMessage) => {
      if (message.kind === 'part') say(terminal, `  ${message.seconds.toFixed(1).padStart(5)} s   ${message.name}`);
      else if (message.kind === 'ready') resolveStage(message.stage);
      else reject(new UserError('failed', message.text));
    });
    child.once('exit', () => reject(new UserError('failed', 'The sandbox’s process ended unexpectedly.')));
  });
}

async function curtainFall({ child, keep }: Curtain, terminal: Terminal): Promise<void> {
  if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
  if (keep) {
    child.send('keep');
    child.disconnect();
    child.unref();
    say(terminal, `\nEverything is left running. To stop it: kill ${child.pid}`);
    return;
  }
  const exit = once(child, 'exit');
  child.kill('SIGTERM');
  await exit;
}

try {
  process.exitCode = exitCodes[await main()].code;
} catch (error) {
  const known = error instanceof UserError ? error : undefined;
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = exitCodes[known?.exit ?? 'failed'].code;
}
process.exit();
