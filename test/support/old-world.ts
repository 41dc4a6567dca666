import type { DatabaseFact } from '../../src/domain/facts.ts';
import type { OldWorld } from '../../src/domain/old-world.ts';

/** The old world of a database that an upgrade has hardly touched, but for what is said. */
export function oldWorldOf(database: DatabaseFact, said: Partial<OldWorld> = {}): OldWorld {
  return {
    database,
    volume: null,
    cloneLabel: 'none',
    systemIdentifier: '1',
    services: [],
    routes: [],
    maintenance: null,
    artifacts: '/artifacts',
    maxDowntimeMs: null,
    downSince: null,
    hba: null,
    candidate: null,
    fingerprint: null,
    quietAt: null,
    opened: null,
    ...said,
  };
}
