/** Which host or move a command means when its words leave that open. */
import { VmferryError } from '../workflows/failures.ts';
import type { Catalog, Orchestrator, Running } from './api.ts';
import type { HostRow, MoveRow } from './catalog-queries.ts';
import { plainFingerprint } from './format.ts';

/** A host by its name, or its key's fingerprint with or without blanks. */
export function findHost(catalog: Catalog, word: string): Promise<HostRow> {
  const digits = plainFingerprint(word);
  return catalog.findHost(/^[0-9A-F]{8,64}$/.test(digits) ? digits : word.toLowerCase());
}

/**
 * The host that `--host` names, or the only one.
 *
 * @throws VmferryError `HostNotFound`, `InvalidInput`
 */
export async function chooseHost(catalog: Catalog, word: string | undefined): Promise<HostRow> {
  if (word !== undefined) return findHost(catalog, word);
  const hosts = await catalog.hosts();
  const [only, ...others] = hosts;
  if (only === undefined) throw new VmferryError('HostNotFound', 'The pool has no host yet');
  if (others.length === 0) return only;
  const names = hosts.map(({ id }) => id).join(', ');
  throw new VmferryError('InvalidInput', `Say with --host which host is meant: ${names}`);
}

export interface FoundMove {
  /** Null while only Temporal knows the move. */
  row: MoveRow | null;
  running: Running<unknown>;
}

/**
 * A move by its id, the unique beginning of one, or the instance whose newest move is meant. A move that began a
 * moment ago may not be in the catalog yet.
 *
 * @throws VmferryError `MoveNotFound`
 */
export async function findMove(catalog: Catalog, temporal: Orchestrator, word: string): Promise<FoundMove> {
  const row = await orNull(catalog.findMove(word), 'MoveNotFound');
  if (row?.id.startsWith(word.toLowerCase()) === true)
    return { row, running: await temporal.move(row.instanceId, row.id) };
  const instanceId = row?.instanceId ?? (await orNull(catalog.findInstance(word), 'InstanceNotFound'))?.id;
  const running = instanceId === undefined ? null : await temporal.runningOn(instanceId);
  if (running !== null) return { row: row?.id === running.runId ? row : null, running };
  if (row === null)
    throw new VmferryError('MoveNotFound', `No move is called ${word}, and no instance of that name has moved`);
  return { row, running: await temporal.move(row.instanceId, row.id) };
}

async function orNull<T>(found: Promise<T>, missing: 'MoveNotFound' | 'InstanceNotFound'): Promise<T | null> {
  try {
    return await found;
  } catch (error) {
    if (error instanceof VmferryError && error.type === missing) return null;
    throw error;
  }
}
