import type { AnyObject, Container, Kinds, PodTemplate, Resource } from './objects.ts';

type Draft<R extends Resource> = Kinds[R];

/** Fills in what the API server would, as far as a client of the sandbox reads it back or a controller needs it. */
export function applyDefaults(resource: Resource, object: AnyObject): void {
  defaulters[resource]?.(object as never);
}

const defaulters: { [R in Resource]?: (object: Draft<R>) => void } = {
  namespaces(object) {
    object.metadata.labels = { ...object.metadata.labels, 'kubernetes.io/metadata.name': object.metadata.name };
    object.spec ??= { finalizers: ['kubernetes'] };
    object.status ??= { phase: 'Active' };
  },
  pods(object) {
    podDefaults(object.spec);
    object.status ??= {};
    object.status.phase ??= 'Pending';
  },
  services(object) {
    object.spec.type ??= 'ClusterIP';
    // The sandbox has names but no virtual addresses, and says so.
    if (object.spec.type !== 'ExternalName') {
      object.spec.clusterIP = 'None';
      object.spec.clusterIPs = ['None'];
    }
    object.spec.sessionAffinity ??= 'None';
    for (const port of object.spec.ports ?? []) {
      port.protocol ??= 'TCP';
      port.targetPort ??= port.port;
    }
    object.status ??= { loadBalancer: {} };
  },
  secrets(object) {
    object.type ??= 'Opaque';
    for (const [key, value] of Object.entries(object.stringData ?? {})) {
      object.data = { ...object.data, [key]: Buffer.from(value).toString('base64') };
    }
    delete object.stringData;
  },
  persistentvolumeclaims(object) {
    object.spec.volumeMode ??= 'Filesystem';
    object.status ??= { phase: 'Pending' };
    protect(object, 'kubernetes.io/pvc-protection');
  },
  persistentvolumes(object) {
    object.spec.volumeMode ??= 'Filesystem';
    object.spec.persistentVolumeReclaimPolicy ??= 'Retain';
    object.status ??= { phase: 'Pending' };
    protect(object, 'kubernetes.io/pv-protection');
  },
  deployments(object) {
    const spec = object.spec;
    spec.replicas ??= 1;
    spec.revisionHistoryLimit ??= 10;
    spec.progressDeadlineSeconds ??= 600;
    spec.strategy ??= {};
    spec.strategy.type ??= 'RollingUpdate';
    if (spec.strategy.type === 'RollingUpdate') {
      spec.strategy.rollingUpdate = { maxSurge: '25%', maxUnavailable: '25%', ...spec.strategy.rollingUpdate };
    }
    templateDefaults(spec.template);
  },
  replicasets(object) {
    object.spec.replicas ??= 1;
    if (object.spec.template !== undefined) templateDefaults(object.spec.template);
  },
  statefulsets(object) {
    const spec = object.spec;
    spec.replicas ??= 1;
    spec.podManagementPolicy ??= 'OrderedReady';
    spec.revisionHistoryLimit ??= 10;
    spec.updateStrategy ??= {};
    spec.updateStrategy.type ??= 'RollingUpdate';
    if (spec.updateStrategy.type === 'RollingUpdate') {
      spec.updateStrategy.rollingUpdate = { partition: 0, ...spec.updateStrategy.rollingUpdate };
    }
    templateDefaults(spec.template);
    for (const claim of spec.volumeClaimTemplates ?? []) {
      claim.apiVersion ??= 'v1';
      claim.kind ??= 'PersistentVolumeClaim';
      if (claim.spec !== undefined) claim.spec.volumeMode ??= 'Filesystem';
    }
  },
  jobs(object) {
    const spec = object.spec;
    spec.backoffLimit ??= 6;
    spec.completions ??= 1;
    spec.parallelism ??= 1;
    spec.suspend ??= false;
    templateDefaults(spec.template);
    if (spec.manualSelector !== true) {
      const labels = {
        'batch.kubernetes.io/job-name': object.metadata.name,
        'job-name': object.metadata.name,
        'batch.kubernetes.io/controller-uid': object.metadata.uid,
        'controller-uid': object.metadata.uid,
      };
      spec.selector ??= { matchLabels: { 'batch.kubernetes.io/controller-uid': object.metadata.uid } };
      spec.template.metadata ??= {};
      spec.template.metadata.labels = { ...spec.template.metadata.labels, ...labels };
    }
  },
  cronjobs(object) {
    object.spec.concurrencyPolicy ??= 'Allow';
    object.spec.suspend ??= false;
    object.spec.successfulJobsHistoryLimit ??= 3;
    object.spec.failedJobsHistoryLimit ??= 1;
    const template = object.spec.jobTemplate.spec?.template;
    if (template !== undefined) templateDefaults(template);
  },
  customresourcedefinitions(object) {
    const established = { type: 'Established', status: 'True', reason: 'InitialNamesAccepted', message: '' };
    object.status ??= {
      acceptedNames: object.spec.names,
      conditions: [established, { ...established, type: 'NamesAccepted', reason: 'NoConflicts' }],
      storedVersions: object.spec.versions.filter((version) => version.storage).map((version) => version.name),
    };
  },
  storageclasses(object) {
    object.reclaimPolicy ??= 'Delete';
    object.volumeBindingMode ??= 'Immediate';
  },
};

function protect(object: AnyObject, finalizer: string): void {
  const present = object.metadata.finalizers ?? [];
  if (object.metadata.deletionTimestamp === undefined && !present.includes(finalizer)) {
    object.metadata.finalizers = [...present, finalizer];
  }
}

function templateDefaults(template: PodTemplate): void {
  if (template.spec !== undefined) podDefaults(template.spec);
}

function podDefaults(spec: NonNullable<PodTemplate['spec']>): void {
  spec.restartPolicy ??= 'Always';
  spec.terminationGracePeriodSeconds ??= 30;
  spec.dnsPolicy ??= 'ClusterFirst';
  spec.schedulerName ??= 'default-scheduler';
  spec.securityContext ??= {};
  for (const container of [...(spec.initContainers ?? []), ...spec.containers]) containerDefaults(container);
  for (const volume of spec.volumes ?? []) {
    if (volume.configMap !== undefined) volume.configMap.defaultMode ??= 0o644;
    if (volume.secret !== undefined) volume.secret.defaultMode ??= 0o644;
    if (volume.projected !== undefined) volume.projected.defaultMode ??= 0o644;
  }
}

function containerDefaults(container: Container): void {
  container.resources ??= {};
  container.terminationMessagePath ??= '/dev/termination-log';
  container.terminationMessagePolicy ??= 'File';
  container.imagePullPolicy ??= /:(?!latest$)[^/]+$/.test(container.image ?? '') ? 'IfNotPresent' : 'Always';
  for (const port of container.ports ?? []) port.protocol ??= 'TCP';
  for (const variable of container.env ?? []) {
    if (variable.valueFrom?.fieldRef !== undefined) variable.valueFrom.fieldRef.apiVersion ??= 'v1';
  }
  for (const probe of [container.readinessProbe, container.livenessProbe, container.startupProbe]) {
    if (probe === undefined) continue;
    probe.timeoutSeconds ??= 1;
    probe.periodSeconds ??= 10;
    probe.successThreshold ??= 1;
    probe.failureThreshold ??= 3;
    if (probe.httpGet !== undefined) {
      probe.httpGet.path ??= '/';
      probe.httpGet.scheme ??= 'HTTP';
    }
  }
}
