import type { Check } from '../../domain/checks.ts';
import { rightText, type Right } from '../../domain/rights.ts';
import type { Kube } from './client.ts';

/** Requests side by side: an API server far away would make some hundred questions, one after the other, slow. */
const atOnce = 10;
/** Above so many kinds of object the role as a whole is missing, not a line of it. */
const fewKinds = 3;

/**
 * Asks the API server for each right, before anything is changed: a verb that is missing in the middle of the downtime would
 * park the upgrade there. One FAILED check for each namespace where some are missing.
 */
export async function accessChecks(kube: Kube, needed: Right[]): Promise<Check[]> {
  const missing: Right[] = [];
  for (let from = 0; from < needed.length; from += atOnce) {
    const some = needed.slice(from, from + atOnce);
    const answers = await Promise.all(some.map((right) => kube.allowed(right)));
    if (answers.includes(undefined)) {
      const message =
        'This API server does not say what it will allow; a verb that is missing is seen only when it is needed.';
      return [{ id: 'kube.access', status: 'SKIPPED', message }];
    }
    missing.push(...some.filter((_, index) => answers[index] === false));
  }
  if (missing.length === 0) {
    return [{ id: 'kube.access', status: 'PASSED', message: `All ${needed.length} kinds of request are allowed.` }];
  }
  const user = await kube.userName();
  const who = user === undefined ? 'The worker’s user' : `The worker’s user (${user})`;
  return [...Map.groupBy(missing, ({ namespace }) => namespace)].map(([namespace, rights]) => ({
    id: 'kube.access',
    status: 'FAILED',
    message: `${who} may not, ${namespace === undefined ? 'in the cluster' : `in namespace ${namespace}`}: ${rights.map(rightText).join('; ')}.`,
    remedy: remedyFor(rights, namespace, user),
  }));
}

function remedyFor(rights: Right[], namespace: string | undefined, user: string | undefined): string {
  const kinds = Map.groupBy(rights, ({ group, resource, name }) => `${resource}.${group} ${name}`);
  if (kinds.size > fewKinds) {
    const roles = [...new Set(rights.map(({ role }) => `pgleap-${role}`))];
    return `Bind ${roles.join(' and ')} of docs/rbac.md there, as deploy/ does.`;
  }
  const [role, binding, where] =
    namespace === undefined
      ? (['clusterrole', 'clusterrolebinding', ''] as const)
      : (['role', 'rolebinding', `-n ${namespace} `] as const);
  return [...kinds]
    .map(([, [first, ...others]]) => {
      if (first === undefined) return '';
      const { group, resource } = first;
      const name = `pgleap-may-${resource.replace('/', '-')}`;
      const verbs = [first, ...others].map(({ verb }) => verb).join(',');
      const of = group === '' ? resource : resource.replace(/^[^/]+/, `$&.${group}`);
      const only = first.name === undefined ? '' : ` --resource-name=${first.name}`;
      return [
        `kubectl ${where}create ${role} ${name} --verb=${verbs} --resource=${of}${only}`,
        `kubectl ${where}create ${binding} ${name} --${role}=${name} ${subject(user)}`,
      ].join(' && ');
    })
    .join('; ');
}

function subject(user: string | undefined): string {
  const [, account] = /^system:serviceaccount:(.+)$/.exec(user ?? '') ?? [];
  return account === undefined ? `--user=${user ?? 'NAME'}` : `--serviceaccount=${account}`;
}
