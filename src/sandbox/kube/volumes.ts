/** One block volume at the provider, as far as the cluster's CSI emulation looks at it. */
export interface BlockVolume {
  id: number;
  label: string;
  sizeGb: number;
  region: string;
  /** The Linode it is attached to, null while it is attached nowhere. */
  linodeId: number | null;
}

/**
 * What the CSI emulation asks of the block storage provider. The stand-in for the Linode API implements it, so that
 * what Kubernetes does to a volume is what the provider's API shows.
 */
export interface Volumes {
  /** Makes an empty volume that is active when the promise resolves. Throws when the label is taken or not allowed. */
  create(request: { label: string; sizeGb: number; region: string }): Promise<{ id: number; label: string }>;
  /** The host directory that holds the volume's file system. Throws when there is no such volume. */
  directory(id: number): string;
  /** Attaches it; nothing to do when it is there already. Throws when it is attached to another Linode or is missing. */
  attach(id: number, linodeId: number): Promise<void>;
  /** Resolves when `linode_id` is null again; nothing to do when it is detached or missing. */
  detach(id: number): Promise<void>;
  /** Makes it larger; nothing to do when it is as large. Throws when there is no such volume. */
  resize(id: number, sizeGb: number): Promise<void>;
  /** Removes volume and data. Throws while it is attached; nothing to do when it is missing. */
  delete(id: number): Promise<void>;
  /** Null when there is no such volume. */
  get(id: number): Promise<BlockVolume | null>;
}
