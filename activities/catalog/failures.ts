/** From what PostgreSQL says to our failure types, by SQLSTATE. */
import pg from 'pg';
import { VmferryError } from '../../workflows/failures.ts';

/** Classes and codes after which the same statement may succeed later: no connection, no server, no time. */
const UNREACHABLE = /^(08|28|3D000|40|53|55P03|57)/;
/** Values that no column takes, and rules of the schema that a statement would break. */
const REFUSED = /^(22|23)/;

/** A deadlock or a conflict between transactions: the same transaction may go through at once. */
export function isConflict(error: unknown): boolean {
  return error instanceof pg.DatabaseError && (error.code === '40P01' || error.code === '40001');
}

/** Did PostgreSQL say that it cannot serve us now? */
export function isUnreachable(error: unknown): boolean {
  return error instanceof pg.DatabaseError && UNREACHABLE.test(error.code ?? '');
}

/** Name of the constraint that a statement would break; null if it failed for another reason. */
export function brokenRule(error: unknown): string | null {
  return error instanceof pg.DatabaseError && error.code?.startsWith('23') ? (error.constraint ?? null) : null;
}

/**
 * The failure for `error`, which came up when we wanted to `do` something. Failures of ours and defects pass as they are.
 * What the schema refuses is InvalidInput: repeating it would not help.
 */
export function asFailure(error: unknown, doing: string): unknown {
  if (!(error instanceof pg.DatabaseError)) return error;
  if (isUnreachable(error)) return unreachable(error, doing);
  const { code = '', message, constraint, detail } = error;
  if (REFUSED.test(code)) {
    const rule = constraint === undefined ? '' : ` (rule ${constraint})`;
    const why = detail === undefined ? message : `${message}: ${detail}`;
    return new VmferryError('InvalidInput', `the catalog refuses to ${doing}: ${why.slice(0, 500)}${rule}`, {
      cause: error,
    });
  }
  return error;
}

/** The failure for an error that tells of the connection, not of a statement. */
export function unreachable(error: unknown, doing: string): VmferryError {
  // Node tries all addresses of a name and reports them together, with an empty message.
  const first: unknown = error instanceof AggregateError ? error.errors[0] : error;
  const message = first instanceof Error ? first.message : String(first);
  return new VmferryError('CatalogUnreachable', `cannot ${doing}: ${message}`, { cause: error });
}
