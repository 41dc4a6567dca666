/** Objects of the Kubernetes API: every call by every fault. */
import { matrix, takingTurns } from './cells.ts';
import { objectScenes, stage } from './object-scenes.ts';

matrix('faults at Kubernetes', takingTurns(objectScenes), stage);
