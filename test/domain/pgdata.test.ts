import { describe, expect, test } from 'vitest';
import { targetLayout } from '../../src/domain/pgdata.ts';

const old = '/var/lib/postgresql/data';

function layout(change: Partial<Parameters<typeof targetLayout>[0]>) {
  return targetLayout({
    major: 18,
    explicit: null,
    mountPath: old,
    subPath: 'pgdata',
    sourceMajor: 16,
    sourceDataDirectory: old,
    ...change,
  });
}

describe('targetLayout', () => {
  test('sets PGDATA where the image of 18 would refuse the old mount', () => {
    expect(layout({})).toEqual({ set: old, path: old });
  });

  test('leaves the new layout to the image of 18', () => {
    const path = '/var/lib/postgresql/18/docker';
    expect(layout({ mountPath: '/var/lib/postgresql', subPath: null })).toEqual({ set: null, path });
  });

  test('leaves majors before 18 to their image', () => {
    expect(layout({ major: 17 })).toEqual({ set: null, path: old });
  });

  test('leaves what the template sets', () => {
    const path = '/var/lib/postgresql/data/pg';
    expect(layout({ explicit: path, subPath: null })).toEqual({ set: null, path });
  });

  test('keeps the place of an image that has its own', () => {
    const path = '/data/pg';
    expect(layout({ major: 17, mountPath: '/data', sourceDataDirectory: path })).toEqual({ set: path, path });
  });

  test('refuses data beside the claim', () => {
    expect(layout({ explicit: '/var/lib/postgresql/database' })).toEqual({
      problem: expect.stringContaining('outside'),
    });
    expect(layout({ mountPath: '/elsewhere' })).toEqual({ problem: expect.stringContaining('outside') });
  });

  test('refuses the root of a volume', () => {
    expect(layout({ subPath: null })).toEqual({ problem: expect.stringContaining('lost+found') });
  });
});
