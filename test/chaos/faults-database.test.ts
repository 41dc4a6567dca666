/** The database stopped, started, and given another volume: every change by every fault. */
import { matrix } from './cells.ts';
import { onCluster } from './cluster.ts';
import { stage } from './database-scenes.ts';
import { atCluster } from './scenes.ts';

onCluster();
matrix('faults of the database', atCluster.database, stage);
