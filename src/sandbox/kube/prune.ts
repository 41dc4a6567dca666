import { isObject, type Json } from './patch.ts';

/** As much of a CustomResourceDefinition's schema as says which fields are kept; as it is stored, so with the names of JSON. */
export interface Schema {
  properties?: Record<string, Schema>;
  additionalProperties?: Schema | boolean;
  items?: Schema;
  'x-kubernetes-preserve-unknown-fields'?: boolean;
  'x-kubernetes-embedded-resource'?: boolean;
}

/** Takes off what the schema does not name, silently, as the API server does with custom objects. */
export function prune(value: Json, schema: Schema, isRoot = true): void {
  if (Array.isArray(value)) {
    for (const item of value) if (schema.items !== undefined) prune(item, schema.items, false);
  }
  if (!isObject(value)) return;
  const { properties = {}, additionalProperties } = schema;
  const isWhole = isRoot || schema['x-kubernetes-embedded-resource'] === true;
  for (const [key, inner] of Object.entries(value)) {
    if (isWhole && ['apiVersion', 'kind', 'metadata'].includes(key)) continue;
    const known = properties[key] ?? additionalProperties;
    if (typeof known === 'object') prune(inner, known, false);
    else if (known !== true && schema['x-kubernetes-preserve-unknown-fields'] !== true) delete value[key];
  }
}
