/**
 * Writes what follows from src/domain/rights.ts: the roles in deploy/roles and the table in docs/rbac.md. `npm run rights`;
 * a test fails while they differ.
 */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { rights, type RoleName } from '../src/domain/rights.ts';

const root = join(import.meta.dirname, '..');

/** Bound in namespaces; all others are for the whole cluster. */
const namespaced: readonly RoleName[] = ['database', 'services'];

/** YAML by hand, for the comments. */
function roleFile(role: RoleName): string {
  const kind = namespaced.includes(role) ? 'Role' : 'ClusterRole';
  const rules = rights[role].map(
    (rule) => `  - apiGroups: ['${rule.group}']
    resources: [${rule.resource}] # ${rule.why}
${'name' in rule ? `    resourceNames: [${rule.name}]\n` : ''}    verbs: [${rule.verbs.join(', ')}]
`,
  );
  return `# Made by \`npm run rights\` from src/domain/rights.ts.
apiVersion: rbac.authorization.k8s.io/v1
kind: ${kind}
metadata:
  name: pgleap-${role}
rules:
${rules.join('')}---
apiVersion: rbac.authorization.k8s.io/v1
kind: ${kind}Binding
metadata:
  name: pgleap-${role}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ${kind}
  name: pgleap-${role}
subjects:
  - kind: ServiceAccount
    namespace: pgleap
    name: pgleap
`;
}

function table(): string {
  const rows = Object.entries(rights).flatMap(([role, rules]) =>
    rules.map((rule) => [
      `pgleap-${role}`,
      `${rule.resource}${rule.group === '' ? '' : `.${rule.group}`}${'name' in rule ? ` (${rule.name})` : ''}`,
      rule.verbs.join(', '),
      rule.why,
    ]),
  );
  const all = [['role', 'resource', 'verbs', 'for'], ...rows];
  const width = (column: number) => Math.max(...all.map((cells) => cells[column]?.length ?? 0));
  const line = (cells: string[]) => `| ${cells.map((cell, column) => cell.padEnd(width(column))).join(' | ')} |`;
  const [head = [], ...body] = all;
  return [line(head), `| ${head.map((_, column) => '-'.repeat(width(column))).join(' | ')} |`, ...body.map(line)].join(
    '\n',
  );
}

const begin = '<!-- made by npm run rights -->';
const end = '<!-- end -->';

/** Path to text, of every file that follows from the rights. */
export async function filesOfRights(): Promise<Map<string, string>> {
  const roles = (Object.keys(rights) as RoleName[]).map((role): [string, string] => [
    `deploy/roles/${role}/role.yaml`,
    roleFile(role),
  ]);
  const page = await readFile(join(root, 'docs/rbac.md'), 'utf8');
  const [before, rest] = [page.split(begin)[0] ?? '', page.split(end)[1] ?? ''];
  return new Map([...roles, ['docs/rbac.md', `${before}${begin}\n\n${table()}\n\n${end}${rest}`]]);
}

if (import.meta.main) {
  for (const [name, text] of await filesOfRights()) {
    await mkdir(dirname(join(root, name)), { recursive: true });
    await writeFile(join(root, name), text);
  }
}
