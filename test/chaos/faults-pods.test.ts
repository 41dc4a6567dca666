/** Pods that come and go, commands in them, and copies: every call by every fault. */
import { matrix, takingTurns } from './cells.ts';
import { podScenes, stage } from './pod-scenes.ts';

matrix('faults in pods', takingTurns(podScenes), stage);
