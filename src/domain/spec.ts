/**
 * The spec: what the operator writes as `upgrade.yaml`. This schema is the one source of its type, its defaults, its
 * messages and of schema/upgrade.schema.json. Import it as a type in workflows: zod stays out of their bundle.
 */
import { z } from 'zod';
import { parseDuration } from './duration.ts';

const duration = z
  .string()
  .refine((text) => parseDuration(text) !== undefined, 'a duration such as 30s, 15m, 2h or 7d')
  .meta({ pattern: String.raw`^\d+(\.\d+)?(ms|s|m|h|d)$` });

const dnsName = z
  .string()
  .max(253)
  .regex(/^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/, 'a Kubernetes name: lower case letters, digits and dashes');

const workloadKind = z.enum(['Deployment', 'StatefulSet']);

const database = z.strictObject({
  namespace: dnsName.describe('Namespace of the database'),
  kind: workloadKind.default('Deployment').describe('Kind of the database’s workload'),
  workload: dnsName.default('postgres').describe('Name of the Deployment or StatefulSet that runs the source'),
  container: dnsName.optional().describe('Container with the server; default: the only one, or the one named postgres'),
  superuser: z.string().min(1).max(63).optional().describe('Default: the container’s POSTGRES_USER, or postgres'),
  claim: dnsName.optional().describe('Default: the one PersistentVolumeClaim that the container mounts'),
  manifests: z
    .array(z.strictObject({ name: z.string().min(1), text: z.string() }))
    .default([])
    .describe('Manifest files to edit, inlined by the client from paths; empty: as it is in the cluster'),
});

const target = z.strictObject({
  image: z.string().min(1).max(500).describe('Image of the new major version, e.g. postgres:18'),
  major: z.int().min(10).max(99).optional().describe('Default: read from the image’s tag'),
  patch: z
    .record(z.string(), z.unknown())
    .optional()
    .describe('Strategic merge patch of the workload for what the new major needs, e.g. mounts and PGDATA'),
});

const service = z.strictObject({
  kind: z.enum(['Deployment', 'StatefulSet', 'CronJob']).default('Deployment'),
  namespace: dnsName,
  name: dnsName,
  readOnly: z.boolean().default(false).describe('Stays up; it never writes to the database'),
  login: z.string().min(1).max(63).optional().describe('Role a read-only service logs in with; the fence lets it through'),
});

const probe = z.strictObject({
  url: z.url({ protocol: /^https?$/ }),
  host: z.string().min(1).optional().describe('Host header to send, where the URL names an address'),
});

const maintenance = z.strictObject({
  zone: z.string().regex(/^[0-9a-f]{32}$/, 'a Cloudflare zone id: 32 hexadecimal digits'),
  script: z.string().min(1).describe('Name of the maintenance Worker'),
  patterns: z.array(z.string().min(1)).min(1).describe('Route patterns, e.g. example.com/*'),
  marker: z.string().default('x-maintenance').describe('Header by which the maintenance Worker’s answer is recognised'),
  probes: z.array(probe).default([]).describe('URLs that show whether maintenance mode is on'),
  takeOver: z.boolean().default(false).describe('Allow a pattern that already has another Worker to be replaced for the time'),
});

const gate = z.strictObject({
  policy: z.enum(['manual', 'auto']).default('manual'),
  timeLimit: duration.optional().describe('After this time the gate answers as docs/gates.md says; default: never'),
  remind: duration.default('30m'),
});

export const specSchema = z.strictObject({
  database,
  target,
  services: z.array(service).default([]).describe('Everything that uses the database, in any namespace'),
  maintenance: maintenance.nullable().default(null).describe('Cloudflare routes for the time of the upgrade; null: none'),
  clone: z
    .strictObject({ label: z.string().optional().describe('Default: pgleap-<upgrade id>-<claim>, within 32 characters') })
    .default({}),
  strategy: z.enum(['runbook']).default('runbook'),
  rehearse: z.boolean().default(false).describe('Dump and import once with services up, to predict the downtime'),
  gates: z
    .strictObject({
      begin: gate.default({ policy: 'manual', timeLimit: '1d', remind: '30m' }),
      replace: gate.default({ policy: 'manual', remind: '5m' }),
      reopen: gate.default({ policy: 'manual', remind: '5m' }),
      cleanup: gate.default({ policy: 'manual', timeLimit: '14d', remind: '1d' }),
    })
    .prefault({}),
  approvers: z.array(z.string().min(1)).default([]).describe('Names that may answer gates; empty: anybody'),
  maxDowntime: duration.optional().describe('The longest downtime you accept; shown against the prediction'),
  onDowntimeExceeded: z.enum(['remind', 'rollback']).default('remind'),
  retention: duration.default('7d').describe('How long clone and original volume are kept before gate cleanup'),
  observe: duration.default('10s').describe('How long services are watched after they are up again'),
  probes: z
    .array(z.strictObject({ database: z.string().min(1), query: z.string().min(1) }))
    .default([])
    .describe('Read-only queries timed before and after'),
});

/** The spec with every default filled in. */
export type Spec = z.output<typeof specSchema>;
