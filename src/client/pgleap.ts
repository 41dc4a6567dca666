#!/usr/bin/env node
import { Command, CommanderError, Option } from 'commander';
import { userInfo } from 'node:os';
import { writeSync } from 'node:fs';
import { exitCodes, UserError, type ExitName } from '../domain/exit-codes.ts';
import { readName } from '../domain/names.ts';
import { gates } from '../domain/phases.ts';
import { openGate, type UpgradeResult } from '../domain/state.ts';
import { placeOf } from '../domain/text.ts';
import { connect, type Session } from './connection.ts';
import { saveReport } from './report.ts';
import { readSpecFile } from './spec-file.ts';
import { checksText, gateText, planText, resultText, statusText } from './text.ts';
import { findUpgrade, planUpgrade, sendMessage, startUpgrade, upgradeStatus, workflowIdOf } from './upgrades.ts';
import { watchUpgrade, type WatchEvent } from './watch.ts';

interface Json {
  json?: boolean;
}

interface Said extends Json {
  by: string;
  note?: string;
}

const upgradeArgument = [
  '[upgrade]',
  'namespace/workload, workflow id or spec file; needed only where there are several',
] as const;
const gateOption = () =>
  new Option('--gate <gate>', 'the gate that is answered').choices(gates.map(({ name }) => name)).makeOptionMandatory();
const byOption = (who = 'who answers') => new Option('--by <name>', who).default(userName(), 'your user name');
const noteOption = () => new Option('--note <text>', 'why; kept with the answer');

const program = new Command('pgleap')
  .description('Takes a PostgreSQL database on Kubernetes over a major version, as a durable Temporal workflow.')
  .showHelpAfterError('(add --help for the options and examples)')
  .configureHelp({ showGlobalOptions: false })
  .addHelpText(
    'after',
    () => `\nExit codes:\n${exitCodeTable()}\n\nPlain \`temporal\` does all of it, too: see README.md.`,
  );

function command(name: string, description: string, examples: string[]): Command {
  return program
    .command(name)
    .description(description)
    .option('--json', 'print JSON for programs')
    .addHelpText('after', `\nExamples:\n${examples.map((example) => `  $ ${example}`).join('\n')}`);
}

command('plan', 'Look at everything and say what an upgrade would do. Changes nothing.', ['pgleap plan upgrade.yaml'])
  .argument('<spec>', 'spec file')
  .action(async (file: string, { json }: Json) => {
    const { input } = await readSpecFile(file);
    await withSession(async (session) => {
      const plan = await planUpgrade(session, input);
      print(json ? JSON.stringify(plan) : planText(plan));
      if (plan.checks.some(({ status }) => status === 'FAILED')) finish('checksFailed');
    });
  });

command('start', 'Start an upgrade. It prepares, then waits at gate begin before anything goes down.', [
  'pgleap start upgrade.yaml',
  'pgleap start upgrade.yaml --watch',
])
  .argument('<spec>', 'spec file')
  .addOption(byOption('who starts it'))
  .option('--watch', 'follow it')
  .action(async (file: string, { by, json, watch }: Json & { by: string; watch?: boolean }) => {
    const { input, spec } = await readSpecFile(file);
    await withSession(async (session) => {
      const started = await startUpgrade(session, input, spec, readName(by).name);
      const place = placeOf(started.workflowId);
      if (json) print(JSON.stringify(started));
      else print(`Started ${started.workflowId}. It prepares now, and asks before anything goes down.`);
      if (watch) await follow(session, started.workflowId, json);
      else if (!json) print(`\nTo follow it:   pgleap watch ${place}\nTo look at it:  pgleap status ${place}`);
    });
  });

command('status', 'Where an upgrade is, what it waits for, and what to type.', [
  'pgleap status',
  'pgleap status databases/postgres',
])
  .argument(...upgradeArgument)
  .action((name: string | undefined, { json }: Json) =>
    withUpgrade(name, async (session, workflowId) => {
      const status = await upgradeStatus(session, workflowId);
      print(json ? JSON.stringify(status) : statusText(status, new Date().toISOString()));
    }),
  );

command('watch', 'Follow an upgrade until it has its result. Ctrl-C leaves it running.', ['pgleap watch'])
  .argument(...upgradeArgument)
  .action((name: string | undefined, { json }: Json) =>
    withUpgrade(name, (session, workflowId) => follow(session, workflowId, json)),
  );

for (const name of ['approve', 'reject'] as const) {
  const what = name === 'approve' ? 'Say yes at the open gate, having seen its evidence.' : 'Say no at the open gate.';
  command(name, what, [
    `pgleap ${name} --gate begin`,
    `pgleap ${name} databases/postgres --gate begin --by Ada --evidence 3f8c…`,
  ])
    .argument(...upgradeArgument)
    .addOption(gateOption())
    .option('--evidence <hash>', 'hash of the evidence you saw; default: the one shown now')
    .addOption(byOption())
    .addOption(noteOption())
    .action(
      (upgrade: string | undefined, { gate, evidence, json, ...said }: Said & { gate: string; evidence?: string }) =>
        withUpgrade(upgrade, async (session, workflowId) => {
          const hash = evidence ?? (await shownEvidence(session, workflowId, gate, json));
          const message = { gate, ...said, ...(hash === undefined ? {} : { evidence: hash }) };
          answered(await sendMessage(session, workflowId, name, message), json);
        }),
    );
}

command(
  'rollback',
  'Stop, and put everything back. After the commit point it says what that would lose, and needs --accept-lost-writes.',
  ['pgleap rollback --note "too slow"', 'pgleap rollback --accept-lost-writes --note "the new server is unusable"'],
)
  .argument(...upgradeArgument)
  .addOption(byOption())
  .addOption(noteOption())
  .option('--accept-lost-writes', 'also after the commit point, though what services wrote since is lost to them')
  .action((upgrade: string | undefined, { json, ...message }: Said) =>
    withUpgrade(upgrade, async (session, workflowId) => {
      answered(await sendMessage(session, workflowId, 'rollback', { ...message }), json);
    }),
  );

command('resolve', 'Answer a failure that is parked.', ['pgleap resolve --park park-1 --action retry'])
  .argument(...upgradeArgument)
  .requiredOption('--park <id>', 'which one, e.g. park-1')
  .addOption(new Option('--action <action>').choices(['retry', 'rollback', 'abort']).makeOptionMandatory())
  .addOption(byOption())
  .addOption(noteOption())
  .action((upgrade: string | undefined, { json, ...message }: Said & { park: string; action: string }) =>
    withUpgrade(upgrade, async (session, workflowId) => {
      answered(await sendMessage(session, workflowId, 'resolve', { ...message }), json);
    }),
  );

command('report', 'The result, and the report with edited manifests as files.', [
  'pgleap report',
  'pgleap report --save reports',
])
  .argument(...upgradeArgument)
  .option('--save <folder>', 'write report.html, report.json and the edited manifests there')
  .action((name: string | undefined, { json, save }: Json & { save?: string }) =>
    withUpgrade(name, async (session, workflowId) => {
      const status = await upgradeStatus(session, workflowId);
      const saved = save === undefined ? [] : await saveReport(status, save);
      if (json) print(JSON.stringify({ result: status.result, artifacts: status.gathered.artifacts, saved }));
      else
        print(
          [
            status.result ? resultText(status.result) : 'There is no result yet.',
            ...saved.map((file) => `wrote ${file}`),
          ].join('\n'),
        );
    }),
  );

command(
  'recover',
  'After an abort, a termination or the loss of Temporal: put the old world back, or finish reopening. Shows what it would do and what is left of the artifacts, and asks.',
  ['pgleap recover databases/postgres', 'pgleap recover databases/postgres --yes --json'],
)
  .argument('<upgrade>', 'namespace/workload, or namespace/name of the journal')
  .option('--yes', 'do it without asking, and without computing checksums of the artifacts first')
  .option(
    '--force',
    'where Temporal does not answer, or does not know the workflow: you know that neither it nor a worker of it runs any more',
  )
  .action(async (name: string, { json, yes, force }: Json & { yes?: boolean; force?: boolean }) => {
    const { findRecovery, recoveredText, recoveryText } = await import('./recover.ts');
    const { filesText } = await import('./recover-artifacts.ts');
    const { recovery, look, run } = await findRecovery(name, { force: force ?? false });
    if (!json) print(recoveryText(recovery));
    const say = (text: string) => process.stderr.write(`${new Date().toISOString().slice(11, 19)}  ${text}\n`);
    // Who has decided already does not wait for checksums: services are down.
    const files = await look({ checksums: !yes, say });
    if (!json && recovery.journal !== null) print(`\n${filesText(recovery.artifacts, files, Date.now())}`);
    if (!yes && (json || !process.stdin.isTTY || !(await confirm('\nDo it?')))) {
      if (json) print(JSON.stringify({ changed: false, recovery, files }));
      else print('\nNothing was changed. To do it: the same with --yes.');
      return;
    }
    process.off('SIGINT', interrupted);
    process.once('SIGINT', () => {
      writeSync(2, '\nInterrupted half-way. The same command goes on where it stopped.\n');
      process.exit(exitCodes.interrupted.code);
    });
    const recovered = await run(say);
    print(json ? JSON.stringify({ changed: true, recovery, files, ...recovered }) : `\n${recoveredText(recovered)}`);
    if (!recovered.ok) finish('differs');
  });

command('spec', 'Check a spec and print the JSON that plain `temporal workflow start --input-file` takes.', [
  'pgleap spec upgrade.yaml > upgrade.json',
])
  .argument('<spec>', 'spec file')
  .action(async (file: string) => print(JSON.stringify((await readSpecFile(file)).input, null, 2)));

command('doctor', 'Look whether everything that an upgrade needs is there.', ['pgleap doctor']).action(
  async ({ json }: Json) => {
    const { doctor } = await import('./doctor.ts');
    const checks = await doctor();
    print(json ? JSON.stringify(checks) : checksText(checks));
    const failed = checks.find(({ status }) => status === 'FAILED');
    const names: Record<string, ExitName> = {
      temporal: 'noTemporal',
      worker: 'noWorker',
      environment: 'configuration',
    };
    if (failed) finish(names[failed.id] ?? 'unreachable');
  },
);

command('worker', 'Run a worker until Ctrl-C. Its configuration is the environment: see docs/worker.md.', [
  'KUBECONFIG=… LINODE_TOKEN=… CLOUDFLARE_API_TOKEN=… pgleap worker',
])
  .option('--verbose', 'log more')
  .action(async ({ json, verbose }: Json & { verbose?: boolean }) => {
    process.off('SIGINT', interrupted);
    const { runWorker } = await import('../worker/worker.ts');
    await runWorker({ json: json ?? false, level: verbose ? 'DEBUG' : 'INFO' });
  });

async function confirm(question: string): Promise<boolean> {
  const { createInterface } = await import('node:readline/promises');
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  try {
    return /^y(es)?$/i.test((await terminal.question(`${question} (yes/no) `)).trim());
  } finally {
    terminal.close();
  }
}

/** Shows what is about to be approved, and returns its hash. */
async function shownEvidence(
  session: Session,
  workflowId: string,
  gate: string,
  json: boolean | undefined,
): Promise<string | undefined> {
  const status = await upgradeStatus(session, workflowId);
  const open = openGate(status);
  // Whatever is wrong with the answer, the upgrade itself says so best.
  if (open?.name !== gate) return undefined;
  if (!json) print(`${gateText(status, open).split('\n\n')[0] ?? ''}\n`);
  return open.evidence?.hash;
}

function answered(says: string, json: boolean | undefined): void {
  print(json ? JSON.stringify({ accepted: true, says }) : says);
}

async function follow(session: Session, workflowId: string, json: boolean | undefined): Promise<void> {
  const result = await watchUpgrade(session, workflowId, json ? tellProgram : personTeller(), stopped.signal);
  end(result, json);
}

function end(result: UpgradeResult, json: boolean | undefined): void {
  clearLine();
  print(json ? JSON.stringify({ type: 'result', result }) : `\n${resultText(result)}`);
  if (!result.ok) finish('rolledBack');
}

function tellProgram(event: WatchEvent): void {
  print(JSON.stringify(event));
}

/** On a terminal progress is one line that changes; in a log it is a line now and then. */
function personTeller(): (event: WatchEvent) => void {
  let last = 0;
  return (event) => {
    if (event.type === 'progress') {
      if (process.stdout.isTTY) {
        clearLine();
        process.stdout.write(event.text.slice(0, (process.stdout.columns || 80) - 1));
      } else if (Date.now() - last > 10_000) {
        last = Date.now();
        print(event.text);
      }
      return;
    }
    clearLine();
    print(`${event.at.slice(11, 19)}  ${event.text}`);
  };
}

function clearLine(): void {
  if (process.stdout.isTTY) process.stdout.write('\r\u001B[K');
}

async function withSession(work: (session: Session) => Promise<void>): Promise<void> {
  const session = await connect();
  try {
    await work(session);
  } finally {
    await session.close();
  }
}

function withUpgrade(
  name: string | undefined,
  work: (session: Session, workflowId: string) => Promise<void>,
): Promise<void> {
  return withSession(async (session) => {
    const isFile = name !== undefined && /\.(ya?ml|json)$/.test(name);
    await work(session, isFile ? workflowIdOf((await readSpecFile(name)).spec) : await findUpgrade(session, name));
  });
}

function userName(): string {
  try {
    return userInfo().username;
  } catch {
    return 'unknown';
  }
}

function exitCodeTable(): string {
  return Object.values(exitCodes)
    .map(({ code, says }) => `  ${String(code).padStart(3)}  ${says}`)
    .join('\n');
}

function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

function finish(exit: ExitName): void {
  process.exitCode = exitCodes[exit].code;
}

const stopped = new AbortController();

function interrupted(): void {
  clearLine();
  // Synchronous, because the process ends here.
  writeSync(2, 'Interrupted. What was started goes on; come back with: pgleap watch\n');
  stopped.abort();
  process.exit(exitCodes.interrupted.code);
}

/** One paragraph for what the user can mend; a stack trace only on request. */
function explain(error: unknown): void {
  if (error instanceof CommanderError) {
    // commander has printed its message, or the help that was asked for.
    process.exitCode = error.exitCode === 0 ? 0 : exitCodes.usage.code;
    return;
  }
  const exit = error instanceof UserError ? error.exit : 'failed';
  const message = error instanceof Error ? error.message : String(error);
  if (process.argv.includes('--json'))
    print(JSON.stringify({ ok: false, error: { exit, code: exitCodes[exit].code, message } }));
  else console.error(`pgleap: ${message}`);
  if (exit === 'failed') {
    if (process.env['PGLEAP_DEBUG'] && error instanceof Error) console.error(error.stack);
    else console.error('This was not foreseen. With PGLEAP_DEBUG=1 in the environment it says more.');
  }
  finish(exit);
}

process.on('SIGINT', interrupted);
// `pgleap watch | head` is no error.
process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 0 : 1));

program.exitOverride();
for (const sub of program.commands) sub.exitOverride();
try {
  await program.parseAsync();
} catch (error) {
  explain(error);
}
// A request that was given up must not hold the command back.
setTimeout(() => process.exit(), 1000).unref();
