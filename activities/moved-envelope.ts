/** The envelope of a move's package, known to be of that move. */
import {
  packageGeneration,
  type InstanceId,
  type MoveRef,
  type PackageId,
  type SignedText,
} from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';
import type { HostContext } from './host-context.ts';
import { readEnvelope, requireSealedFor, type OpenedEnvelope } from './package/envelope.ts';
import { exists } from './records/durable.ts';

/**
 * Opens the envelope in the package's folder and compares it with what the move is about: a wrong orchestrator must not
 * make a host take one instance for another.
 *
 * @param folder default: where the package lies once it is here
 * @throws what readEnvelope throws; PackageMalformed if it is another package, instance or generation
 */
export async function readMovedEnvelope(
  host: HostContext,
  move: Pick<MoveRef, 'packageId' | 'instanceId' | 'generation' | 'fence'>,
  options: { source?: SignedText; folder?: string } = {},
): Promise<OpenedEnvelope> {
  const { folder = host.layout.package(move.packageId), source } = options;
  const opened = await readEnvelope({
    folder,
    keys: host.keys,
    pool: host.pool,
    ...(source !== undefined && { source }),
  });
  requireSealedFor(opened.origin, { ...move, generation: packageGeneration(move) });
  return opened;
}

/** Whose state is in a package; null if this host cannot read it, and so could not continue anything from it. */
export async function instanceOf({ keys, pool }: HostContext, folder: string): Promise<InstanceId | null> {
  try {
    return (await readEnvelope({ folder, keys, pool })).origin.instanceId;
  } catch (error) {
    if (error instanceof VmferryError) return null;
    throw error;
  }
}

/** Does this host hold the package that makes this generation of the instance? Reading it takes its envelope alone. */
export async function isSealed(
  { layout, keys, pool }: HostContext,
  packageId: PackageId,
  instanceId: InstanceId,
  generation: number,
): Promise<boolean> {
  if (!(await exists(layout.package(packageId)))) return false;
  const { origin } = await readEnvelope({ folder: layout.package(packageId), keys, pool });
  return origin.instanceId === instanceId && origin.generation === generation;
}
