import { describe } from 'vitest';
import { startServers } from './postgres-parts.ts';
import { streamTests } from './stream-tests.ts';

describe('in the sandbox', () => streamTests(() => startServers(16)));
