/** Reads a package where it lies, and lets the catalog know what was found. Shared by all workflows that verify one. */
import type { ApplicationFailure } from '@temporalio/workflow';
import type { HostId, PackageFacts, PackageId } from './contract.ts';
import { failure, isCancellation, reasonOf } from './failing.ts';
import type { FailureType } from './failures.ts';
import { onControl, onHost } from './options.ts';

export interface Verification {
  packageId: PackageId;
  host: HostId;
  /** When it begins, by the catalog’s clock. */
  at: string;
  /** Nobody waits for it. */
  gently?: boolean;
}

/** Failures that say nothing about the package. */
const NOT_SEEN: readonly FailureType[] = ['HostUnreachable', 'InstanceBusy', 'StepStalled'];

/**
 * The package’s facts, or the failure that says what is wrong with this copy.
 *
 * @throws HostUnreachable, InstanceBusy, StepStalled if nobody could look
 */
export async function verifyAt(verification: Verification): Promise<PackageFacts | ApplicationFailure> {
  const { packageId, host, gently = false } = verification;
  let facts: PackageFacts;
  try {
    const summary = `Compare digests and signatures of ${packageId}`;
    facts = await onHost(host, { summary }).verifyPackage({ packageId, ...(gently && { gently }) });
  } catch (error) {
    const { type, message } = reasonOf(error);
    if (isCancellation(error) || NOT_SEEN.includes(type)) throw error;
    await onControl({ summary: `${packageId} on ${host} is damaged`, patience: 'for ever' }).recordVerification({
      packageId,
      host,
      at: verification.at,
      damage: { type, message },
    });
    return failure(type, message, error);
  }
  await recordWhole(verification);
  return facts;
}

export async function recordWhole({ packageId, host, at }: Verification): Promise<void> {
  await onControl({ summary: `${packageId} on ${host} is whole`, patience: 'for ever' }).recordVerification({
    packageId,
    host,
    at,
    damage: null,
  });
}
