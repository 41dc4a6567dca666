/** Block storage, routes, pages and the chat room: every call by every fault. */
import { matrix } from './cells.ts';
import { atTheClouds } from './cloud-scenes.ts';
import { atClouds } from './scenes.ts';

atTheClouds();
for (const { title, scenes, stage } of atClouds) matrix(title, scenes, stage);
