/**
 * How well hosts reach each other and Temporal: rates, and frames that are lost on their way. All of it is done at the
 * bridge between them, so it outlives a power loss of a host, and goes with the bridge.
 */
import { VmferryError } from '../../workflows/failures.ts';
import { inside } from './network.ts';
import type { Process } from './processes.ts';

/** Of the parties at the bridge, the one that is no host. */
export const TEMPORAL = 'temporal';

/** Every party but the other one. */
export const ALL = '*';

/** Frames that get lost: those from one party (a host, TEMPORAL, ALL) to another. */
export interface Loss {
  from: string;
  to: string;
}

/** Makes these losses happen, and no others. */
export async function loseFrames(wan: Process, losses: Loss[]): Promise<void> {
  await inside(wan, ['nft', '-f', '-'], { input: ruleset(losses) });
}

function ruleset(losses: Loss[]): string {
  const rule = ({ from, to }: Loss): string =>
    [
      ...(from === ALL || from === TEMPORAL ? [] : [`iifname "${from}"`]),
      ...(to === ALL || to === TEMPORAL ? [] : [`oifname "${to}"`]),
      'drop',
    ].join(' ');
  const chain = (hook: string, rules: Loss[]): string =>
    `chain ${hook} { type filter hook ${hook} priority 0; ${rules.map((loss) => `${rule(loss)}; `).join('')}}`;
  // Temporal sits at the bridge itself, the hosts at its ports.
  return `
    add table bridge faults
    delete table bridge faults
    table bridge faults {
      ${chain(
        'forward',
        losses.filter(({ from, to }) => from !== TEMPORAL && to !== TEMPORAL),
      )}
      ${chain(
        'input',
        losses.filter(({ to }) => to === TEMPORAL || to === ALL),
      )}
      ${chain(
        'output',
        losses.filter(({ from }) => from === TEMPORAL || from === ALL),
      )}
    }
  `;
}

const UNITS: Record<string, number> = { kbit: 1e3, mbit: 1e6, gbit: 1e9 };

/** Bits per second of `100mbit` and the like; null for `none`. Throws InvalidInput. */
export function bitsPerSecond(rate: string): number | null {
  if (rate === 'none') return null;
  const match = /^(\d+)(kbit|mbit|gbit)$/.exec(rate);
  const value = Number(match?.[1]) * (UNITS[match?.[2] ?? ''] ?? NaN);
  if (!(value > 0)) throw new VmferryError('InvalidInput', `${rate} is no rate; write 100mbit, 500kbit, 1gbit or none`);
  return value;
}

/** What a host's link carries. */
export interface LinkRates {
  /** In each direction. */
  rate: string;
  /** From these addresses; each has this much for itself, beside what the others have. */
  from: { address: string; rate: string }[];
}

/** Limits what a host sends, by a queue of its own, and what it receives, by queues of its port. */
export async function shapeLink(wan: Process, host: string, init: Process, link: LinkRates): Promise<void> {
  const clear = (where: Process, device: string): Promise<unknown> =>
    inside(where, ['tc', 'qdisc', 'delete', 'dev', device, 'root'], { okExitCodes: [0, 2] });
  await clear(init, 'wan0');
  await clear(wan, host);
  const limited = link.rate !== 'none';
  if (limited) await inside(init, ['tc', 'qdisc', 'add', 'dev', 'wan0', 'root', ...bucket(link.rate)]);
  if (link.from.length === 0) {
    if (limited) await inside(wan, ['tc', 'qdisc', 'add', 'dev', host, 'root', ...bucket(link.rate)]);
    return;
  }
  // This queue only sorts by sender; the buckets in it limit.
  const tc = (...args: string[]): Promise<unknown> => inside(wan, ['tc', ...args]);
  const sorted = (id: number): Promise<unknown> =>
    tc('class', 'add', 'dev', host, 'parent', '1:', 'classid', `1:${id}`, 'htb', 'rate', '100gbit', 'quantum', '65536');
  await tc('qdisc', 'add', 'dev', host, 'root', 'handle', '1:', 'htb', 'default', '1');
  await sorted(1);
  if (limited) await tc('qdisc', 'add', 'dev', host, 'parent', '1:1', ...bucket(link.rate));
  for (const [position, { address, rate }] of link.from.entries()) {
    const id = position + 2;
    await sorted(id);
    await tc('qdisc', 'add', 'dev', host, 'parent', `1:${id}`, ...bucket(slower(rate, link.rate)));
    const match = ['u32', 'match', 'ip', 'src', `${address}/32`, 'flowid', `1:${id}`];
    await tc('filter', 'add', 'dev', host, 'parent', '1:', 'protocol', 'ip', ...match);
  }
}

const slower = (one: string, other: string): string =>
  (bitsPerSecond(one) ?? Infinity) <= (bitsPerSecond(other) ?? Infinity) ? one : other;

function bucket(rate: string): string[] {
  // 20 ms worth of tokens: less than a timer tick's worth would throttle below the rate.
  const burst = Math.max(16_384, Math.ceil((bitsPerSecond(rate) ?? 0) / 8 / 50));
  return ['tbf', 'rate', rate, 'burst', String(burst), 'latency', '50ms'];
}
