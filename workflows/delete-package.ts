import type { DeletePackageInput } from './contract.ts';
import { everywhere } from './everywhere.ts';
import { failure } from './failing.ts';
import { onControl, onHost } from './options.ts';
import { tell } from './tell.ts';

/** Deletes a package from every host that holds it. Refused while a saved instance can only be continued from it. */
export async function deletePackage({ packageId }: DeletePackageInput): Promise<void> {
  tell(`Deletes package \`${packageId}\`.`);
  const { instanceId, hosts, needed } = await onControl({ summary: 'Who holds it, is it needed?' }).findPackage({
    packageId,
  });
  tell(`Deletes package \`${packageId}\` of instance \`${instanceId}\`.`, { instance: instanceId });
  if (needed) throw failure('InUse', `Instance ${instanceId} is saved in package ${packageId} and nowhere else`);
  await everywhere(hosts, async (host) => {
    await onHost(host, { summary: 'Delete the package' }).deletePackage({ packageId });
    await onControl({ summary: `${host} holds it no more`, patience: 'for ever' }).forgetPackage({ packageId, host });
  });
}
