import { CoreV1Api, KubeConfig } from '@kubernetes/client-node';

/** A kubeconfig of the ServiceAccount, with a token that `admin` asks for. */
export async function asServiceAccount(admin: KubeConfig, namespace: string, name: string): Promise<KubeConfig> {
  const { status } = await admin
    .makeApiClient(CoreV1Api)
    .createNamespacedServiceAccountToken({ namespace, name, body: { spec: { audiences: [] } } });
  const config = new KubeConfig();
  config.loadFromOptions({
    clusters: admin.clusters,
    users: [{ name, token: status?.token }],
    contexts: [{ name, cluster: admin.getCurrentCluster()?.name, user: name }],
    currentContext: name,
  });
  return config;
}
