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
  await inside(wan, ['ip', 'link', 'add', 'wan', 'type', 'bridge']);
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
