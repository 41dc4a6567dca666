import { defineSearchAttributeKey } from '@temporalio/common';
import { TestWorkflowEnvironment } from '@temporalio/testing';
import { findTemporal } from '../../src/client/temporal-server.ts';

/** A real Temporal server for one test file, with pgleap's optional search attributes. */
export async function startTemporal(): Promise<TestWorkflowEnvironment> {
  const path = await findTemporal();
  if (path === undefined) throw new Error('No `temporal` binary was found. Run `node scripts/setup.mjs`.');
  // Less work for the machine: the server hands an activity out with the answer to the workflow task that asks for it.
  const extraArgs = ['--dynamic-config-value', 'system.enableActivityEagerExecution=true'];
  const searchAttributes = ['PgleapPhase', 'PgleapWaiting'].map((name) => defineSearchAttributeKey(name, 'KEYWORD'));
  return TestWorkflowEnvironment.createLocal({
    server: {
      log: { format: 'pretty', level: 'error' },
      searchAttributes,
      extraArgs,
      executable: { type: 'existing-path', path },
    },
  });
}
