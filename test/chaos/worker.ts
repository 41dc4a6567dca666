/**
 * The worker as the operator runs it, but at each boundary of each activity it tells the process that started it, on file
 * descriptor 3, and stands still until that answers: it may then go on, or die. All else is the product's own.
 */
import { subscribe } from 'node:diagnostics_channel';
import { readSync, writeSync } from 'node:fs';
import { asyncLocalStorage, type Context } from '@temporalio/activity';
import { Worker, type ActivityInterceptorsFactory } from '@temporalio/worker';
import { runWorker } from '../../src/worker/worker.ts';
import { nameOf, type Boundary } from './boundary.ts';

const channel = 3;

/** Longer than a few calls. */
const longMs = 600_000;

/** What an activity asked of the outside so far. */
interface Asked {
  activity: string;
  times: number;
  changed: boolean;
  told: Set<Boundary['moment']>;
}

const running = new WeakMap<Context, Asked>();

function meet(context: Context, { activity }: Asked, moment: Boundary['moment']): void {
  const { activityId: id, startToCloseTimeoutMs } = context.info;
  const boundary: Boundary = { activity, id, moment, long: startToCloseTimeoutMs > longMs };
  writeSync(channel, `${JSON.stringify(boundary)}\n`);
  const answer = Buffer.alloc(1);
  readSync(channel, answer);
  if (answer.toString() === 'k') process.kill(process.pid, 'SIGKILL');
}

function meetOnce(context: Context, asked: Asked, moment: Boundary['moment']): void {
  if (asked.told.has(moment)) return;
  asked.told.add(moment);
  meet(context, asked, moment);
}

const stops: ActivityInterceptorsFactory = (context) => ({
  inbound: {
    async execute(input, next) {
      const activity = nameOf(context.info.activityType, input.args);
      const asked: Asked = { activity, times: 0, changed: false, told: new Set() };
      running.set(context, asked);
      const { heartbeat } = context;
      Object.assign(context, {
        heartbeat(details: unknown) {
          heartbeat(details);
          if (details !== undefined) meetOnce(context, asked, 'inside');
        },
      });
      meet(context, asked, 'before');
      const result: unknown = await next(input);
      meet(context, asked, 'after');
      return result;
    },
  },
});

/** The folder of all jobs, an argument of its own, in the command that starts one. */
const startsJob = /\bcommand=%2Fpgleap%2Fjobs&/;

/** Each request to the Kubernetes API or a provider as it begins; a command in a pod is one that may change something. */
function ask(request: { method: string; path: string }): void {
  const context = asyncLocalStorage.getStore();
  const asked = context && running.get(context);
  if (!context || !asked) return;
  asked.times += 1;
  // What a job's start asks before it is no part of the work yet.
  if (asked.changed && !startsJob.test(request.path)) meetOnce(context, asked, 'inside');
  if (asked.times > 1) meetOnce(context, asked, 'looking');
  asked.changed ||= request.method !== 'GET' || /\/exec\b/.test(request.path);
}

subscribe('http.client.request.start', (message) => ask((message as { request: Parameters<typeof ask>[0] }).request));
subscribe('undici:request:create', (message) => ask((message as { request: Parameters<typeof ask>[0] }).request));

const create = Worker.create.bind(Worker);
Worker.create = ({ workflowsPath, interceptors, ...options }) =>
  create({
    ...options,
    interceptors: { ...interceptors, activity: [...(interceptors?.activity ?? []), stops] },
    // Made once for all of the many workers of a run.
    ...(workflowsPath === undefined ? {} : { workflowBundle: { codePath: process.env['CHAOS_WORKFLOWS'] ?? '' } }),
  });

await runWorker({ json: false, level: 'WARN' });
