import type { DiscardCopyInput } from './contract.ts';
import { onHost } from './options.ts';
import { tell } from './tell.ts';

/**
 * Tells a host to give up the copy of a move that ended without it, however long that takes. The move itself does not
 * wait: without a release the copy never runs. But it holds the guest's memory, and an address.
 */
export async function discardCopy({ host, move }: DiscardCopyInput): Promise<void> {
  tell(`Clears up what a move of instance \`${move.instanceId}\` left on **${host}**.`, {
    instance: move.instanceId,
    destination: host,
  });
  const endless = { patience: 'for ever', absentAfter: null, summary: 'Give up the copy' } as const;
  await onHost(host, endless).discardCopy(move);
}
