/** Objects of the Kubernetes API: every call by every fault. */
import { matrix } from './cells.ts';
import { onCluster } from './cluster.ts';
import { stage } from './object-scenes.ts';
import { atCluster } from './scenes.ts';

onCluster();
matrix('faults at Kubernetes', atCluster.kubernetes, stage);
