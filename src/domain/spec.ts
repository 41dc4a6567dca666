/**
 * The spec: what the operator writes as `upgrade.yaml`. This schema is the one source of its type, its defaults, its
 * messages and of schema/upgrade.schema.json. Import it as a type in workflows: zod stays out of their bundle.
 */
import { z } from 'zod';
import { parseDuration } from './duration.ts';
import { nameKey, readName } from './names.ts';
import { gates, phases } from './phases.ts';

const duration = z
  .string()
  .refine((text) => parseDuration(text) !== undefined, 'a duration such as 30s, 15m, 2h or 7d')
  .meta({ pattern: String.raw`^\d+(\.\d+)?(ms|s|m|h|d)$` });

const dnsName = z
  .string()
  .max(253)
  .regex(/^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/, 'a Kubernetes name: lower case letters, digits and dashes');

const workloadKind = z.enum(['Deployment', 'StatefulSet']);

/** The worker cannot read the operator's files: a path stands in the file only, and the client puts the text in. */
const manifest = z.union([
  z.strictObject({ name: z.string().min(1), text: z.string() }),
  z.string().transform((path, context): { name: string; text: string } => {
    context.addIssue(`the text of ${path}: \`pgleap spec FILE\` prints the spec with its manifests inlined`);
    return z.NEVER;
  }),
]);

const database = z.strictObject({
  namespace: dnsName.describe('Namespace of the database'),
  kind: workloadKind.default('Deployment').describe('Kind of the database’s workload'),
  workload: dnsName.default('postgres').describe('Name of the Deployment or StatefulSet that runs the source'),
  container: dnsName.optional().describe('Container with the server; default: the only one, or the one named postgres'),
  superuser: z.string().min(1).max(63).optional().describe('Default: the container’s POSTGRES_USER, or postgres'),
  claim: dnsName.optional().describe('Default: the one PersistentVolumeClaim that the container mounts'),
  manifests: z
    .array(manifest)
    .default([])
    .describe('Manifest files to edit: paths, relative to the spec; empty: as it is in the cluster'),
});

const target = z.strictObject({
  image: z.string().min(1).max(500).describe('Image of the new major version, e.g. postgres:18'),
  major: z.int().min(10).max(99).optional().describe('Default: read from the image’s tag'),
  patch: z
    .record(z.string(), z.unknown())
    .optional()
    .describe('Strategic merge patch of the workload for what the new major needs, e.g. mounts and PGDATA'),
});

const serviceKinds = ['Deployment', 'StatefulSet', 'CronJob'] as const;

const service = z.strictObject({
  kind: z.enum(serviceKinds).default('Deployment'),
  namespace: dnsName,
  name: dnsName,
  readOnly: z.boolean().default(false).describe('Stays up; it never writes to the database'),
  login: z
    .string()
    .min(1)
    .max(63)
    .optional()
    .describe('Role a read-only service logs in with; the fence lets it through'),
});

const shortService = 'a service such as web/site, databases/cronjob/backup or web/statefulset/queue';

/** `web/site` is a Deployment, `databases/cronjob/backup` a CronJob. */
const serviceShorthand = z
  .string()
  .regex(/^[-a-z0-9]+\/(?:(?:deployment|statefulset|cronjob)\/)?[-a-z0-9.]+$/, shortService)
  .transform((text, context) => {
    const [namespace, kind, name] = text.split('/');
    const read = service.safeParse(
      name === undefined
        ? { namespace, name: kind }
        : { namespace, kind: serviceKinds.find((known) => known.toLowerCase() === kind), name },
    );
    if (read.success) return read.data;
    context.addIssue({ code: 'custom', message: shortService });
    return z.NEVER;
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
  takeOver: z
    .boolean()
    .default(false)
    .describe('Allow a pattern that already has another Worker to be replaced for the time'),
});

/** `begin: auto` is short for `begin: { policy: auto }`; what is left out has the gate's own default. */
function gate(defaults: { timeLimit: string; remind: string }) {
  const policy = z.enum(['manual', 'auto']);
  const full = z.strictObject({
    policy: policy.default('manual'),
    timeLimit: z
      .union([duration, z.literal('never')])
      .default(defaults.timeLimit)
      .transform((text) => (text === 'never' ? undefined : text))
      .optional()
      .describe('After this time the gate answers as docs/gates.md says'),
    remind: duration.default(defaults.remind).describe('How often people are reminded'),
    approvals: z.int().min(1).max(20).default(1).describe('How many different people must say yes'),
  });
  return z.union([full, policy.transform((chosen) => full.parse({ policy: chosen }))]).prefault({});
}

const approver = z
  .string()
  .transform((text, context) => {
    const read = readName(text);
    if (read.name !== null) return read.name;
    context.addIssue(`a name; it ${read.wrong}`);
    return z.NEVER;
  })
  .meta({ minLength: 1, maxLength: 500 });

/** Phases that can be put back by themselves; after `reopen` going back would lose writes. */
const beforeCommit = phases.map(({ name }) => name).slice(1, phases.findIndex(({ name }) => name === 'reopen') + 1);
const parkable = phases.map(({ name }) => name).slice(1);

/** The answer that a park gives itself when nobody has. */
const failurePolicy = z.strictObject({
  after: duration.describe('How long people have to answer first'),
  answer: z.enum(['retry', 'rollback']),
  times: z
    .int()
    .min(1)
    .max(100)
    .default(3)
    .describe('With answer retry: how often in a phase, before it waits for a person'),
});

const onFailure = z
  .partialRecord(z.enum(['default', ...parkable]), failurePolicy)
  .superRefine((policies, context) => {
    for (const [name, policy] of Object.entries(policies)) {
      const canGoBack = name === 'default' || beforeCommit.some((known) => known === name);
      if (policy?.answer !== 'rollback' || canGoBack) continue;
      const message = `retry: phase ${name} comes after the commit point, from where nothing goes back by itself`;
      context.addIssue({ code: 'custom', path: [name, 'answer'], message });
    }
  })
  .default({});

const whole = z.strictObject({
  database,
  target,
  services: z
    .array(z.union([service, serviceShorthand]))
    .default([])
    .describe('Everything that uses the database, in any namespace'),
  maintenance: maintenance
    .nullable()
    .default(null)
    .describe('Cloudflare routes for the time of the upgrade; null: none'),
  clone: z
    .union([
      z.strictObject({
        label: z.string().optional().describe('Default: pgleap-<upgrade id>-<claim>, within 32 characters'),
      }),
      z.literal('none'),
    ])
    .default({})
    .describe('The copy at the provider; none: go without, for volumes of a CSI driver that pgleap cannot clone'),
  strategy: z.enum(['runbook']).default('runbook'),
  rehearse: z.boolean().default(false).describe('Dump and import once with services up, to predict the downtime'),
  gates: z
    .strictObject({
      begin: gate({ timeLimit: '1d', remind: '30m' }),
      replace: gate({ timeLimit: 'never', remind: '5m' }),
      reopen: gate({ timeLimit: 'never', remind: '5m' }),
      cleanup: gate({ timeLimit: '14d', remind: '1d' }),
    })
    .prefault({}),
  approvers: z
    .array(approver)
    .prefault([])
    .describe('Names that may answer gates and parks, and roll back; empty: anybody'),
  approvalLasts: duration.default('12h').describe('How long a yes counts that nothing has followed yet'),
  starterMayApprove: z.boolean().default(true).describe('Whether who started the upgrade may say yes at its gates'),
  maxDowntime: duration.optional().describe('The longest downtime you accept, waiting for people and all'),
  onDowntimeExceeded: z
    .enum(['remind', 'rollback'])
    .default('remind')
    .describe('When the time left of maxDowntime does not suffice: say so again and again, or go back'),
  onFailure: onFailure.describe('Answers that a failure gives itself when nobody has: by phase, or default'),
  retention: duration.default('7d').describe('How long clone and original volume are kept before gate cleanup'),
  observe: duration.default('10s').describe('How long services are watched after they are up again'),
  probes: z
    .array(z.strictObject({ database: z.string().min(1), query: z.string().min(1) }))
    .default([])
    .describe('Read-only queries timed before and after'),
});

/** What one key says of another. */
export const specSchema = whole.superRefine((spec, context) => {
  const { approvers, clone } = spec;
  if (clone === 'none' && spec.gates.replace.policy !== 'manual') {
    const message =
      'manual: with clone: none there is no copy of the original volume, so a person must approve its replacement';
    context.addIssue({ code: 'custom', path: ['gates', 'replace'], message });
  }
  const people = new Set(approvers.map(nameKey)).size;
  if (people < approvers.length) {
    context.addIssue({ code: 'custom', path: ['approvers'], message: 'each name once' });
  }
  if (people === 0) return;
  for (const { name } of gates) {
    if (spec.gates[name].approvals <= people) continue;
    const message = `at most ${people}, for so many are listed as approvers`;
    context.addIssue({ code: 'custom', path: ['gates', name, 'approvals'], message });
  }
});

/** The spec with every default filled in. */
export type Spec = z.output<typeof specSchema>;

/** The JSON Schema of what people write, for editors and for messages. */
export function specJsonSchema(): z.core.JSONSchema.JSONSchema {
  return z.toJSONSchema(specSchema, { io: 'input' });
}
