import { KubeConfig } from '@kubernetes/client-node';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';

/** What a connection meets, counted from when it was opened or from when the fault was set, whichever is later. */
export type Fault =
  | {
      /** Which direction is counted: `down` is what the server sends. */
      way: 'up' | 'down';
      after: number;
      /** `stall`: nothing passes any more, in either direction, and neither end is told. */
      how: 'end' | 'reset' | 'stall';
      /** How many connections meet it; default all. */
      times?: number;
    }
  /** Of each connection, and the only one that does not end it. */
  | { how: 'drip'; bytesPerSecond: number };

export interface TcpProxy {
  /** The cluster's, by way of the proxy. */
  kubeConfig: KubeConfig;
  /** Bytes that passed, both ways. */
  moved: { up: number; down: number };
  /** The most that one connection moved since the fault was set. */
  longest: { up: number; down: number };
  /** Connections that met a fault. */
  met: number;
  fault: Fault | undefined;
  /** The API server goes: connections end, new ones are refused. */
  down(): Promise<void>;
  up(): Promise<void>;
  /** Ends the connections of now, as a network that changes its way does. */
  interrupt(): void;
  close(): Promise<void>;
}

/** A TCP proxy before the API server of any cluster. What passes is TLS, so it cuts wherever the bytes fall. */
export async function startTcpProxy(base: KubeConfig): Promise<TcpProxy> {
  const target = new URL(base.getCurrentCluster()?.server ?? '');
  const host = target.hostname.replace(/^\[|\]$/g, '');
  const port = Number(target.port || 443);
  const pairs = new Set<{ client: Socket; behind: Socket }>();
  let server: Server | undefined;
  let ownPort = 0;

  const proxy: TcpProxy = {
    kubeConfig: new KubeConfig(),
    moved: { up: 0, down: 0 },
    longest: { up: 0, down: 0 },
    met: 0,
    fault: undefined,
    async down() {
      const closing = server;
      server = undefined;
      proxy.interrupt();
      await new Promise((resolve) => (closing === undefined ? resolve(undefined) : closing.close(resolve)));
    },
    up: () => listen(ownPort),
    interrupt() {
      for (const { client, behind } of pairs) {
        client.resetAndDestroy();
        behind.destroy();
      }
    },
    close: () => proxy.down(),
  };

  function serve(client: Socket): void {
    const behind = connect({ host, port });
    const pair = { client, behind };
    pairs.add(pair);
    const counted = { up: 0, down: 0, fault: proxy.fault };
    let struck = false;
    const leave = () => {
      pairs.delete(pair);
      // A stalled connection hides its end from the other side.
      if (struck) return;
      client.destroy();
      behind.destroy();
    };
    for (const socket of [client, behind]) socket.on('error', leave).on('close', leave).setNoDelay(true);
    client.on('data', (data: Buffer) => pass('up', client, behind, data));
    behind.on('data', (data: Buffer) => pass('down', behind, client, data));

    function pass(way: 'up' | 'down', from: Socket, to: Socket, data: Buffer): void {
      if (struck) return;
      const { fault } = proxy;
      if (fault !== counted.fault) Object.assign(counted, { up: 0, down: 0, fault });
      const cut =
        fault === undefined || fault.how === 'drip' || fault.way !== way || (fault.times ?? 1) <= 0
          ? undefined
          : fault.after - counted[way];
      if (cut !== undefined && cut < data.length && fault !== undefined && fault.how !== 'drip') {
        struck = true;
        proxy.met += 1;
        if (fault.times !== undefined) fault.times -= 1;
        proxy.moved[way] += Math.max(0, cut);
        const { how } = fault;
        to.write(data.subarray(0, Math.max(0, cut)), () => {
          if (how === 'end') to.end();
          if (how === 'reset') setTimeout(() => to.resetAndDestroy(), 20);
          if (how !== 'stall') {
            from.destroy();
            setTimeout(() => to.destroy(), 1000);
          }
        });
        if (how === 'stall') for (const socket of [client, behind]) socket.pause();
        return;
      }
      counted[way] += data.length;
      proxy.moved[way] += data.length;
      proxy.longest[way] = Math.max(proxy.longest[way], counted[way]);
      const room = to.write(data);
      if (fault?.how === 'drip') {
        from.pause();
        setTimeout(() => from.resume(), (data.length / fault.bytesPerSecond) * 1000);
      } else if (!room) {
        from.pause();
        to.once('drain', () => from.resume());
      }
    }
  }

  async function listen(on: number): Promise<void> {
    const started = createServer(serve);
    await new Promise<void>((resolve, reject) => {
      started.once('error', reject);
      started.listen(on, '127.0.0.1', resolve);
    });
    server = started;
    ({ port: ownPort } = started.address() as AddressInfo);
  }

  await listen(0);
  proxy.kubeConfig.loadFromString(base.exportConfig());
  proxy.kubeConfig.clusters = proxy.kubeConfig.clusters.map((cluster) => ({
    ...cluster,
    server: `${target.protocol}//127.0.0.1:${ownPort}`,
    ...(host === '127.0.0.1' ? {} : { tlsServerName: host }),
  }));
  return proxy;
}
