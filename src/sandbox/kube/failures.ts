import type { ResourceInfo } from './resources.ts';

export interface StatusBody {
  kind: 'Status';
  apiVersion: 'v1';
  metadata: Record<string, never>;
  status: 'Success' | 'Failure';
  message?: string;
  reason?: string;
  details?: {
    name?: string;
    group?: string;
    kind?: string;
    uid?: string;
    causes?: { reason?: string; message?: string; field?: string }[];
  };
  code?: number;
}

/** A refusal that the API server answers with: an HTTP code and a Status body. */
export class ApiFailure extends Error {
  readonly code: number;
  readonly body: StatusBody;

  constructor(code: number, reason: string, message: string, details?: StatusBody['details']) {
    super(message);
    this.code = code;
    this.body = { kind: 'Status', apiVersion: 'v1', metadata: {}, status: 'Failure', message, reason, code };
    if (details !== undefined) this.body.details = details;
  }
}

function qualified(info: ResourceInfo): string {
  return info.group === '' ? info.plural : `${info.plural}.${info.group}`;
}

function detailsOf(info: ResourceInfo, name: string): NonNullable<StatusBody['details']> {
  return info.group === '' ? { name, kind: info.plural } : { name, group: info.group, kind: info.plural };
}

export function notFound(info: ResourceInfo, name: string): ApiFailure {
  return new ApiFailure(404, 'NotFound', `${qualified(info)} "${name}" not found`, detailsOf(info, name));
}

export function alreadyExists(info: ResourceInfo, name: string): ApiFailure {
  return new ApiFailure(409, 'AlreadyExists', `${qualified(info)} "${name}" already exists`, detailsOf(info, name));
}

export function conflict(info: ResourceInfo, name: string, why: string): ApiFailure {
  const message = `Operation cannot be fulfilled on ${qualified(info)} "${name}": ${why}`;
  return new ApiFailure(409, 'Conflict', message, detailsOf(info, name));
}

export function badRequest(message: string): ApiFailure {
  return new ApiFailure(400, 'BadRequest', message);
}

export interface FieldProblem {
  field: string;
  reason: 'FieldValueRequired' | 'FieldValueInvalid' | 'FieldValueForbidden' | 'FieldValueNotSupported';
  message: string;
}

export function invalid(info: ResourceInfo, name: string, problems: FieldProblem[]): ApiFailure {
  const list = problems.map((one) => `${one.field}: ${one.message}`);
  const message = `${info.kind}${info.group === '' ? '' : `.${info.group}`} "${name}" is invalid: ${list.length === 1 ? list[0] : `[${list.join(', ')}]`}`;
  const details = { ...detailsOf(info, name), kind: info.kind, causes: problems };
  return new ApiFailure(422, 'Invalid', message, details);
}
