/** All scenes of the fault matrix. */
import { candidateScenes } from './candidate-scenes.ts';
import { chatRoom, cloudflare, linode, pages } from './cloud-scenes.ts';
import { databaseScenes } from './database-scenes.ts';
import { objectScenes } from './object-scenes.ts';
import { podScenes } from './pod-scenes.ts';
import { takingTurns } from './scene.ts';

/** Quicker ones first. */
export const atCluster = takingTurns({
  kubernetes: objectScenes,
  pods: podScenes,
  candidate: candidateScenes,
  database: databaseScenes,
});

export const atClouds = [linode, cloudflare, pages, chatRoom];
