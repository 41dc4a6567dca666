/**
 * The part of @linode/api-v4 0.158.0 that pgleap calls. The package's own declarations import one another without file
 * extensions, which Node's module resolution does not follow: to TypeScript it exports nothing.
 */
declare module '@linode/api-v4' {
  export interface APIError {
    field?: string;
    reason: string;
  }

  export interface ResourcePage<T> {
    data: T[];
    page: number;
    pages: number;
    results: number;
  }

  export interface Params {
    page?: number;
    page_size?: number;
  }

  export type Filter = Record<string, unknown>;

  export interface Volume {
    id: number;
    label: string;
    /** `active`, `creating`, `resizing`, `migrating`, `offline`, `key_rotating`, `contact_support`; others may come. */
    status: string;
    size: number;
    region: string;
    linode_id: number | null;
    linode_label: string | null;
    filesystem_path: string;
    hardware_type: string;
    encryption?: string;
    io_ready?: boolean;
    tags: string[];
    /** UTC without a zone, e.g. `2026-01-31T12:00:00`. */
    created: string;
    updated: string;
  }

  export interface PriceType {
    id: string;
    label: string;
    price: { hourly: number | null; monthly: number | null };
    region_prices: { id: string; hourly: number | null; monthly: number | null }[];
    transfer: number;
  }

  export interface Event {
    id: number;
    action: string;
    status: string;
    percent_complete: number | null;
    entity: { id: number; label: string; type: string; url: string } | null;
  }

  /** The one axios instance that all functions below use. */
  export const baseRequest: {
    interceptors: {
      request: { use(change: (config: RequestConfig) => RequestConfig | Promise<RequestConfig>): number };
      response: { use(look: (response: Response) => Response): number };
    };
  };

  export interface RequestConfig {
    url?: string;
    method?: string;
    timeout?: number;
    signal?: AbortSignal;
    headers: { set(name: string, value: string): void };
  }

  export interface Response {
    headers: Record<string, unknown>;
  }

  export function getVolume(id: number): Promise<Volume>;
  export function getVolumes(params?: Params, filter?: Filter): Promise<ResourcePage<Volume>>;
  export function getVolumeTypes(params?: Params): Promise<ResourcePage<PriceType>>;
  export function createVolume(data: {
    label: string;
    region?: string;
    size?: number;
    tags?: string[];
  }): Promise<Volume>;
  export function cloneVolume(id: number, data: { label: string }): Promise<Volume>;
  export function attachVolume(id: number, data: { linode_id: number }): Promise<Volume>;
  export function detachVolume(id: number): Promise<Record<string, never>>;
  export function resizeVolume(id: number, data: { size: number }): Promise<Volume>;
  export function updateVolume(id: number, data: { label?: string; tags?: string[] }): Promise<Volume>;
  export function deleteVolume(id: number): Promise<Record<string, never>>;
  export function getEvents(params?: Params, filter?: Filter): Promise<ResourcePage<Event>>;
  export function getProfile(): Promise<{ username: string; email: string }>;
  export function getRegion(id: string): Promise<{ id: string; status: string }>;
}
