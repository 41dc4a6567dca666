import { proxyActivities } from '@temporalio/workflow';
import type { ArtifactActivities } from '../src/activities/types.ts';

export type CopyArgument = { queue: string } & (
  | { activity: 'copyOut'; arg: Parameters<ArtifactActivities['copyOut']>[0] }
  | { activity: 'copyIn'; arg: Parameters<ArtifactActivities['copyIn']>[0] }
);

/** One copy, by the worker that serves the artifact folder's queue, with the time limits that an upgrade gives it. */
export async function benchCopy({ queue, ...call }: CopyArgument): Promise<void> {
  const { copyOut, copyIn } = proxyActivities<ArtifactActivities>({
    taskQueue: queue,
    startToCloseTimeout: '1h',
    heartbeatTimeout: '30s',
    retry: { maximumAttempts: 1 },
  });
  if (call.activity === 'copyOut') await copyOut(call.arg);
  else await copyIn(call.arg);
}
