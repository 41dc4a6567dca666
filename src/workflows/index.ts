/** What the worker bundles. The names are the workflow types that clients start. */
export { planPostgres } from './plan.ts';
export { upgradePostgres } from './upgrade.ts';
