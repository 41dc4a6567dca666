const units: Record<string, number> = {
  '': 1,
  k: 1e3,
  M: 1e6,
  G: 1e9,
  T: 1e12,
  P: 1e15,
  Ki: 2 ** 10,
  Mi: 2 ** 20,
  Gi: 2 ** 30,
  Ti: 2 ** 40,
  Pi: 2 ** 50,
};

/** Bytes of a Kubernetes quantity such as `10Gi`, `25G`, `1e9`; undefined when it is none, or more than 8 PiB. */
export function bytesOf(quantity: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?(?:[eE]\d+)?)([kMGTP]|[KMGTP]i|)$/.exec(quantity);
  const unit = units[match?.[2] ?? 'none'];
  const bytes = match === null || unit === undefined ? undefined : Math.round(Number(match[1]) * unit);
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}
