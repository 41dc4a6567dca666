/** The candidate, and what is asked of it and of the source: every change and command by the faults that tell. */
import { candidateScenes, stage } from './candidate-scenes.ts';
import { matrix } from './cells.ts';

matrix('faults of the candidate', candidateScenes, stage);
