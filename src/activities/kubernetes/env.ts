import type { V1Container } from '@kubernetes/client-node';
import type { Json, Kube } from './client.ts';

/**
 * The value that a container's environment gives to one variable, wherever it comes from; null when it sets none or the
 * source is missing. Reads only that one key, and is only asked for names that are no secrets (PGDATA, POSTGRES_USER).
 */
export async function envValue(
  kube: Kube,
  namespace: string,
  container: Json<V1Container>,
  name: 'PGDATA' | 'POSTGRES_USER' | 'PGPORT',
): Promise<string | null> {
  const direct = container.env?.findLast((one) => one.name === name);
  if (direct?.value !== undefined) return direct.value;
  const { configMapKeyRef, secretKeyRef } = direct?.valueFrom ?? {};
  if (configMapKeyRef !== undefined)
    return await configValue(kube, namespace, configMapKeyRef.name ?? '', configMapKeyRef.key);
  if (secretKeyRef !== undefined) return await secretValue(kube, namespace, secretKeyRef.name ?? '', secretKeyRef.key);
  if (direct !== undefined) return null;
  // The last source that has the key wins.
  for (const source of (container.envFrom ?? []).toReversed()) {
    const prefix = source.prefix ?? '';
    if (!name.startsWith(prefix)) continue;
    const key = name.slice(prefix.length);
    const { configMapRef, secretRef } = source;
    const value =
      configMapRef !== undefined
        ? await configValue(kube, namespace, configMapRef.name ?? '', key)
        : secretRef !== undefined
          ? await secretValue(kube, namespace, secretRef.name ?? '', key)
          : null;
    if (value !== null) return value;
  }
  return null;
}

async function configValue(kube: Kube, namespace: string, name: string, key: string): Promise<string | null> {
  const map = await kube.find('ConfigMap', { namespace, name });
  return map?.data?.[key] ?? null;
}

async function secretValue(kube: Kube, namespace: string, name: string, key: string): Promise<string | null> {
  const secret = await kube.find('Secret', { namespace, name });
  const value = secret?.data?.[key];
  return value === undefined ? null : Buffer.from(value, 'base64').toString('utf8');
}
