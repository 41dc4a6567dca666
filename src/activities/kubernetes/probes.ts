import type { V1Container } from '@kubernetes/client-node';
import type { Check } from '../../domain/checks.ts';
import type { Json } from './client.ts';

/*
 * Probes of the source while it is fenced. A TCP connection still opens, and pg_isready takes a refused login for a living
 * server; but a probe that logs in passes only as the superuser on the unix socket.
 */

const kinds = [
  ['livenessProbe', 'liveness', 'FAILED', 'the kubelet would restart the server in the middle of the dump'],
  ['startupProbe', 'startup', 'FAILED', 'a server that restarts meanwhile would be killed again and again'],
  ['readinessProbe', 'readiness', 'WARNING', 'the pod is shown as not ready until the fence is lifted'],
] as const;

/** Why the fence would refuse the login of this command; undefined when it would not, or there is none. */
export function refusedLogin(command: readonly string[], superuser: string): string | undefined {
  const text = command.join(' ');
  if (!/\b(psql|pgbench|vacuumdb|pg_dump)\b/.test(text)) return undefined;
  const [, host] =
    /(?:\s-h\s*|\s--host[= ]|\bhost=|\bPGHOST=|postgres(?:ql)?:\/\/(?:[^@/\s]*@)?)["']?([^\s"':/?]+|\/\S*)/.exec(
      text,
    ) ?? [];
  if (host !== undefined && !host.startsWith('/')) return `it connects to ${host} over TCP`;
  const [, user] =
    /(?:\s-U\s*|\s--username[= ]|\buser=|\bPGUSER=|postgres(?:ql)?:\/\/)["']?([^\s"':@/?]+)/.exec(text) ?? [];
  if (user === undefined || user === superuser || /^\$\{?POSTGRES_USER\b/.test(user)) return undefined;
  return `it logs in as ${user}`;
}

/** What becomes of the container's probes in the upgrade. */
export function probeChecks(container: Json<V1Container>, superuser: string): Check[] {
  const checks = kinds.flatMap(([key, name, status, consequence]): Check[] => {
    const why = refusedLogin(container[key]?.exec?.command ?? [], superuser);
    if (why === undefined) return [];
    return [
      {
        id: 'kube.probes',
        status,
        message: `The ${name} probe of container ${container.name} would fail while the source is fenced, because ${why}: ${consequence}.`,
        remedy: 'Use pg_isready, which needs no login, or psql as the superuser on the unix socket.',
      },
    ];
  });
  const overTcp = [container.livenessProbe, container.startupProbe].some(
    (probe) => probe?.tcpSocket !== undefined || probe?.httpGet !== undefined,
  );
  if (overTcp) {
    checks.push({
      id: 'kube.probes',
      status: 'INFO',
      message: `Container ${container.name} is probed over TCP, which is closed while the target is fenced: it runs without probes until it is opened.`,
    });
  }
  return checks;
}
