import type { ChildProcess } from 'node:child_process';
import type { Duplex } from 'node:stream';

/** A directory or file of the host that a container sees under `target`. */
export interface Mount {
  source: string;
  target: string;
  readOnly: boolean;
}

/** What the sandbox's kubelet asks of the machine below it. One container a pod: the sandbox has no sidecars. */
export interface ContainerSpec {
  /** Unique for one start of one container, safe as a file name; the pod's uid plus the restart count. */
  id: string;
  /** Of the pod's container before this one: a pod keeps its address when its container is restarted. */
  ip?: string;
  /** Host name inside, as Kubernetes sets it: the pod's name. */
  hostname: string;
  /** Image reference as in the manifest, e.g. `postgres:16`. */
  image: string;
  /** Overrides the image's entrypoint, as in a pod spec. */
  command?: string[];
  args?: string[];
  env: Record<string, string>;
  mounts: Mount[];
  /** File that collects stdout and stderr, appended to. */
  logPath: string;
}

/** How a container ended; `code` follows the shell's habit of 128 + signal. */
export interface ContainerExit {
  code: number;
}

export interface RunningContainer {
  /** Address on the sandbox's pod network, own network namespace. */
  ip: string;
  /** Settles when the container's first process ends. Never rejects. */
  exited: Promise<ContainerExit>;
  /** SIGTERM (or the image's stop signal), then SIGKILL after the grace period. Resolves when every process is gone. */
  stop(graceMs: number): Promise<void>;
  /** Starts `argv` inside: same namespaces, mounts, user and environment. Stdio is piped. */
  exec(argv: string[]): ChildProcess;
}

/** Thrown by `start` when the image is not one the sandbox has; the kubelet shows it as ImagePullBackOff. */
export class ImageNotFound extends Error {}

export interface Runtime {
  start(spec: ContainerSpec): Promise<RunningContainer>;
  /** Opens a byte stream to a TCP port on the pod network, from the host's side. */
  connect(ip: string, port: number): Promise<Duplex>;
  /** The file that all containers see as /etc/hosts. The kubelet keeps Service names in it. */
  hostsFile: string;
  /** Ends every container and takes the namespaces down. */
  close(): Promise<void>;
}
