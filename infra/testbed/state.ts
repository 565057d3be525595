/** What a testbed remembers between commands: one JSON file in its directory, and a lock against a second command. */
import { mkdir, readdir } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { z } from 'zod';
import { readJson, writeDurable } from '../../activities/records/durable.ts';
import { Layout } from '../../activities/records/layout.ts';
import { withInstanceLock } from '../../activities/records/lock.ts';
import { VmferryError } from '../../workflows/failures.ts';

/** A cable: how fast it is, and whether it is plugged in. It outlives a power loss of the host. */
const Link = z.strictObject({ rate: z.string(), cut: z.boolean() });

const State = z.strictObject({
  version: z.literal(1),
  /** Number among the testbeds of this machine: subnet, interface and ports follow from it. Null until it is reserved. */
  index: z.int().min(0).nullable(),
  hosts: z.array(z.string()),
  /** Hosts with libvirtd alone: no workers, no orchestration. */
  bare: z.boolean(),
  links: z.record(z.string(), Link),
  /** Frames that get lost on their way; see links.ts. */
  losses: z.array(z.strictObject({ from: z.string(), to: z.string() })).default([]),
  /** Limits of what goes between two hosts. */
  slowPairs: z.array(z.strictObject({ hosts: z.tuple([z.string(), z.string()]), rate: z.string() })).default([]),
  /** Passwords of the database roles. */
  passwords: z.strictObject({ owner: z.string(), reader: z.string() }),
});
export type State = z.infer<typeof State>;

const FILE = 'testbed.json';

/** The testbed's directory: as given, else VMFERRY_TESTBED, else /tmp/vmferry-testbed. */
export function testbedDirectory(directory?: string): string {
  return resolve(directory ?? (process.env['VMFERRY_TESTBED'] || '/tmp/vmferry-testbed'));
}

/** Null if there is no testbed in this directory. */
export function loadState(directory: string): Promise<State | null> {
  return readJson(join(directory, FILE), State);
}

/** Durable, so that `down` knows what to remove whatever happens next. */
export async function saveState(directory: string, state: State): Promise<void> {
  await writeDurable(join(directory, FILE), `${JSON.stringify(state, null, 2)}\n`, { mode: 0o600 });
}

/** Makes the directory. Throws InvalidInput if it holds something that no testbed made: `down` would remove it. */
export async function claimDirectory(directory: string): Promise<void> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const entries = await readdir(directory);
  if (entries.length > 0 && !entries.includes(FILE) && entries.some((name) => !name.startsWith('.tmp-'))) {
    throw new VmferryError('InvalidInput', `${directory} holds other things; give the testbed a directory of its own`);
  }
}

/** One command at a time for each testbed. A killed command leaves no lock behind. */
export async function withTestbedLock<T>(directory: string, task: () => Promise<T>): Promise<T> {
  try {
    return await withInstanceLock(new Layout(directory), 'testbed', task, { wait: 120_000 });
  } catch (error) {
    if (error instanceof VmferryError && error.type === 'InstanceBusy') {
      throw new VmferryError('InstanceBusy', `Another testbed command works on ${directory}`, { cause: error });
    }
    throw error;
  }
}
