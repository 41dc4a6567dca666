import { describe, expect, test } from 'vitest';
import { problems, type Facts } from './checks.ts';
import { chooseNetwork } from './network.ts';

const gibibyte = 2 ** 30;

const fine: Facts = {
  platform: 'linux',
  uid: 0,
  apt: true,
  cgroups: { version: 1, missing: [] },
  overlay: true,
  packages: [],
  built: true,
  go: undefined,
  free: { stateBytes: 50 * gibibyte, cacheBytes: 50 * gibibyte },
  recorded: false,
  link: false,
  network: chooseNetwork([]),
};

test('a machine that has everything has no problem', () => {
  expect(problems(fine)).toEqual([]);
});

describe('each thing that is in the way is named with what to do', () => {
  const cases: [string, Partial<Facts>, RegExp][] = [
    ['another system', { platform: 'darwin' }, /needs Linux.*PGLEAP_TEST_KUBECONFIG/],
    ['not root', { uid: 1000 }, /must run as root/],
    ['no apt', { apt: false }, /apt-get is missing.*Debian 12/],
    ['no cgroups', { cgroups: undefined }, /No cgroups.*--cgroupns=host/],
    ['a controller is missing', { cgroups: { version: 1, missing: ['pids'] } }, /controllers are missing: pids/],
    ['no overlay', { overlay: false }, /modprobe overlay/],
    ['no Go', { built: false, go: undefined }, /install Go 1\.26/],
    ['an old Go', { built: false, go: '1.25.9' }, /Go 1\.25\.9 is too old.*install Go 1\.26/],
    [
      'no room for the cluster',
      { free: { ...fine.free, stateBytes: gibibyte } },
      /\/var\/lib\/pgleap-cluster: 1\.0 GiB free/,
    ],
    [
      'no room for the cache',
      { built: false, go: '1.26.1', free: { ...fine.free, cacheBytes: gibibyte } },
      /1\.0 GiB free/,
    ],
    ['the name of its link is taken', { link: true }, /no record.*ip link delete/],
    ['its addresses are taken', { network: undefined }, /private address range.*10\.213\.0\.0\/16/],
  ];
  test.each(cases)('%s', (_, change, expected) => {
    const found = problems({ ...fine, ...change });
    expect(found).toHaveLength(1);
    expect(found[0]).toMatch(expected);
  });

  test('all at once', () => {
    expect(problems({ ...fine, uid: 1000, overlay: false, cgroups: undefined })).toHaveLength(3);
  });
});

test('what is recorded may be there, and a full disk does not keep a built cluster from starting again', () => {
  const half = {
    ...fine,
    recorded: true,
    link: true,
    free: { stateBytes: 0, cacheBytes: 0 },
  };
  expect(problems(half)).toEqual([]);
});

describe('the addresses of the cluster', () => {
  test('avoid what the machine uses', () => {
    expect(chooseNetwork(['10.0.0.0/8', '192.0.2.0/24'])?.range).toBe('172.27.0.0/16');
    expect(chooseNetwork(['10.213.7.9'])?.range).toBe('10.187.0.0/16');
    expect(chooseNetwork(['0.0.0.0/0'])).toBeUndefined();
  });
});
