import { CancellationScope } from '@temporalio/workflow';
import type { InstanceSpec, SpawnInput, SpawnResult } from './contract.ts';
import { reasonOf } from './failing.ts';
import { onControl, onHost } from './options.ts';
import { tell } from './tell.ts';

/** Boots a new instance from an image; the host fetches the image first if it lacks it. */
export async function spawn(input: SpawnInput): Promise<SpawnResult> {
  const { instanceId, host, name, memoryBytes, vcpus, domainType } = input;
  tell(`Spawns **${name}** on **${host}**.`, { instance: instanceId, destination: host });
  const { image, address, imageHosts } = await onControl({ summary: `Reserve an address for ${name}` }).reserveInstance(
    input,
  );
  let begun = false;
  try {
    if (!imageHosts.some(({ id }) => id === host)) {
      const sources = imageHosts.map(({ record }) => record);
      await onHost(host, { summary: `Fetch the base image ${image.name}` }).pullImage({ image, sources });
      await onControl({ summary: `${host} holds the base image now` }).recordImage({ image, host });
    }
    const spec: InstanceSpec = { name, imageId: image.id, memoryBytes, vcpus, domainType, boot: image.boot };
    begun = true;
    const { generation } = await onHost(host, { summary: `Boot ${name} as ${address.ip}` }).spawnInstance({
      instanceId,
      spec,
      address,
    });
    await onControl({ summary: `${name} runs`, patience: 'for ever' }).recordInstance({
      instanceId,
      state: 'running',
      host,
      generation,
    });
    return { instanceId, host, address };
  } catch (error) {
    await CancellationScope.nonCancellable(() => forget(input, begun));
    throw error;
  }
}

/**
 * Nothing stays behind: the host ends what it may have begun, then the catalog forgets. If the host cannot say that
 * nothing runs, the catalog keeps the instance, for `instances delete` to finish.
 */
async function forget({ instanceId, host, name }: SpawnInput, begun: boolean): Promise<void> {
  try {
    if (begun) await onHost(host, { summary: `End what was begun of ${name}` }).deleteInstance({ instanceId });
  } catch (error) {
    // A host that owns nothing has started nothing.
    const { type } = reasonOf(error);
    if (type !== 'NotOwner' && type !== 'InstanceNotFound') return;
  }
  await onControl({ summary: `Forget ${name}`, patience: 'for ever' }).forgetInstance({ instanceId });
}
