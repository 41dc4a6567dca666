import { cloneVolume, deleteVolume, getVolume, getVolumes, getVolumeTypes, updateVolume } from '@linode/api-v4';
import type { Check } from '../domain/checks.ts';
import type { BlockVolumeFact, CloneFact, VolumeFact, World } from '../domain/facts.ts';
import { asyncLocalStorage } from '@temporalio/activity';
import { z } from 'zod';
import { announce, poll } from './context.ts';
import { fail, isFailure } from './errors.ts';
import { linode, linodeWithScopes } from './linode-client.ts';
import type { LinodeConfig } from './linode-client.ts';
import type { PreflightActivities, ProviderActivities, UndoActivities } from './types.ts';

export interface LinodeDeps extends LinodeConfig {
  /** Throws WrongWorld when the worker's cluster is not the one of the plan. */
  assertWorld: (world: World) => Promise<void>;
  /** Between two looks at a volume. Default 3 s: the API allows 1600 requests a minute, and people share a token. */
  pollMs?: number;
  /** How long one attempt waits for a volume to be detached, or to become active. Default 15 min and 12 h. */
  detachMs?: number;
  cloneMs?: number;
}

export interface LinodeActivities
  extends Pick<PreflightActivities, 'inspectVolume'>, ProviderActivities, Pick<UndoActivities, 'removeClone'> {
  /**
   * Deletes the original volume at the provider; nothing to do when it is gone. Refused unless id, label and region are
   * the recorded ones and it is attached nowhere. Part of cleanup, which owns the order with the PV.
   */
  removeVolume(arg: { world: World; volume: BlockVolumeFact }): Promise<void>;
  /** Whether the recorded volume is there still. Throws WrongWorld when its id is another volume's now. */
  hasVolume(volume: BlockVolumeFact): Promise<boolean>;
  /** This upgrade's clone of `source`, waited for until it is active; null when there is none. */
  findClone(arg: { world: World; source: BlockVolumeFact; label: string }): Promise<CloneFact | null>;
}

/** What is used of Linode's answers. */
const volumeShape = z.object({
  id: z.int(),
  label: z.string(),
  region: z.string(),
  size: z.number(),
  status: z.string(),
  linode_id: z.int().nullable(),
  tags: z.array(z.string()),
  created: z.string(),
  encryption: z.string().optional(),
});
type Volume = z.infer<typeof volumeShape>;
const volumesShape = z.object({ data: z.array(volumeShape) });
const typesShape = z.object({
  data: z.array(
    z.object({
      id: z.string(),
      price: z.object({ monthly: z.number().nullable() }),
      region_prices: z.array(z.object({ id: z.string(), monthly: z.number().nullable() })),
    }),
  ),
});

const DRIVER = 'linodebs.csi.linode.com';
/** Statuses that no wait mends. Others that are not `active`, also ones yet unknown, are waited for. */
const STUCK = new Set(['offline', 'contact_support']);

/** What pgleap does at Linode: find the volume, see it detached, clone it, remove what was cloned. */
export function linodeActivities(deps: LinodeDeps): LinodeActivities {
  const { assertWorld, pollMs = 3000, detachMs = 900_000, cloneMs = 43_200_000 } = deps;
  const read = (id: number): Promise<Volume> => linode(deps, `read volume ${id}`, volumeShape, () => getVolume(id));

  /** Null when there is none. The API filters; the exact comparison guards against a filter that it ignores. */
  async function findByLabel(label: string): Promise<Volume | null> {
    const { data } = await linode(deps, `list volumes labelled ${label}`, volumesShape, () =>
      getVolumes({}, { label }),
    );
    return data.find((volume) => volume.label === label) ?? null;
  }

  async function readIfThere(id: number): Promise<Volume | null> {
    try {
      return await read(id);
    } catch (error) {
      if (isFailure(error, 'NotFound')) return null;
      throw error;
    }
  }

  async function remove(id: number): Promise<void> {
    try {
      await linode(deps, `delete volume ${id}`, z.unknown(), () => deleteVolume(id));
    } catch (error) {
      if (!isFailure(error, 'NotFound')) throw error;
    }
    const gone = await poll(async () => ((await readIfThere(id)) === null ? true : undefined), {
      timeoutMs: 10_000,
      startMs: pollMs,
      maxMs: pollMs,
    });
    if (gone === undefined) throw fail('Conflict', `Volume ${id} still stands at Linode after it was deleted.`);
  }

  async function untilActive(id: number): Promise<Volume> {
    const began = Date.now();
    const active = await poll(
      async () => {
        const volume = await read(id);
        if (STUCK.has(volume.status)) {
          throw fail(
            'Refused',
            `Volume ${id} (${volume.label}) is ${volume.status} at Linode and will not become active by itself. ` +
              'Ask Linode’s support, or delete it there and retry.',
          );
        }
        return volume.status === 'active' ? volume : undefined;
      },
      {
        timeoutMs: cloneMs,
        startMs: pollMs,
        maxMs: pollMs,
        // The API names no bytes, so what is shown is the time that passed.
        progress: () => ({
          what: 'clone',
          done: Math.round((Date.now() - began) / 1000),
          total: null,
          unit: 'seconds',
        }),
      },
    );
    if (active) return active;
    throw fail('NotReady', `Volume ${id} is still not active at Linode.`);
  }

  /** Labels cannot be given at cloning, and a label alone proves nothing: the tag names the upgrade. */
  async function tag(volume: Volume, upgradeId: string): Promise<void> {
    const wanted = tagOf(upgradeId);
    if (volume.tags.includes(wanted)) return;
    const tags = [...volume.tags, 'pgleap', wanted];
    await linode(deps, `tag volume ${volume.id}`, volumeShape, () => updateVolume(volume.id, { tags }));
  }

  async function makeClone(world: World, volume: BlockVolumeFact, label: string): Promise<Volume> {
    const original = await read(volume.id);
    assertRecorded(original, volume);
    if (original.linode_id !== null) {
      throw fail(
        'NotStopped',
        `Volume ${volume.id} is attached to Linode ${original.linode_id}; it is cloned only at rest.`,
      );
    }
    if (original.status !== 'active') {
      throw fail('Conflict', `Volume ${volume.id} is ${original.status}; Linode clones only active volumes.`);
    }
    announce({ cloning: label });
    try {
      return await linode(deps, `clone volume ${volume.id} as ${label}`, volumeShape, () =>
        cloneVolume(volume.id, { label }),
      );
    } catch (error) {
      // A request that seemed lost may have been served after all: then the label is taken, by us.
      const found = isFailure(error, 'Refused') && error.details?.includes('label') ? await findByLabel(label) : null;
      if (!found) throw error;
      assertOurs(found, world, volume);
      return found;
    }
  }

  return {
    async inspectVolume({ volume }) {
      const id = volumeId(volume);
      if (id === null) {
        return {
          facts: null,
          checks: [
            {
              id: 'volume.driver',
              status: 'FAILED',
              message: `PersistentVolume ${volume.pv} (driver ${volume.driver}, handle ${volume.handle}) is not a Linode Block Storage volume.`,
              remedy: `pgleap clones volumes of the CSI driver ${DRIVER} only. To go without a clone, set clone: none in the spec.`,
            },
          ],
        };
      }
      try {
        const { value: found, scopes } = await linodeWithScopes(deps, `read volume ${id}`, volumeShape, () =>
          getVolume(id),
        );
        const { data: types } = await linode(deps, 'read the price of volumes', typesShape, () => getVolumeTypes());
        const price = types.find((type) => type.id === 'volume');
        const perGb =
          price?.region_prices.find((region) => region.id === found.region)?.monthly ?? price?.price.monthly;
        const monthlyPrice = typeof perGb === 'number' ? Math.round(perGb * found.size * 100) / 100 : null;
        const facts = {
          id,
          label: found.label,
          region: found.region,
          sizeGb: found.size,
          encryption: found.encryption ?? 'unknown',
          monthlyPrice,
        };
        return { facts, checks: [stateCheck(found), labelCheck(found, volume), scopeCheck(scopes), costCheck(facts)] };
      } catch (error) {
        if (isFailure(error, 'NotFound')) {
          return {
            facts: null,
            checks: [
              {
                id: 'volume.provider',
                status: 'FAILED',
                message: `Linode has no volume ${id}, which PersistentVolume ${volume.pv} names (${volume.handle}).`,
                remedy: 'Give the worker a token of the Linode account that this cluster belongs to.',
              },
            ],
          };
        }
        if (!isFailure(error, 'AccessDenied')) throw error;
        return {
          facts: null,
          checks: [
            {
              id: 'volume.token',
              status: 'FAILED',
              message: error.message,
              remedy: 'Make a personal access token with volumes:read_write, and restart the worker with it.',
            },
          ],
        };
      }
    },

    async awaitDetached({ volume }) {
      const began = Date.now();
      let attachedTo: number | null = null;
      const detached = await poll(
        async () => {
          const found = await read(volume.id);
          assertRecorded(found, volume);
          attachedTo = found.linode_id;
          return attachedTo === null ? true : undefined;
        },
        {
          timeoutMs: detachMs,
          startMs: Math.min(500, pollMs),
          maxMs: pollMs,
          progress: () => ({
            what: 'detach',
            done: Math.round((Date.now() - began) / 1000),
            total: null,
            unit: 'seconds',
          }),
        },
      );
      if (detached === undefined) {
        throw fail(
          'NotStopped',
          `Volume ${volume.id} (${volume.label}) is still attached to Linode ${String(attachedTo)}. Look for a pod that ` +
            'mounts it and for its VolumeAttachment; pgleap detaches nothing by force.',
        );
      }
    },

    async startClone({ world, volume, label }) {
      await assertWorld(world);
      if (wasAnnounced(label)) announce({ cloning: label });
      const standing = await findByLabel(label);
      if (standing) assertOurs(standing, world, volume);
      const clone = standing ?? (await makeClone(world, volume, label));
      announce({ cloning: label });
      try {
        await tag(clone, world.upgradeId);
      } catch (error) {
        // Not while it is being made? Then awaitClone does it: the label proves whose it is until then.
        if (!isFailure(error, 'Refused', 'Conflict')) throw error;
      }
      return { id: clone.id, label, sizeGb: clone.size, region: clone.region };
    },

    async awaitClone({ world, clone }) {
      const active = await untilActive(clone.id);
      if (active.label !== clone.label || active.size !== clone.sizeGb || active.region !== clone.region) {
        throw fail('WrongWorld', `Volume ${clone.id} is not the recorded clone: it is ${describe(active)} now.`);
      }
      await tag(active, world.upgradeId);
    },

    async removeClone({ world, source, label }) {
      await assertWorld(world);
      const found = await findByLabel(label);
      if (!found) return;
      assertOurs(found, world, source);
      if (found.linode_id !== null) {
        throw fail(
          'Refused',
          `The clone ${describe(found)} is attached to Linode ${found.linode_id}: somebody uses it. Detach it or keep it.`,
        );
      }
      // One that is being made may not be deletable yet.
      if (found.status === 'creating') await untilActive(found.id);
      await remove(found.id);
    },

    async hasVolume(volume) {
      const found = await readIfThere(volume.id);
      if (found) assertRecorded(found, volume);
      return found !== null;
    },

    async findClone({ world, source, label }) {
      const found = await findByLabel(label);
      if (!found) return null;
      assertOurs(found, world, source);
      const { id, size, region } = await untilActive(found.id);
      return { id, label, sizeGb: size, region };
    },

    async removeVolume({ world, volume }) {
      await assertWorld(world);
      const found = await readIfThere(volume.id);
      if (!found) return;
      assertRecorded(found, volume);
      if (found.linode_id !== null) {
        throw fail('Refused', `Volume ${describe(found)} is attached to Linode ${found.linode_id}: somebody uses it.`);
      }
      await remove(found.id);
    },
  };
}

/** The provider's id in a PV's handle (`<id>-<label>`); null when the volume is not Linode's. */
export function volumeId({ driver, handle }: Pick<VolumeFact, 'driver' | 'handle'>): number | null {
  const [, digits] = /^(\d+)-.+$/.exec(handle) ?? [];
  const id = Number(digits);
  // The CSI driver turns an ill-formed handle silently into some number; pgleap must not touch that volume.
  return driver === DRIVER && digits !== undefined && Number.isSafeInteger(id) && id > 0 ? id : null;
}

/** A worker that dies between clone and tag leaves no other trace of whose it is when the spec's label does not carry the upgrade's id. */
const announced = z.object({ cloning: z.string() });

function wasAnnounced(label: string): boolean {
  const details = announced.safeParse(asyncLocalStorage.getStore()?.info.heartbeatDetails);
  return details.success && details.data.cloning === label;
}

function tagOf(upgradeId: string): string {
  return `pgleap-${upgradeId}`;
}

function describe({ id, label, size, region }: Volume): string {
  return `${id} (${label}, ${size} GB, ${region})`;
}

function assertRecorded(found: Volume, recorded: BlockVolumeFact): void {
  if (found.label !== recorded.label || found.region !== recorded.region || found.size < recorded.sizeGb) {
    throw fail(
      'WrongWorld',
      `Volume ${found.id} is not the one of the plan: it is ${describe(found)} now, and was ${recorded.label}, ` +
        `${recorded.sizeGb} GB, ${recorded.region}. Make a new plan.`,
    );
  }
}

/**
 * A volume is this upgrade's clone when tag or label carry the upgrade's id (or an attempt before this one announced it), it was made after the upgrade began, and it
 * can be a copy of `source` at all. Everything else with that label is somebody else's and is left alone.
 */
function assertOurs(found: Volume, world: World, source: BlockVolumeFact): void {
  const why = [
    found.id === source.id && 'it is the original itself',
    found.region !== source.region && `it is in ${found.region}, not ${source.region}`,
    found.size < source.sizeGb && `it has only ${found.size} GB of ${source.sizeGb}`,
    createdMs(found) < Math.floor(Date.parse(world.startedAt) / 1000) * 1000 &&
      `it was made before this upgrade, at ${found.created} UTC`,
    !found.tags.includes(tagOf(world.upgradeId)) &&
      !found.label.includes(world.upgradeId) &&
      !wasAnnounced(found.label) &&
      `neither tag nor label carry the upgrade’s id ${world.upgradeId}`,
  ].filter((reason) => reason !== false);
  if (why.length > 0) {
    throw fail(
      'Refused',
      `Volume ${describe(found)} has the clone’s label but is not this upgrade’s clone: ${why.join('; ')}. ` +
        'Rename or remove it at Linode, or give the spec another clone.label.',
    );
  }
}

/** The API writes UTC without saying so; whole seconds. */
function createdMs({ created }: Volume): number {
  return Date.parse(/(?:Z|[+-]\d\d:?\d\d)$/.test(created) ? created : `${created}Z`);
}

function stateCheck({ id, status, linode_id: linodeId }: Volume): Check {
  const attached = linodeId === null ? 'attached nowhere' : `attached to Linode ${linodeId}`;
  return status === 'active'
    ? { id: 'volume.provider', status: 'PASSED', message: `Linode volume ${id} is active and ${attached}.` }
    : {
        id: 'volume.provider',
        status: 'FAILED',
        message: `Linode volume ${id} is ${status}; only active volumes can be cloned.`,
        remedy: STUCK.has(status) ? 'Ask Linode’s support.' : 'Wait until it is active and plan again.',
      };
}

function labelCheck({ id, label }: Volume, { handle }: VolumeFact): Check {
  return handle === `${id}-${label}`
    ? { id: 'volume.label', status: 'PASSED', message: `The volume’s label ${label} is the one in the PV’s handle.` }
    : {
        id: 'volume.label',
        status: 'WARNING',
        message: `Linode volume ${id} is labelled ${label}, while its PV was made for ${handle}.`,
        remedy: 'Somebody renamed it. The CSI driver may not find its device again: give it its old label back.',
      };
}

function scopeCheck(scopes: string | null): Check {
  if (scopes === null) {
    return { id: 'volume.token', status: 'INFO', message: 'Linode did not say what the token may do.' };
  }
  return /(?:^|[\s,])(?:\*|volumes:(?:read_write|\*))(?=$|[\s,])/.test(scopes)
    ? { id: 'volume.token', status: 'PASSED', message: 'The Linode API credential may clone and delete volumes.' }
    : {
        id: 'volume.token',
        status: 'FAILED',
        message: `The Linode API credential may not change volumes; it may do: ${scopes}.`,
        remedy: 'Make a personal access token with volumes:read_write, and restart the worker with it.',
      };
}

function costCheck({ sizeGb, monthlyPrice }: BlockVolumeFact): Check {
  return {
    id: 'volume.cost',
    status: 'INFO',
    message:
      monthlyPrice === null
        ? `The clone and the retained original have ${sizeGb} GB each; Linode did not name a price.`
        : `The clone and the retained original cost ${monthlyPrice.toFixed(2)} US dollars a month each (${sizeGb} GB) until cleanup.`,
  };
}
