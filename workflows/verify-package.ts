import { ApplicationFailure, patched } from '@temporalio/workflow';
import type { PackageFacts, VerifyPackageInput } from './contract.ts';
import { onControl, onHost } from './options.ts';
import { tell } from './tell.ts';
import { verifyAt } from './verifying.ts';

/** Reads the whole package on one host and compares every digest and signature. */
export async function verifyPackage({ packageId, host }: VerifyPackageInput): Promise<PackageFacts> {
  tell(`Verifies package \`${packageId}\` on **${host}**.`, { source: host });
  await onControl({ summary: `Is ${host} in the pool?` }).findHost({ host });
  if (!patched('record-verification')) {
    return await onHost(host, { summary: 'Compare digests and signatures' }).verifyPackage({ packageId });
  }
  const { at } = await onControl({ summary: 'When does it begin?' }).findPackage({ packageId });
  const found = await verifyAt({ packageId, host, at });
  if (found instanceof ApplicationFailure) throw found;
  return found;
}
