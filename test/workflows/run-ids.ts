/**
 * For replays, in the workflow's sandbox. A replay takes the id in a history's first event for the run's own, and a run that was
 * reset has there the id of the run that it goes on from. So keptHistories puts its own there, and here it has the other one back.
 */
import { workflowInfo, type WorkflowInterceptors } from '@temporalio/workflow';

export const interceptors = (): WorkflowInterceptors => ({
  inbound: [
    {
      execute(input, next) {
        const info = workflowInfo();
        Object.assign(info, { originalExecutionRunId: info.firstExecutionRunId });
        return next(input);
      },
    },
  ],
});
