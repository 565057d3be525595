/**
 * The world outside the simulated hosts: one more network namespace, `wan`, with a bridge that has a port for each
 * host, named like the host. Temporal runs there, and the machine itself is connected by one interface. So nobody else
 * can reach any of it, and the machine's firewall is not in its way (Docker's, for one, drops what bridges carry).
 *
 *   machine: vmferry<index> ── port `machine` ┐
 *   alpha:   wan0 ──────────── port `alpha`   ├ bridge `wan`, Temporal
 *   beta:    wan0 ──────────── port `beta`    ┘
 */
import { once } from 'node:events';
import { createServer } from 'node:net';
import { run, type RunOptions, type RunResult } from '../../activities/exec/run.ts';
import { VmferryError } from '../../workflows/failures.ts';
import { until, type Process } from './processes.ts';

const MAX_INDEX = 250;

/** What follows from a testbed's index; several testbeds never share any of it. */
export const network = {
  interface: (index: number): string => `vmferry${index}`,
  subnet: (index: number): string => `10.212.${index}.0/24`,
  machine: (index: number): string => `10.212.${index}.1`,
  /** Where Temporal serves hosts and machine. */
  wan: (index: number): string => `10.212.${index}.2`,
  /** The `position`th host, from 0. */
  host: (index: number, position: number): string => `10.212.${index}.${11 + position}`,
  catalogPort: (index: number): number => 15432 + index,
};

const BRIDGE_MAC = '02:76:66:00:00:01';

/** Runs a command in the network namespace of a process. */
export const inside = (where: Process, command: readonly string[], options?: RunOptions): Promise<RunResult> =>
  run('nsenter', ['-t', String(where.pid), '-n', '--', ...command], options);

async function portFree(port: number): Promise<boolean> {
  const server = createServer().listen(port, '127.0.0.1');
  try {
    await once(server, 'listening');
  } catch {
    return false;
  }
  server.close();
  await once(server, 'close');
  return true;
}

const interfaceExists = async (name: string): Promise<boolean> =>
  (await run('ip', ['link', 'show', name], { okExitCodes: [0, 1] })).exitCode === 0;

/**
 * Connects the machine to a new `wan` and answers the index that was free: `preferred`, or the lowest. The kernel makes
 * an interface's name once, so two testbeds that start together cannot take the same.
 */
export async function connectMachine(wan: Process, preferred: number | null): Promise<number> {
  await inside(wan, ['ip', 'link', 'set', 'lo', 'up']);
  // Left to itself a bridge takes the lowest MAC of its ports, another one with each host that boots; whoever had asked for
  // the old one would not reach Temporal until he asks again.
  await inside(wan, ['ip', 'link', 'add', 'wan', 'address', BRIDGE_MAC, 'type', 'bridge']);
  await inside(wan, ['ip', 'link', 'set', 'wan', 'up']);
  const all = Array.from({ length: MAX_INDEX }, (_, index) => index);
  for (const index of preferred === null ? all : [preferred, ...all]) {
    if (await tryIndex(wan, index)) return index;
  }
  throw new VmferryError(
    'CommandFailed',
    `No network of ${network.subnet(0)} to ${network.subnet(MAX_INDEX - 1)} is free`,
  );
}

async function tryIndex(wan: Process, index: number): Promise<boolean> {
  const name = network.interface(index);
  const { stdout } = await run('ip', ['-4', '-brief', 'address', 'show', 'to', network.subnet(index)]);
  if (stdout !== '' || (await interfaceExists(name))) return false;
  if (!(await portFree(network.catalogPort(index)))) return false;
  const add = ['link', 'add', name, 'type', 'veth', 'peer', 'name', 'machine', 'netns', String(wan.pid)];
  const made = await run('ip', add, { okExitCodes: [0, 2] });
  if (made.exitCode === 2) {
    if (await interfaceExists(name)) return false; // another testbed was quicker
    throw new VmferryError('CommandFailed', `The interface ${name} could not be made: ${made.stderr}`);
  }
  await inside(wan, ['ip', 'link', 'set', 'machine', 'master', 'wan', 'up']);
  await inside(wan, ['ip', 'address', 'add', `${network.wan(index)}/24`, 'dev', 'wan']);
  await run('ip', ['address', 'add', `${network.machine(index)}/24`, 'dev', name]);
  await run('ip', ['link', 'set', name, 'up']);
  return true;
}

/** Does the machine have its address in the testbed's network? It is the last thing that `connectMachine` gives it. */
export async function machineConnected(index: number): Promise<boolean> {
  const { stdout } = await run('ip', ['-4', '-brief', 'address', 'show', 'to', network.subnet(index), 'up']);
  return stdout !== '';
}

/** Has `connectHost` done all of its work? */
export async function hostConnected(init: Process): Promise<boolean> {
  const { stdout } = await inside(init, ['ip', 'route', 'show', 'default']);
  return stdout !== '';
}

/** Removes the machine's interface; it may take a moment until the kernel has freed a namespace. */
export async function disconnectMachine(index: number): Promise<void> {
  const name = network.interface(index);
  if (!(await interfaceExists(name))) return;
  await run('ip', ['link', 'delete', name], { okExitCodes: [0, 1] });
  await until(
    async () => !(await interfaceExists(name)),
    10_000,
    () => `The interface ${name} did not go away`,
  );
}

/** Gives a booting host its interface `wan0`. */
export async function connectHost(
  wan: Process,
  host: string,
  init: Process,
  address: string,
  gateway: string,
): Promise<void> {
  // After a power loss the old port goes with the old namespace, which the kernel frees when it likes.
  await inside(wan, ['ip', 'link', 'delete', host], { okExitCodes: [0, 1] });
  // Like a real one, the host's card keeps its MAC over a boot; the neighbours remember it.
  const [, , ...bytes] = address.split('.').map((byte) => Number(byte).toString(16).padStart(2, '0'));
  const card = ['wan0', 'address', ['02', '76', '66', '00', ...bytes].join(':'), 'netns', String(init.pid)];
  await inside(wan, ['ip', 'link', 'add', host, 'type', 'veth', 'peer', 'name', ...card]);
  await inside(wan, ['ip', 'link', 'set', host, 'master', 'wan', 'up']);
  await inside(init, ['ip', 'address', 'add', `${address}/24`, 'dev', 'wan0']);
  await inside(init, ['ip', 'link', 'set', 'wan0', 'up']);
  await plugLink(wan, host, init, false);
  await inside(init, ['ip', 'route', 'add', 'default', 'via', gateway]);
}

/** Pulls the host's cable, or plugs it in again. Resolves when both ends have noticed, which may take them a second. */
export async function plugLink(wan: Process, host: string, init: Process, cut: boolean): Promise<void> {
  await inside(wan, ['ip', 'link', 'set', host, cut ? 'down' : 'up']);
  const shows = async (where: Process, device: string, what: string): Promise<boolean> => {
    const { stdout } = await inside(where, ['ip', '-details', 'link', 'show', device]);
    return stdout.includes(what);
  };
  await until(
    async () => (await shows(init, 'wan0', 'state UP')) !== cut && (await shows(wan, host, 'state forwarding')) !== cut,
    10_000,
    () => `${host} did not notice that its cable was ${cut ? 'pulled' : 'plugged in'}`,
  );
}

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
