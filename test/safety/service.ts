/**
 * What an operator does after a fault that took a guest down where nothing could keep it up: a host that lost power boots
 * its guests, a guest that QEMU stopped at a full disk is let go on, one whose disk was taken from under it is reset.
 */
import type { Fleet, Guest } from './fleet.ts';

export interface OutOfService {
  guest: Guest;
  text: string;
}

/** Brings guests back into service where their last move left them. Answers those that do not come. */
export async function backInService(fleet: Fleet, guests: readonly Guest[] = fleet.guests): Promise<OutOfService[]> {
  const all = await Promise.all(guests.map((guest) => serve(fleet, guest)));
  return all.filter((problem) => problem !== null);
}

async function serve(fleet: Fleet, guest: Guest): Promise<OutOfService | null> {
  const { testbed } = fleet;
  const virsh = async (...command: string[]): Promise<string> =>
    (await testbed.exec(guest.host, ['virsh', '--quiet', ...command], { okExitCodes: [0, 1] })).stdout.trim();
  for (const deadline = Date.now() + SECONDS * 1000; ;) {
    // Each time anew: libvirt may not have noticed yet that a QEMU was killed.
    const state = await virsh('domstate', guest.id);
    if (state === 'paused') await virsh('resume', guest.id);
    if (state === 'shut off' || state === 'crashed') await virsh('start', guest.id);
    try {
      await fleet.answers(guest, guest.host, PATIENCE_SECONDS);
      return null;
    } catch (error) {
      if (Date.now() < deadline) continue;
      return { guest, text: `${state || 'not known to libvirt'} on ${guest.host}: ${String(error)}` };
    }
  }
}

/** A guest boots in a few seconds; many of them at once take longer. */
const SECONDS = 120;
/** Until its state is looked at again. */
const PATIENCE_SECONDS = 10;
