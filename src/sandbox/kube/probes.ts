import { once } from 'node:events';
import { request, type IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type { RunningContainer, Runtime } from '../runtime/types.ts';
import type { Container } from './objects.ts';

type Probe = NonNullable<Container['readinessProbe']>;

export interface ProbeResults {
  onReady(ready: boolean): void;
  onStarted(): void;
  onUnhealthy(kind: 'Readiness' | 'Liveness' | 'Startup', message: string): void;
  /** Liveness or startup failed for good: the container has to be restarted. */
  onDead(): void;
}

/** The kubelet too probes more often than the period while a container isn't ready yet. */
const firstIntervalMs = 50;

/** Runs a container's probes until `signal` aborts. Without a readiness probe it is ready once it has started. */
export async function runProbes(
  runtime: Runtime,
  container: Container,
  running: RunningContainer,
  results: ProbeResults,
  signal: AbortSignal,
): Promise<void> {
  const { startupProbe, readinessProbe, livenessProbe } = container;
  const attempt = (probe: Probe) => attemptProbe(runtime, container, running, probe);
  if (startupProbe !== undefined) {
    // By time, not by count: the first attempts come faster than the period.
    const { initialDelaySeconds = 0, periodSeconds = 10, failureThreshold = 3 } = startupProbe;
    const deadline = Date.now() + (initialDelaySeconds + periodSeconds * failureThreshold) * 1000;
    for await (const problem of attempts(startupProbe, attempt, signal, true)) {
      if (problem === undefined) break;
      results.onUnhealthy('Startup', problem);
      if (Date.now() >= deadline) return results.onDead();
    }
    if (signal.aborted) return;
  }
  results.onStarted();
  await Promise.all([
    readinessProbe === undefined ? results.onReady(true) : watchReadiness(readinessProbe, attempt, results, signal),
    livenessProbe === undefined ? undefined : watchLiveness(livenessProbe, attempt, results, signal),
  ]);
}

async function watchReadiness(
  probe: Probe,
  attempt: (probe: Probe) => Promise<string | undefined>,
  results: ProbeResults,
  signal: AbortSignal,
): Promise<void> {
  let ready = false;
  let row = 0;
  for await (const problem of attempts(probe, attempt, signal, () => !ready)) {
    if (problem !== undefined) results.onUnhealthy('Readiness', problem);
    row = (problem === undefined) === ready ? 0 : row + 1;
    const needed = ready ? (probe.failureThreshold ?? 3) : (probe.successThreshold ?? 1);
    if (row < needed) continue;
    ready = !ready;
    row = 0;
    results.onReady(ready);
  }
}

async function watchLiveness(
  probe: Probe,
  attempt: (probe: Probe) => Promise<string | undefined>,
  results: ProbeResults,
  signal: AbortSignal,
): Promise<void> {
  let failures = 0;
  for await (const problem of attempts(probe, attempt, signal, false)) {
    failures = problem === undefined ? 0 : failures + 1;
    if (problem !== undefined) results.onUnhealthy('Liveness', problem);
    if (failures >= (probe.failureThreshold ?? 3)) return results.onDead();
  }
}

/** Yields what was wrong, or undefined for a success, once a period; faster while `eager`. */
async function* attempts(
  probe: Probe,
  attempt: (probe: Probe) => Promise<string | undefined>,
  signal: AbortSignal,
  eager: boolean | (() => boolean),
): AsyncGenerator<string | undefined> {
  const period = (probe.periodSeconds ?? 10) * 1000;
  let interval = firstIntervalMs;
  await rest((probe.initialDelaySeconds ?? 0) * 1000, signal);
  while (!signal.aborted) {
    const problem = await attempt(probe);
    if (signal.aborted) return;
    yield problem;
    interval = Math.min(interval * 1.5, period);
    await rest((typeof eager === 'boolean' ? eager : eager()) ? interval : period, signal);
  }
}

async function rest(ms: number, signal: AbortSignal): Promise<void> {
  if (ms > 0 && !signal.aborted) await sleep(ms, undefined, { signal }).catch(() => undefined);
}

async function attemptProbe(
  runtime: Runtime,
  container: Container,
  running: RunningContainer,
  probe: Probe,
): Promise<string | undefined> {
  const limit = (probe.timeoutSeconds ?? 1) * 1000;
  const cancel = new AbortController();
  const timer = setTimeout(() => cancel.abort(new Error(`timed out after ${limit} ms`)), limit);
  try {
    if (probe.exec !== undefined) await execProbe(running, probe.exec.command ?? [], cancel.signal);
    else if (probe.httpGet !== undefined) {
      await httpProbe(runtime, running.ip, portOf(container, probe.httpGet.port), probe.httpGet, cancel.signal);
    } else if (probe.tcpSocket !== undefined) {
      (await connect(runtime, running.ip, portOf(container, probe.tcpSocket.port), cancel.signal)).destroy();
    }
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  } finally {
    clearTimeout(timer);
  }
}

async function execProbe(running: RunningContainer, argv: string[], signal: AbortSignal): Promise<void> {
  const child = running.exec(argv);
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding('utf8').on('data', (text: string) => {
      output = `${output}${text}`.slice(0, 1024);
    });
  }
  child.stdin?.on('error', () => undefined).end();
  const stop = () => child.kill('SIGKILL');
  signal.addEventListener('abort', stop, { once: true });
  const [code] = (await once(child, 'close')) as [number | null];
  signal.removeEventListener('abort', stop);
  if (signal.aborted) throw signal.reason;
  if (code !== 0) throw new Error(output.trim() || `exit code ${code}`);
}

function connect(runtime: Runtime, ip: string, port: number, signal: AbortSignal): Promise<Duplex> {
  return new Promise((resolve, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
    // A connection that opens after the time limit must not stay open.
    runtime.connect(ip, port).then((stream) => (signal.aborted ? stream.destroy() : resolve(stream)), reject);
  });
}

async function httpProbe(
  runtime: Runtime,
  ip: string,
  port: number,
  { path = '/', httpHeaders = [], host }: NonNullable<Probe['httpGet']>,
  signal: AbortSignal,
): Promise<void> {
  const stream = await connect(runtime, ip, port, signal);
  try {
    const headers = { 'user-agent': 'kube-probe/1.34', host: host ?? `${ip}:${port}` };
    for (const { name, value } of httpHeaders) Object.assign(headers, { [name.toLowerCase()]: value });
    const call = request({ path, headers, signal, createConnection: () => stream });
    call.end();
    const [response] = (await once(call, 'response')) as [IncomingMessage];
    response.resume();
    const { statusCode = 0 } = response;
    if (statusCode < 200 || statusCode >= 400) throw new Error(`HTTP probe failed with statuscode: ${statusCode}`);
  } finally {
    stream.destroy();
  }
}

function portOf(container: Container, port: number | string): number {
  if (typeof port === 'number') return port;
  return container.ports?.find((one) => one.name === port)?.containerPort ?? Number(port);
}
