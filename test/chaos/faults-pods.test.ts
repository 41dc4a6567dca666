/** Pods that come and go, commands in them, and copies: every call by every fault. */
import { matrix } from './cells.ts';
import { onCluster } from './cluster.ts';
import { prepare, stage } from './pod-scenes.ts';
import { atCluster } from './scenes.ts';

onCluster(prepare);
matrix('faults in pods', atCluster.pods, stage);
