import { existsSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { defineSearchAttributeKey } from '@temporalio/common';
import { TestWorkflowEnvironment } from '@temporalio/testing';

/** Where a `temporal` binary is expected: a named one, what `go install` made, or the one on PATH. */
function temporalPath(): string | undefined {
  const candidates = [process.env['TEMPORAL_CLI_PATH'], join(homedir(), 'go/bin/temporal')];
  for (const folder of (process.env['PATH'] ?? '').split(':')) candidates.push(join(folder, 'temporal'));
  return candidates.find((path) => path !== undefined && existsSync(path));
}

/** A real Temporal server for one test file, with pgleap's optional search attributes. */
export function startTemporal(): Promise<TestWorkflowEnvironment> {
  const path = temporalPath();
  const log = { format: 'pretty', level: 'error' } as const;
  // Less work for the machine: the server hands an activity out with the answer to the workflow task that asks for it.
  const extraArgs = ['--dynamic-config-value', 'system.enableActivityEagerExecution=true'];
  const searchAttributes = ['PgleapPhase', 'PgleapWaiting'].map((name) => defineSearchAttributeKey(name, 'KEYWORD'));
  if (path === undefined) return TestWorkflowEnvironment.createLocal({ server: { log, searchAttributes, extraArgs } });
  return TestWorkflowEnvironment.createLocal({
    server: { log, searchAttributes, extraArgs, executable: { type: 'existing-path', path } },
  });
}
