/** Linode: 2 to 32 of letters, digits, `-` and `_`; a letter first; no `--` and no `__`. */
const volumeLabel = /^[a-zA-Z](?:(?!--|__)[a-zA-Z0-9_-]){1,31}$/;

export function isVolumeLabel(label: string): boolean {
  return volumeLabel.test(label);
}

/**
 * The clone's label: the spec's own, or `pgleap-<upgrade id>-<claim>` cut to what Linode takes. The upgrade id stays whole, so
 * that two upgrades never share a label. The caller checks a label of the spec with `isVolumeLabel`.
 */
export function cloneLabel(upgradeId: string, claim: string, wanted: string | undefined): string {
  if (wanted !== undefined) return wanted;
  return `pgleap-${upgradeId}-${claim}`
    .replaceAll(/[^a-zA-Z0-9_-]/g, '-')
    .replaceAll(/-{2,}/g, '-')
    .replaceAll(/_{2,}/g, '_')
    .slice(0, 32)
    .replace(/[-_]+$/, '');
}
