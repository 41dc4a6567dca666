import { z } from 'zod';
import type { Kind } from './client.ts';

/*
 * What must be so in an object for it to be one: who it is, and whatever of it decides what is changed. The rest of its shape is
 * the API server's to vouch for. An object that is damaged on its way, or made up by what stands in between, must not pass for
 * one that is at 0, let go of, or nobody's.
 */

const texts = z.record(z.string(), z.string());
const id = z.string().min(1);
const named = z.looseObject({ name: id });
const count = z.int().nonnegative();

/** Names are put into paths. */
const objectName = z.string().regex(/^[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?$/);

const metadata = z.looseObject({
  name: objectName,
  uid: id,
  resourceVersion: id,
  creationTimestamp: z.iso.datetime(),
  deletionTimestamp: z.iso.datetime().optional(),
  labels: texts.optional(),
  annotations: texts.optional(),
  ownerReferences: z.array(z.looseObject({ kind: id, name: id, uid: id })).optional(),
});
const any = z.looseObject({ metadata });

const podSpec = z.looseObject({ containers: z.array(named).min(1) });
const workload = z.looseObject({
  metadata,
  spec: z.looseObject({
    replicas: count.optional(),
    selector: z.looseObject({
      matchLabels: texts.optional(),
      matchExpressions: z
        .array(z.looseObject({ key: id, operator: id, values: z.array(z.string()).optional() }))
        .optional(),
    }),
    template: z.looseObject({ spec: podSpec }),
  }),
});
const containerStatuses = z.array(z.looseObject({ name: id, restartCount: count })).optional();

const shapes: Partial<Record<Kind, z.ZodType>> = {
  Deployment: workload,
  StatefulSet: workload,
  Pod: z.looseObject({
    metadata,
    spec: podSpec,
    status: z
      .looseObject({
        phase: id.optional(),
        conditions: z.array(z.looseObject({ type: id, status: id })).optional(),
        containerStatuses,
        initContainerStatuses: containerStatuses,
      })
      .optional(),
  }),
  PersistentVolumeClaim: z.looseObject({
    metadata,
    spec: z.looseObject({ volumeName: z.string().optional() }),
    status: z.looseObject({ phase: id.optional() }).optional(),
  }),
  PersistentVolume: z.looseObject({
    metadata,
    spec: z.looseObject({
      persistentVolumeReclaimPolicy: id,
      csi: z.looseObject({ driver: id, volumeHandle: id }).optional(),
      claimRef: z.looseObject({ namespace: id.optional(), name: id.optional(), uid: id.optional() }).optional(),
    }),
    status: z.looseObject({ phase: z.enum(['Pending', 'Available', 'Bound', 'Released', 'Failed']) }),
  }),
  VolumeAttachment: z.looseObject({
    metadata,
    spec: z.looseObject({ source: z.looseObject({ persistentVolumeName: id.optional() }) }),
  }),
};

/** Whether that can be an object of this kind. */
export function hasShape(kind: Kind, value: unknown): boolean {
  return (shapes[kind] ?? any).safeParse(value).success;
}
