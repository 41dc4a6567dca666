/** The candidate, and what is asked of it and of the source: every change and command by the faults that tell. */
import { matrix } from './cells.ts';
import { onCluster } from './cluster.ts';
import { stage } from './candidate-scenes.ts';
import { atCluster } from './scenes.ts';

onCluster();
matrix('faults of the candidate', atCluster.candidate, stage);
