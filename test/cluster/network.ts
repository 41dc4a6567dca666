import { existsSync } from 'node:fs';
import { z } from 'zod';
import { run } from './command.ts';
import { clusterName } from './layout.ts';

/** The addresses of the cluster, all in one private range that the machine uses for nothing else. */
export interface Network {
  range: string;
  /** The machine's end of the link: pods reach what listens here. */
  host: string;
  /** The node: API server at 6443, kubelet at 10250, DNS at 53. */
  node: string;
  pods: string;
  services: string;
  /** The API server's own Service. */
  apiService: string;
}

/** The machine's end of the link; the only name that the cluster takes in the machine's own network. */
const hostLink = clusterName;
const hostLinkFile = `/sys/class/net/${hostLink}`;

const candidates = ['10.213', '10.187', '10.99', '172.27', '172.30', '192.168'];

function networkIn(prefix: string): Network {
  return {
    range: `${prefix}.0.0/16`,
    host: `${prefix}.0.1`,
    node: `${prefix}.0.2`,
    pods: `${prefix}.64.0/18`,
    services: `${prefix}.128.0/20`,
    apiService: `${prefix}.128.1`,
  };
}

function bounds(cidr: string): [number, number] {
  const [address = '', bits = '32'] = cidr.split('/');
  const first = address.split('.').reduce((sum, part) => sum * 256 + Number(part), 0);
  const size = 2 ** (32 - Number(bits));
  const start = Math.floor(first / size) * size;
  return [start, start + size - 1];
}

/** The first range that overlaps none of `used` (CIDRs and addresses); undefined where all are taken. */
export function chooseNetwork(used: string[]): Network | undefined {
  const taken = used.map(bounds);
  return candidates.map(networkIn).find(({ range }) => {
    const [start, end] = bounds(range);
    return taken.every(([from, to]) => to < start || from > end);
  });
}

const Routes = z.array(z.object({ dst: z.string() }));
const Links = z.array(z.object({ addr_info: z.array(z.object({ local: z.string(), prefixlen: z.number() })) }));

/** IPv4 ranges that the machine has addresses in or routes to; the default route is not one. */
export async function usedRanges(): Promise<string[]> {
  const routes = Routes.parse(JSON.parse(await run('ip', ['-j', '-4', 'route', 'show', 'table', 'all'])));
  const links = Links.parse(JSON.parse(await run('ip', ['-j', '-4', 'address', 'show'])));
  return [
    ...routes.map(({ dst }) => dst).filter((dst) => dst !== 'default'),
    ...links.flatMap((link) => link.addr_info.map(({ local, prefixlen }) => `${local}/${prefixlen}`)),
  ];
}

export const foreignLink =
  `There is a network link ${hostLink}, but no record says that a test cluster made it. ` +
  `When nothing uses it: ip link delete ${hostLink}`;

/** Whether there is a link with the cluster's name. */
export function linkExists(): boolean {
  return existsSync(hostLinkFile);
}

/**
 * Makes what is missing: link, addresses, routes. Nothing of the machine's own network changes, and nothing in the
 * namespace reaches past this machine: it has no route to anywhere else.
 * @param pid a process in the cluster's network namespace
 */
export async function convergeNetwork(network: Network, pid: number): Promise<void> {
  const inside = (command: string, ...args: string[]) =>
    run('nsenter', [`--net=/proc/${pid}/ns/net`, '--', command, ...args]);
  const links = await inside('ip', '-j', 'link', 'show');
  if (!linkExists() || !links.includes('"eth0"')) {
    await removeLink();
    await run('ip', ['link', 'add', hostLink, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', String(pid)]);
  }
  await run('ip', ['address', 'replace', `${network.host}/24`, 'dev', hostLink]);
  await run('ip', ['link', 'set', hostLink, 'up']);
  await inside('ip', 'link', 'set', 'lo', 'up');
  await inside('ip', 'address', 'replace', `${network.node}/24`, 'dev', 'eth0');
  await inside('ip', 'link', 'set', 'eth0', 'up');
  await run('ip', ['route', 'replace', network.range, 'via', network.node, 'dev', hostLink]);
  await inside('sh', '-c', 'echo 1 >/proc/sys/net/ipv4/ip_forward');
}

/** Removes the link, and the machine's route with it. The namespace ends with its last process, and may have taken it along. */
export async function removeLink(): Promise<void> {
  if (linkExists()) {
    await run('ip', ['link', 'delete', hostLink]).catch((error: unknown) => {
      if (linkExists()) throw error;
    });
  }
}
