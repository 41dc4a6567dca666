import { specSchema } from '../domain/spec.ts';
import { pathText, specProblems } from '../domain/spec-problems.ts';
import { fail } from './errors.ts';
import type { PreflightActivities } from './types.ts';

/** Validates what the starter sent: the pgleap command has done so already, plain `temporal` has not. */
export const specActivities: Pick<PreflightActivities, 'resolveSpec'> = {
  async resolveSpec(input) {
    const parsed = specSchema.safeParse(input);
    if (parsed.success) return parsed.data;
    const problems = specProblems(parsed.error, input).map(({ path, says }) => `${pathText(path)}: ${says}`);
    throw fail('SpecInvalid', `The spec is not valid. ${problems.join('; ')}.`, { details: [problems] });
  },
};
