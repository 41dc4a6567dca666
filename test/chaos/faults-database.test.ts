/** The database stopped, started, and given another volume: every change by every fault. */
import { matrix, takingTurns } from './cells.ts';
import { databaseScenes, stage } from './database-scenes.ts';

matrix('faults of the database', takingTurns(databaseScenes), stage);
