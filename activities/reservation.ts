/**
 * For which generation of an instance this host made room last: `instances/<instance>/reserved.json`. A host may be the
 * destination of one move while another that failed long ago is still being cleared up; the higher generation is the one
 * that counts, and clearing up after a lower one leaves its address and its copy alone.
 */
import { join } from 'node:path';
import { z } from 'zod';
import type { MoveRef } from '../workflows/contract.ts';
import type { Layout } from './records/layout.ts';
import { makeDirectory, readJson, writeRecord } from './records/durable.ts';

const Reservation = z.strictObject({ generation: z.int(), moveId: z.string() });

const path = (layout: Layout, instanceId: string): string => join(layout.instance(instanceId), 'reserved.json');

/** Null if this host never made room for the instance. It stays when the instance has come, and when it has gone. */
export async function readReservation(layout: Layout, instanceId: string): Promise<z.infer<typeof Reservation> | null> {
  return readJson(path(layout, instanceId), Reservation);
}

/** Has this host made room for a later generation than the move's? */
export async function overtaken(layout: Layout, move: MoveRef): Promise<boolean> {
  const reserved = await readReservation(layout, move.instanceId);
  return reserved !== null && reserved.generation > move.generation;
}

export async function writeReservation(
  layout: Layout,
  name: string,
  { instanceId, generation, moveId }: MoveRef,
): Promise<void> {
  await makeDirectory(layout.instance(instanceId));
  const about = `${new Date().toISOString()}: room is made here for instance ${name}, which move ${moveId} brings`;
  await writeRecord(path(layout, instanceId), about, { generation, moveId });
}
