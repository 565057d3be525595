import type { ClearUpInput } from './contract.ts';
import { onHost } from './options.ts';
import { tell } from './tell.ts';

/**
 * Lets a host clear up after a move that has ended while its worker was absent, however long that takes. Nothing depends on
 * it any more, so the instance is free for its next move meanwhile.
 */
export async function clearUp({ host, move, role, outcome }: ClearUpInput): Promise<void> {
  tell(`Clears up what a move of instance \`${move.instanceId}\` left on **${host}**, when that is back.`, {
    instance: move.instanceId,
    [role]: host,
  });
  const endless = { patience: 'for ever', absentAfter: null, summary: 'Clear up after the move' } as const;
  await onHost(host, endless).settleMove({ ...move, role, outcome });
}
