import type { SourceFacts } from '../../src/domain/facts.ts';

/** A source as the example's, where nobody asked it. */
export const sourceFacts: SourceFacts = {
  versionNum: 160_000,
  major: 16,
  systemIdentifier: '1',
  dataDirectory: '/var/lib/postgresql/data',
  hbaFile: '/var/lib/postgresql/data/pg_hba.conf',
  databases: 5,
  tables: 10,
  bytes: 1e7,
  roles: 5,
  extensions: [],
  preload: ['pg_stat_statements'],
  encoding: 'UTF8',
  locale: 'C',
  probeMs: [],
};
