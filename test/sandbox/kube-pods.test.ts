import { createHash, randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { PassThrough, Writable } from 'node:stream';
import {
  AppsV1Api,
  BatchV1Api,
  CoreV1Api,
  Exec,
  PatchStrategy,
  setHeaderOptions,
  Watch,
  type V1Pod,
  type V1Status,
} from '@kubernetes/client-node';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { deploymentOf, eventually, startWorld, type World } from './kube-parts.ts';

let world: World;
let core: CoreV1Api;
let apps: AppsV1Api;
let batch: BatchV1Api;
const namespace = 'default';
const merge = setHeaderOptions('Content-Type', PatchStrategy.MergePatch);

beforeAll(async () => {
  world = await startWorld();
  core = world.config.makeApiClient(CoreV1Api);
  apps = world.config.makeApiClient(AppsV1Api);
  batch = world.config.makeApiClient(BatchV1Api);
});

afterAll(async () => {
  await world.close();
  expect(world.problems).toEqual([]);
});

async function podsOf(app: string) {
  return (await core.listNamespacedPod({ namespace, labelSelector: `app=${app}` })).items;
}

async function readyPod(app: string): Promise<string> {
  return eventually(async () => {
    const [pod] = await podsOf(app);
    return pod?.status?.containerStatuses?.[0]?.ready === true ? pod.metadata?.name : undefined;
  }, `a ready pod of ${app}`);
}

async function scaled(name: string, replicas: number): Promise<void> {
  await apps.patchNamespacedDeploymentScale({ name, namespace, body: { spec: { replicas } } }, merge);
  await eventually(async () => {
    const { metadata, spec, status } = await apps.readNamespacedDeployment({ name, namespace });
    const settled = status?.observedGeneration === metadata?.generation && spec?.replicas === replicas;
    return settled && (status?.readyReplicas ?? 0) === replicas && (await podsOf(name)).length === replicas;
  }, `${name} at ${replicas}`);
}

interface Executed {
  status: V1Status;
  stdout: Buffer;
  stderr: string;
}

function collect(into: Buffer[]): Writable {
  return new Writable({
    write(chunk: Buffer, _encoding, done) {
      into.push(chunk);
      done();
    },
  });
}

async function exec(pod: string, command: string[], stdin?: PassThrough): Promise<Executed> {
  const stdout: Buffer[] = [];
  const stderr: Buffer[] = [];
  const status = await new Promise<V1Status>((resolve, reject) => {
    new Exec(world.config)
      .exec(namespace, pod, 'main', command, collect(stdout), collect(stderr), stdin ?? null, false, resolve)
      .catch(reject);
  });
  return { status, stdout: Buffer.concat(stdout), stderr: Buffer.concat(stderr).toString() };
}

test('a Deployment goes to zero and back to its exact count, quickly', async () => {
  await apps.createNamespacedDeployment({ namespace, body: deploymentOf('web', { replicas: 2 }) });
  await scaled('web', 2);
  const before = (await podsOf('web')).map((pod) => pod.metadata?.uid);
  const began = performance.now();
  await scaled('web', 0);
  await scaled('web', 2);
  expect(performance.now() - began).toBeLessThan(2000);
  const after = (await podsOf('web')).map((pod) => pod.metadata?.uid);
  expect(after.filter((uid) => before.includes(uid))).toEqual([]);
  const scale = await apps.readNamespacedDeploymentScale({ name: 'web', namespace });
  expect(scale).toMatchObject({ spec: { replicas: 2 }, status: { replicas: 2, selector: 'app=web' } });
});

test('Recreate starts nothing new before the last old pod is gone; a rolling update always keeps one', async () => {
  for (const type of ['Recreate', 'RollingUpdate']) {
    const name = type.toLowerCase();
    await apps.createNamespacedDeployment({ namespace, body: deploymentOf(name, { strategy: { type } }) });
    await readyPod(name);
    const container = { name: 'main', env: [{ name: 'CHANGED', value: 'yes' }] };
    const body = { spec: { template: { spec: { containers: [container] } } } };
    const strategic = setHeaderOptions('Content-Type', PatchStrategy.StrategicMergePatch);
    const present = new Set<string>();
    const counts = new Set<number>();
    const abort = await new Watch(world.config).watch(
      `/api/v1/namespaces/${namespace}/pods`,
      { labelSelector: `app=${name}` },
      (change, pod: V1Pod) => {
        if (change === 'DELETED') present.delete(pod.metadata?.uid ?? '');
        else present.add(pod.metadata?.uid ?? '');
        counts.add(present.size);
      },
      () => {},
    );
    const { metadata } = await apps.patchNamespacedDeployment({ name, namespace, body }, strategic);
    await eventually(async () => {
      const { status } = await apps.readNamespacedDeployment({ name, namespace });
      const done = status?.updatedReplicas === 1 && status.readyReplicas === 1 && status.replicas === 1;
      return done && status.observedGeneration === metadata?.generation && (await podsOf(name)).length === 1;
    }, `${type} to end`);
    abort.abort();
    expect(Math.max(...counts)).toBe(type === 'Recreate' ? 1 : 2);
    expect(Math.min(...counts)).toBe(type === 'Recreate' ? 0 : 1);
    const { spec } = await apps.readNamespacedDeployment({ name, namespace });
    expect(spec?.template.spec?.containers[0]).toMatchObject({ image: 'busybox:1', env: [{ name: 'CHANGED' }] });
  }
});

test('a Deployment takes over orphans that match, and with one pod too many somebody has to go', async () => {
  await apps.createNamespacedDeployment({ namespace, body: deploymentOf('orphan', {}) });
  const before = await readyPod('orphan');
  await apps.deleteNamespacedDeployment({ name: 'orphan', namespace, propagationPolicy: 'Orphan' });
  await eventually(async () => {
    const { items } = await apps.listNamespacedDeployment({ namespace, fieldSelector: 'metadata.name=orphan' });
    return items.length === 0;
  }, 'no Deployment');
  await apps.createNamespacedDeployment({ namespace, body: deploymentOf('orphan', {}) });
  await scaled('orphan', 1);
  expect(await readyPod('orphan')).toBe(before);
  const hash = (await podsOf('orphan'))[0]?.metadata?.labels?.['pod-template-hash'] ?? '';
  const labels = { app: 'orphan', 'pod-template-hash': hash };
  const { spec } = deploymentOf('stranger', {}).spec.template;
  await core.createNamespacedPod({ namespace, body: { metadata: { name: 'stranger', labels }, spec } });
  await eventually(async () => (await podsOf('orphan')).length === 1, 'one pod again');
});

test('exec gives output, input, exit codes and many bytes unharmed', async () => {
  await apps.createNamespacedDeployment({ namespace, body: deploymentOf('box', {}) });
  const pod = await readyPod('box');
  const failed = await exec(pod, ['sh', '-c', 'echo out; echo err >&2; exit 3']);
  expect(failed).toMatchObject({ stdout: Buffer.from('out\n'), stderr: 'err\n' });
  expect(failed.status).toMatchObject({
    status: 'Failure',
    reason: 'NonZeroExitCode',
    details: { causes: [{ reason: 'ExitCode', message: '3' }] },
  });

  const data = randomBytes(5 * 1024 * 1024);
  const stdin = new PassThrough();
  const echo = exec(pod, ['cat'], stdin);
  stdin.end(data);
  const { status, stdout } = await echo;
  expect(status.status).toBe('Success');
  expect(createHash('sha256').update(stdout).digest('hex')).toBe(createHash('sha256').update(data).digest('hex'));

  const many = await Promise.all([1, 2, 3, 4].map((n) => exec(pod, ['sh', '-c', `sleep 0.1; echo ${n}`])));
  expect(many.map((one) => one.stdout.toString())).toEqual(['1\n', '2\n', '3\n', '4\n']);
});

test('exec into a container that ended just then is no exit code', async () => {
  const words = 'nsenter: cannot open /proc/4711/ns/ipc: No such file or directory';
  const { status } = await exec(await readyPod('box'), ['sh', '-c', `echo '${words}' >&2; exit 1`]);
  expect(status).toMatchObject({
    reason: 'InternalError',
    message: expect.stringContaining('lstat /proc/4711/ns/ipc: no such file or directory'),
  });
});

test('a slow reader holds the process back', async () => {
  const pod = await readyPod('box');
  const flag = `${world.directory}/written`;
  const script = `head -c 30000000 /dev/zero; echo > ${flag}`;
  const stdout = new PassThrough();
  const ws = await new Exec(world.config).exec(namespace, pod, 'main', ['sh', '-c', script], stdout, null, null, false);
  // The client library reads without end by itself; this is how a careful user of it waits.
  ws.pause();
  await new Promise((resolve) => setTimeout(resolve, 1500));
  expect(existsSync(flag)).toBe(false);
  // A process whose reader went away is not told, as with a real kubelet: it waits for ever with what it has to say.
  ws.terminate();
  await new Promise((resolve) => setTimeout(resolve, 1500));
  expect(existsSync(flag)).toBe(false);
  const there = await exec(pod, ['sh', '-c', 'cat /proc/[0-9]*/cmdline']);
  expect(there.stdout.toString()).toContain('head\0-c\x0030000000');
});

test('exec into what is not there is refused before the upgrade', async () => {
  await expect(exec('nobody', ['true'])).rejects.toMatchObject({ message: expect.stringContaining('404') });
});

test('logs come by tail, by time, by size and of the run before', async () => {
  const script = 'echo first; sleep 4; echo second; echo third; exec sleep 1000';
  await apps.createNamespacedDeployment({ namespace, body: deploymentOf('log', { script }) });
  const name = await readyPod('log');
  const read = (query: object) => core.readNamespacedPodLog({ name, namespace, ...query });
  await eventually(async () => (await read({})) === 'first\nsecond\nthird\n', 'three lines');
  expect(await read({ tailLines: 1 })).toBe('third\n');
  expect(await read({ limitBytes: 8 })).toBe('first\nse');
  expect(await read({ sinceSeconds: 2 })).toBe('second\nthird\n');
  expect(await read({ timestamps: true })).toMatch(/^\d{4}-\d\d-\d\dT[\d:.]+Z first\n/);
  await expect(read({ previous: true })).rejects.toMatchObject({ code: 400 });
});

test('a crashing container is restarted with growing pauses and counted', async () => {
  await apps.createNamespacedDeployment({ namespace, body: deploymentOf('crash', { script: 'echo run; exit 7' }) });
  const status = await eventually(async () => {
    const one = (await podsOf('crash'))[0]?.status?.containerStatuses?.[0];
    return (one?.restartCount ?? 0) >= 1 && one?.state?.waiting !== undefined ? one : undefined;
  }, 'a restart');
  expect(status.state?.waiting?.reason).toBe('CrashLoopBackOff');
  expect(status.lastState?.terminated?.exitCode).toBe(7);
  expect(status.imageID).toMatch(/^docker-pullable:\/\/busybox@sha256:[0-9a-f]{64}$/);
  const name = (await podsOf('crash'))[0]?.metadata?.name ?? '';
  expect(await core.readNamespacedPodLog({ name, namespace, previous: true })).toBe('run\n');
});

test('an image that is missing shows as ImagePullBackOff', async () => {
  await apps.createNamespacedDeployment({ namespace, body: deploymentOf('noimage', { image: 'missing:1' }) });
  await eventually(async () => {
    const waiting = (await podsOf('noimage'))[0]?.status?.containerStatuses?.[0]?.state?.waiting;
    return waiting?.reason === 'ImagePullBackOff';
  }, 'ImagePullBackOff');
  await apps.deleteNamespacedDeployment({ name: 'noimage', namespace });
  await eventually(async () => (await podsOf('noimage')).length === 0, 'its end');
});

test('environment and files come from ConfigMaps, Secrets and the pod itself', async () => {
  await core.createNamespacedConfigMap({
    namespace,
    body: { metadata: { name: 'conf' }, data: { FROM_MAP: 'map', file: 'text' } },
  });
  const body = deploymentOf('env', {
    script:
      'echo $FROM_MAP $PASSWORD $JOINED $POD $0; cat $MOUNT_etc_conf/file; stat -c %a $MOUNT_etc_conf/file; exec sleep 1000',
  });
  const [container] = body.spec.template.spec.containers;
  container.envFrom = [{ configMapRef: { name: 'conf' } }];
  container.env = [
    { name: 'PASSWORD', valueFrom: { secretKeyRef: { name: 'pass', key: 'password' } } },
    { name: 'JOINED', value: '$(PASSWORD)-$$(X)-$(Y)' },
    { name: 'POD', valueFrom: { fieldRef: { fieldPath: 'metadata.namespace' } } },
  ];
  container.args = ['$(PASSWORD)'];
  container.volumeMounts = [{ name: 'conf', mountPath: '/etc/conf' }];
  body.spec.template.spec.volumes = [{ name: 'conf', configMap: { name: 'conf', defaultMode: 0o400 } }];
  await apps.createNamespacedDeployment({ namespace, body });
  await eventually(async () => {
    const waiting = (await podsOf('env'))[0]?.status?.containerStatuses?.[0]?.state?.waiting;
    return waiting?.reason === 'CreateContainerConfigError' && waiting.message === 'secret "pass" not found';
  }, 'the missing secret to show');
  await core.createNamespacedSecret({
    namespace,
    body: { metadata: { name: 'pass' }, stringData: { password: 's3cret' } },
  });
  const name = await readyPod('env');
  const log = 'map s3cret s3cret-$(X)-$(Y) default s3cret\ntext400\n';
  await eventually(async () => (await core.readNamespacedPodLog({ name, namespace })) === log, 'the log');
});

test('a mounted ConfigMap follows its object, and a hook runs before the end', async () => {
  const file = `${world.directory}/hook`;
  await core.createNamespacedConfigMap({ namespace, body: { metadata: { name: 'live' }, data: { a: 'one' } } });
  const body = deploymentOf('live', {});
  const { spec } = body.spec.template;
  spec.volumes = [{ name: 'live', configMap: { name: 'live' } }];
  spec.containers[0].volumeMounts = [{ name: 'live', mountPath: '/live' }];
  spec.containers[0].lifecycle = { preStop: { exec: { command: ['sh', '-c', `echo $HOME > ${file}`] } } };
  await apps.createNamespacedDeployment({ namespace, body });
  const pod = await readyPod('live');
  const files = async () => (await exec(pod, ['sh', '-c', 'cd $MOUNT_live && grep . *'])).stdout.toString();
  expect(await files()).toBe('one\n');
  await core.replaceNamespacedConfigMap({
    name: 'live',
    namespace,
    body: { metadata: { name: 'live' }, data: { b: 'two' } },
  });
  await eventually(async () => (await files()) === 'two\n', 'the new content');
  expect(existsSync(file)).toBe(false);
  await scaled('live', 0);
  expect(existsSync(file)).toBe(true);
});

test('probes decide who is ready and who is restarted', async () => {
  const flag = `${world.directory}/ready`;
  const body = deploymentOf('probed', {});
  const [container] = body.spec.template.spec.containers;
  container.readinessProbe = { exec: { command: ['test', '-e', flag] }, periodSeconds: 1, failureThreshold: 1 };
  container.livenessProbe = {
    exec: { command: ['test', '!', '-e', `${flag}-dead`] },
    periodSeconds: 1,
    failureThreshold: 1,
  };
  await apps.createNamespacedDeployment({ namespace, body });
  await eventually(async () => (await podsOf('probed'))[0]?.status?.phase === 'Running', 'a running pod');
  expect((await podsOf('probed'))[0]?.status?.containerStatuses?.[0]?.ready).toBe(false);
  const box = await readyPod('box');
  await exec(box, ['touch', flag]);
  const name = await readyPod('probed');
  const address = async () => (await core.readNamespacedPod({ name, namespace })).status?.podIP;
  const before = await address();
  await exec(box, ['touch', `${flag}-dead`]);
  await eventually(
    async () => (await core.readNamespacedPod({ name, namespace })).status?.containerStatuses?.[0]?.restartCount === 1,
    'a restart by liveness',
  );
  expect(before).toBeDefined();
  expect(await address()).toBe(before);
});

test('a suspended CronJob runs nothing; going on, it makes up for the last missed run', async () => {
  const container = { name: 'main', image: 'busybox:1', command: ['sh', '-c', 'echo done'] };
  const template = { spec: { restartPolicy: 'Never', containers: [container] } };
  const made = await batch.createNamespacedCronJob({
    namespace,
    body: {
      metadata: { name: 'cron' },
      spec: { schedule: '* * * * *', suspend: true, jobTemplate: { spec: { template } } },
    },
  });
  expect(made.spec?.suspend).toBe(true);
  const jobs = async () => (await batch.listNamespacedJob({ namespace })).items;
  expect(await jobs()).toEqual([]);
  // As if it had last run an hour ago.
  const status = { lastScheduleTime: new Date(Date.now() - 3_600_000) };
  await batch.patchNamespacedCronJobStatus({ name: 'cron', namespace, body: { status } }, merge);
  expect(await jobs()).toEqual([]);
  await batch.patchNamespacedCronJob({ name: 'cron', namespace, body: { spec: { suspend: false } } }, merge);
  const job = await eventually(async () => (await jobs()).find((one) => one.status?.succeeded === 1), 'a finished job');
  expect(job.metadata?.name).toMatch(/^cron-\d+$/);
  expect(job.status?.conditions?.[0]).toMatchObject({ type: 'Complete', status: 'True' });
  await batch.patchNamespacedCronJob({ name: 'cron', namespace, body: { spec: { suspend: true } } }, merge);
});

test('a Job gives up after its backoff limit, and its pods go with it', async () => {
  const container = { name: 'main', image: 'busybox:1', command: ['sh', '-c', 'exit 1'] };
  const template = { spec: { restartPolicy: 'Never', containers: [container] } };
  const body = { metadata: { name: 'fails' }, spec: { backoffLimit: 1, template } };
  await batch.createNamespacedJob({ namespace, body });
  const job = await eventually(async () => {
    const one = await batch.readNamespacedJob({ name: 'fails', namespace });
    return one.status?.conditions === undefined ? undefined : one;
  }, 'its end');
  expect(job.status).toMatchObject({ failed: 2, conditions: [{ type: 'Failed', reason: 'BackoffLimitExceeded' }] });
  await batch.deleteNamespacedJob({ name: 'fails', namespace, propagationPolicy: 'Foreground' });
  await eventually(async () => {
    const { items } = await core.listNamespacedPod({ namespace, labelSelector: 'job-name=fails' });
    return items.length === 0;
  }, 'no pods');
});
