import { describe, expect, test } from 'vitest';
import { canonicalHash } from '../../src/domain/hash.ts';
import { cloneLabel, isVolumeLabel } from '../../src/domain/labels.ts';
import { changedSince, extraCost, labelCheck, planHash, versionCheck } from '../../src/domain/plan.ts';
import type { ServiceFact } from '../../src/domain/facts.ts';
import { facts, spec } from './status.ts';
import * as fc from 'fast-check';

describe('canonicalHash', () => {
  test('is the SHA-256 of RFC 8785 text', () => {
    // printf '{"a":[1,"é"],"b":null}' | sha256sum
    expect(canonicalHash({ b: null, a: [1, 'é'] })).toBe(
      '1e02bc81a26af2f027329541e97eef36f3290bedc6dfe043dbe66b057ecb13ba',
    );
  });

  test('does not depend on the order of keys', () => {
    fc.assert(
      fc.property(fc.dictionary(fc.string(), fc.jsonValue()), (value) => {
        const turned = Object.fromEntries(Object.entries(value).reverse());
        return canonicalHash(turned) === canonicalHash(value);
      }),
    );
  });
});

describe('planHash', () => {
  test('stays while services write and pods restart', () => {
    const later = structuredClone(facts);
    later.source.bytes += 1;
    later.source.probeMs = [99];
    later.cluster.database.podIp = '10.0.0.2';
    later.cluster.database.pod.uid = 'another';
    later.volume.monthlyPrice = 2;
    expect(planHash(spec, later)).toBe(planHash(spec, facts));
  });

  test.each([
    ['another cluster', (changed: typeof facts) => (changed.cluster.clusterUid = 'x')],
    ['another claim', (changed: typeof facts) => (changed.cluster.database.claim.uid = 'x')],
    ['another volume', (changed: typeof facts) => (changed.volume.id = 2)],
    ['another version', (changed: typeof facts) => (changed.source.versionNum = 160015)],
  ])('changes with %s', (_what, change) => {
    const changed = structuredClone(facts);
    change(changed);
    expect(planHash(spec, changed)).not.toBe(planHash(spec, facts));
  });

  test('changes with what was asked, also with a manifest', () => {
    expect(planHash({ ...spec, target: { image: 'postgres:17' } }, facts)).not.toBe(planHash(spec, facts));
    const manifests = [{ name: 'a.yaml', text: 'x' }];
    expect(planHash({ ...spec, database: { ...spec.database, manifests } }, facts)).not.toBe(planHash(spec, facts));
  });
});

test('versions go upwards only, over a major', () => {
  expect(versionCheck(16, 18).status).toBe('PASSED');
  expect(versionCheck(16, 16)).toMatchObject({ status: 'FAILED', remedy: expect.any(String) });
  expect(versionCheck(17, 16).status).toBe('FAILED');
  expect(versionCheck(16, null)).toMatchObject({ status: 'FAILED', remedy: expect.stringContaining('target.major') });
  expect(versionCheck(11, 18).status).toBe('FAILED');
});

test('the extra cost is clone, new volume and scratch for the retention time, or unknown', () => {
  const halfMonth = 15 * 86_400_000;
  const priced = { ...facts, volume: { ...facts.volume, monthlyPrice: 2 } };
  expect(extraCost(priced, halfMonth)).toBe(3);
  // Three times 20 GB of data need a scratch volume of 60 GB.
  expect(extraCost({ ...priced, source: { ...facts.source, bytes: 20 * 2 ** 30 } }, halfMonth)).toBe(8);
  expect(extraCost({ ...facts, volume: { ...facts.volume, monthlyPrice: null } }, 1)).toBeNull();
  expect(extraCost({ ...facts, volume: null }, 1)).toBeNull();
});

describe('changedSince', () => {
  const { cluster } = facts;

  test('a restarted pod, a retained volume and an HPA are no change', () => {
    const scaled: ServiceFact = {
      kind: 'Deployment',
      namespace: 'n',
      name: 's',
      uid: 'u',
      replicas: 2,
      suspended: null,
      readOnly: false,
      login: null,
      hpa: 'hpa/s',
    };
    const planned = { ...cluster, services: [scaled] };
    const found = structuredClone(planned);
    found.database.pod.uid = 'x';
    found.database.podIp = 'x';
    found.database.volume.reclaimPolicy = 'Retain';
    found.services[0]!.replicas = 7;
    expect(changedSince(planned, found)).toEqual({ database: false, services: false });
    found.services[0]!.hpa = null;
    expect(changedSince(planned, found)).toEqual({ database: false, services: true });
  });

  test('another cluster, claim or image is another database', () => {
    expect(changedSince(cluster, { ...cluster, clusterUid: 'x' }).database).toBe(true);
    const claim = { ...cluster.database.claim, uid: 'x' };
    expect(changedSince(cluster, { ...cluster, database: { ...cluster.database, claim } }).database).toBe(true);
    expect(changedSince(cluster, { ...cluster, database: { ...cluster.database, image: 'x' } }).database).toBe(true);
  });
});

describe('labels', () => {
  test('every label made here suits Linode and names the upgrade', () => {
    fc.assert(
      fc.property(fc.stringMatching(/^[a-z0-9]([-a-z0-9.]{0,60}[a-z0-9])?$/), (claim) => {
        const label = cloneLabel('u1234abcd', claim, undefined);
        return isVolumeLabel(label) && label.startsWith('pgleap-u1234abcd');
      }),
    );
  });

  test.each(['', 'a', '1abc', 'a--b', 'a__b', 'a b', 'ä1', 'x'.repeat(33)])('%j is none', (label) => {
    expect(isVolumeLabel(label)).toBe(false);
    expect(labelCheck({ ...spec, clone: { label } })?.status).toBe('FAILED');
  });

  test('the operator’s own is kept', () => {
    expect(cloneLabel('u1234abcd', 'claim', 'before-18')).toBe('before-18');
    expect(labelCheck({ ...spec, clone: { label: 'before-18' } })).toBeNull();
    expect(labelCheck(spec)).toBeNull();
  });
});
