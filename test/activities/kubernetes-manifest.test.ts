import { readFile } from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import { editManifest } from '../../src/activities/kubernetes/manifest.ts';
import type { DatabaseFact, SourceFacts } from '../../src/domain/facts.ts';
import { specSchema } from '../../src/domain/spec.ts';

const manifest = `# The claim comes first.
apiVersion: v1
kind: PersistentVolumeClaim
metadata: { name: postgres-storage }   # as we like it
---
# Ours.
apiVersion: apps/v1
kind: Deployment
metadata:
  name: postgres
  namespace: databases
spec:
  replicas: 1   # never more
  template:
    spec:
      containers:
      - name: postgres
        # Bumped by hand, once a year.
        image: "postgres:16"   # keep in step with the backup's client
        args: ["-c", "max_connections=100"]
        volumeMounts:
        - name: storage
          mountPath: /var/lib/postgresql/data
          subPath: pgdata

        # Nobody dares to touch this.
        env:
        - name: TZ   # why?
          value: UTC
        - name: OLD
          value: x
      - name: exporter
        image: exporter:1
      volumes:
      - name: storage
        persistentVolumeClaim: {claimName: postgres-storage}
---
apiVersion: v1
kind: Service
metadata:
    name:   postgres
`;

const database: DatabaseFact = {
  workload: { kind: 'Deployment', namespace: 'databases', name: 'postgres', uid: 'w' },
  pod: { namespace: 'databases', name: 'postgres-1', uid: 'p', container: 'postgres' },
  podIp: '10.0.0.1',
  port: 5432,
  superuser: 'shop',
  image: 'postgres:16',
  templateHash: 't',
  mountPath: '/var/lib/postgresql/data',
  subPath: 'pgdata',
  volumeName: 'storage',
  claim: {
    name: 'postgres-storage',
    uid: 'c',
    storageClass: 's',
    accessModes: ['ReadWriteOnce'],
    volumeMode: 'Filesystem',
    requested: '10Gi',
    capacityBytes: 10 * 2 ** 30,
    labels: {},
    annotations: {},
  },
  volume: {
    pv: 'pv',
    pvUid: 'v',
    reclaimPolicy: 'Delete',
    driver: 'linodebs.csi.linode.com',
    handle: '1-pvc',
    spec: {},
  },
  pgdataEnv: null,
  whenScaled: 'Retain',
  terminationGraceSeconds: 60,
};

const source = { major: 16, dataDirectory: '/var/lib/postgresql/data' } as SourceFacts;

function edit(target: object, text = manifest) {
  const spec = specSchema.parse({
    database: { namespace: 'databases', manifests: [{ name: 'all.yaml', text }] },
    target,
  });
  return editManifest(spec, database, source);
}

describe('editManifest', () => {
  test('changes the image and adds PGDATA, and not a character more', () => {
    const [file] = edit({ image: 'postgres:18' });
    const expected = manifest
      .replace('"postgres:16"', '"postgres:18"')
      .replace(/( *)- name: OLD\n +value: x\n/, (found, indent: string) => {
        return `${found}${indent}- name: PGDATA\n${indent}  value: /var/lib/postgresql/data\n`;
      });
    // Spaces before a comment and some blank lines are what the writer does not keep.
    const bare = (text = '') => text.replaceAll(/ +#/g, ' #').replaceAll(/\n{2,}/g, '\n');
    expect(bare(file?.text)).toBe(bare(expected));
    expect(file?.text).toContain('metadata: { name: postgres-storage }   # as we like it');
    expect(file?.text).toContain('    name:   postgres\n');
  });

  test('does not repeat what stands before the first document', async () => {
    const text = await readFile(new URL('../../examples/sandbox/postgres.yaml', import.meta.url), 'utf8');
    const [file] = edit({ image: 'postgres:18' }, text);
    const added = '          env:\n            - name: PGDATA\n              value: /var/lib/postgresql/data\n';
    expect(file?.text.replace(added, '')).toBe(text.replace('postgres:16', 'postgres:18'));
  });

  test('merges the patch as the API server would', () => {
    const [file] = edit({
      image: 'postgres:18',
      patch: {
        spec: {
          template: {
            spec: {
              containers: [
                {
                  name: 'postgres',
                  args: ['-c', 'max_connections=200'],
                  env: [
                    { name: 'OLD', $patch: 'delete' },
                    { name: 'TZ', value: 'Europe/Berlin' },
                  ],
                  volumeMounts: [
                    { mountPath: '/var/lib/postgresql/data', $patch: 'delete' },
                    { name: 'storage', mountPath: '/var/lib/postgresql', subPath: 'pg18' },
                  ],
                },
                { name: 'exporter', image: 'exporter:2' },
              ],
            },
          },
        },
      },
    });
    expect(file?.text).toContain('# why?');
    expect(file?.text).toContain('value: Europe/Berlin');
    expect(file?.text).not.toContain('OLD');
    // With the new layout the image's own PGDATA is right.
    expect(file?.text).not.toContain('PGDATA');
    expect(file?.text).toMatch(/mountPath: \/var\/lib\/postgresql\n +subPath: pg18/);
    expect(file?.text).toContain('exporter:2');
    expect(file?.text).toContain('max_connections=200');
  });

  test('leaves out manifests that need no change', () => {
    expect(edit({ image: 'postgres:18' }, 'kind: Deployment\nmetadata: {name: other}\n')).toEqual([]);
  });
});
