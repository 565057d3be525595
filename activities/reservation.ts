/**
 * For which generation of an instance this host made room last: `instances/<instance>/reserved.json`. A host may be the
 * destination of one move while another that failed long ago is still being cleared up. The higher generation is the one
 * that counts, of two moves of one generation the later; clearing up after any other leaves its address and its copy alone.
 */
import { join } from 'node:path';
import { z } from 'zod';
import type { Address, InstanceId, MoveRef } from '../workflows/contract.ts';
import type { HostContext } from './host-context.ts';
import type { Layout } from './records/layout.ts';
import { makeDirectory, readJson, writeRecord } from './records/durable.ts';

const Reservation = z.strictObject({
  generation: z.int(),
  moveId: z.string(),
  name: z.string(),
  address: z.strictObject({ ip: z.string(), mac: z.string() }),
});

const path = (layout: Layout, instanceId: string): string => join(layout.instance(instanceId), 'reserved.json');

/** Null if this host never made room for the instance. It stays when the instance has come, and when it has gone. */
export async function readReservation(layout: Layout, instanceId: string): Promise<z.infer<typeof Reservation> | null> {
  return readJson(path(layout, instanceId), Reservation);
}

/** Has this host made room for a later move than this one? */
export async function overtaken(layout: Layout, { instanceId, generation, moveId }: MoveRef): Promise<boolean> {
  const reserved = await readReservation(layout, instanceId);
  if (!reserved) return false;
  // A move that was called off before its save leaves the generation to the next one.
  const next = reserved.generation === generation && reserved.moveId !== moveId;
  return reserved.generation > generation || next;
}

export async function writeReservation(
  layout: Layout,
  { instanceId, generation, moveId, name, address }: MoveRef & { name: string; address: Address },
): Promise<void> {
  await makeDirectory(layout.instance(instanceId));
  const about = `${new Date().toISOString()}: room is made here for instance ${name}, which move ${moveId} brings`;
  await writeRecord(path(layout, instanceId), about, { generation, moveId, name, address });
}

/** The address that was reserved for the instance is its own on this host, whatever was cleared up here since. */
export async function ensureAddress({ layout, network }: HostContext, instanceId: InstanceId): Promise<void> {
  const reserved = await readReservation(layout, instanceId);
  if (!reserved || (await network.admitted()).some((admitted) => admitted.instanceId === instanceId)) return;
  await network.admit(instanceId, reserved.name, reserved.address);
}
