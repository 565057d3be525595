import type { DeleteInstanceInput } from './contract.ts';
import { onControl, onHost } from './options.ts';
import { tell } from './tell.ts';

/** Ends an instance for ever, at its owner first; the catalog forgets it when the owner has. Its packages stay. */
export async function deleteInstance({ instanceId }: DeleteInstanceInput): Promise<void> {
  const { instance, host } = await onControl({ summary: 'Who owns it?' }).findInstance({ instanceId });
  tell(`Deletes **${instance.name}** on **${host.id}**.`, { instance: instanceId, source: host.id });
  await onHost(host.id, { summary: `End ${instance.name}, remove its disks` }).deleteInstance({ instanceId });
  await onControl({ summary: `Forget ${instance.name}`, patience: 'for ever' }).forgetInstance({ instanceId });
}
