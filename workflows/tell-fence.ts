import type { FenceObeyed, TellFenceInput } from './contract.ts';
import { onHost } from './options.ts';
import { tell } from './tell.ts';

/**
 * Tells a host that its generation of an instance is over, however long it takes until that host comes back. Until then a
 * release that it holds, or is given late, would let it run the instance: who signed the fence answers for that.
 */
export async function tellFence({ host, move }: TellFenceInput): Promise<FenceObeyed> {
  const { instanceId: instance, generation } = move;
  const what = `Generation ${generation} of instance \`${instance}\` goes on elsewhere by a fence`;
  tell(`${what}; **${host}** is told when it is back.`, { instance, destination: host });
  const endless = { patience: 'for ever', absentAfter: null, summary: 'Its generation is over' } as const;
  const obeyed = await onHost(host, endless).obeyFence({ ...move, final: true });
  const kept = obeyed.kept === null ? '' : ` Disks that are newer than the package were put aside: \`${obeyed.kept}\`.`;
  tell(`${what}; **${host}** was told, and had ${obeyed.found}.${kept}`);
  return obeyed;
}
