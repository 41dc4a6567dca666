import { describe, expect, it } from 'vitest';
import {
  cameOutBefore,
  majorOf,
  majorOfImage,
  tripsOverColumnMarks,
  versionText,
  whyNotUpgrade,
} from '../../src/domain/versions.ts';

describe('versions', () => {
  it('reads server_version_num', () => {
    expect(majorOf(160014)).toBe(16);
    expect(versionText(160014)).toBe('16.14');
    expect(versionText(180000)).toBe('18.0');
  });

  it.each([
    ['postgres:18', 18],
    ['postgres:18.4', 18],
    ['postgres:18-bookworm', 18],
    ['postgres:18.4-alpine3.22', 18],
    ['registry.example:5000/team/postgres:17.10', 17],
    ['ghcr.io/x/postgres:pg16', 16],
    ['postgres:v15', 15],
    [`postgres:18.4@sha256:${'0'.repeat(64)}`, 18],
    ['postgres', null],
    ['registry.example:5000/postgres', null],
    ['postgres:latest', null],
    [`postgres@sha256:${'0'.repeat(64)}`, null],
    ['postgres:2026-11-22', null],
  ])('reads the major of %s as %s', (image, major) => {
    expect(majorOfImage(image)).toBe(major);
  });

  it('goes only upwards, and only over majors', () => {
    expect(whyNotUpgrade(16, 18)).toBeNull();
    expect(whyNotUpgrade(12, 13)).toBeNull();
    expect(whyNotUpgrade(18, 18)).toMatch(/already/);
    expect(whyNotUpgrade(18, 16)).toMatch(/only goes upwards/);
    expect(whyNotUpgrade(11, 18)).toMatch(/12 and later/);
  });

  it('knows which of two minors came out first, across majors', () => {
    expect(cameOutBefore(180004, 150018)).toBe(false);
    expect(cameOutBefore(180004, 160014)).toBe(false);
    expect(cameOutBefore(180004, 150020)).toBe(true);
    expect(cameOutBefore(170012, 150020)).toBe(false);
    expect(cameOutBefore(180001, 140020)).toBe(false);
    expect(cameOutBefore(180001, 140021)).toBe(true);
    expect(cameOutBefore(190000, 180004)).toBeNull();
    expect(cameOutBefore(180006, 170011)).toBe(false);
    expect(cameOutBefore(170011, 180006)).toBe(false);
    expect(cameOutBefore(180006, 170012)).toBe(true);
    expect(cameOutBefore(180007, 170012)).toBe(false);
  });

  it('knows which releases trip over the marks of columns', () => {
    expect([180006, 170011, 160014].map(tripsOverColumnMarks)).toEqual([true, true, true]);
    expect([180007, 170012, 200000].map(tripsOverColumnMarks)).toEqual([false, false, false]);
  });
});
