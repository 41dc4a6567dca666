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

/** Bytes of a Kubernetes quantity such as `10Gi`, undefined when it is none. */
export function bytesOf(quantity: string | undefined): number | undefined {
  const found = /^(\d+(?:\.\d+)?)([A-Za-z]*)$/.exec(quantity ?? '');
  const unit = units[found?.[2] ?? ''];
  return found === null || unit === undefined ? undefined : Number(found[1]) * unit;
}
