/**
 * How a struck move may end. Everything that can be mended by trying again must end in `moved`; only what takes the
 * guest's RAM away before it was saved, or is refused before anything was touched, may end otherwise.
 */
import type { Fault } from './faults.ts';
import type { Phase, Point } from './points.ts';

/**
 * `moved`: runs at the destination. `returned`: runs at the source again. `refused`: the move ended before it touched the
 * guest. `parked` needs a person, which no fault of this campaign may cost.
 */
export type End = 'moved' | 'returned' | 'refused' | 'parked';

/** Which part the struck host has in the move; `shared` for faults of what all hosts share. */
export type Role = 'source' | 'destination' | 'shared';

const RAM_ONLY_IN_QEMU: readonly Phase[] = ['running', 'suspended'];

export function expectedEnds(fault: Fault, role: Role, { phase, wayBack }: Point): readonly End[] {
  const ends: End[] = wayBack ? ['returned'] : ['moved'];
  // Preflight waits 15 s at most, because somebody waits for the answer and nothing is at stake.
  if (phase === 'running') ends.push('refused');
  const kills = fault.name === 'qemu killed' || fault.name === 'host rebooted';
  // QEMU stops a guest whose disk takes no more, and a stopped guest cannot be moved: it is left, or taken back.
  const stops = fault.name === 'disk full' || fault.name === 'disk read-only';
  if (role === 'source' && RAM_ONLY_IN_QEMU.includes(phase) && (kills || stops)) ends.push('returned');
  return ends;
}
