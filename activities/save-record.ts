/**
 * What the source remembers of stopping an instance, in `instances/<instance>/save-<owned generation>.json`.
 * It is written before the guest is touched and again when the save file is complete, so that a repeated step, the way
 * back and the release all find the same truth after any crash. A generation is saved at most once: taking the
 * instance back begins a new one.
 */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import type { InstanceId } from '../workflows/contract.ts';
import type { ProcessIdentity } from './hypervisor/hypervisor.ts';
import type { Layout } from './records/layout.ts';
import { exists, readJson, writeRecord } from './records/durable.ts';

const FileState = z.strictObject({
  target: z.string(),
  path: z.string(),
  /** Null until the save is complete. Any later write to the overlay changes it. */
  stamp: z.string().nullable(),
});

const SaveRecord = z.strictObject({
  moveId: z.string(),
  packageId: z.string(),
  process: z.strictObject({ pid: z.number(), startTime: z.number() }).nullable(),
  autostart: z.boolean(),
  disks: z.array(FileState),
  /** Set once the save file holds all of RAM and the overlay is at rest. */
  saved: z.strictObject({ bytes: z.number(), stoppedMillis: z.number() }).nullable(),
});
export type SaveRecord = z.infer<typeof SaveRecord>;

const path = (layout: Layout, id: InstanceId, owned: number): string => join(layout.instance(id), `save-${owned}.json`);

/** Null if this generation was never stopped. */
export async function readSaveRecord(layout: Layout, id: InstanceId, owned: number): Promise<SaveRecord | null> {
  return readJson(path(layout, id, owned), SaveRecord);
}

export async function writeSaveRecord(
  layout: Layout,
  id: InstanceId,
  owned: number,
  record: SaveRecord,
): Promise<void> {
  const how = record.saved
    ? `its RAM is saved, ${record.saved.bytes} bytes`
    : 'it is about to be stopped and its RAM saved';
  const about = `${new Date().toISOString()}: move ${record.moveId} takes generation ${owned} of instance ${id} from here; ${how}`;
  await writeRecord(path(layout, id, owned), about, record);
}

/** Changes whenever anybody writes to the file or puts another in its place. */
export async function fileStamp(file: string): Promise<string> {
  const { ino, size, mtimeNs } = await stat(file, { bigint: true });
  return `${ino}:${size}:${mtimeNs}`;
}

/**
 * The first disk of a saved instance that is not as the save left it; null if all are. One that was written tells that the
 * guest, or another, has run on, and that the saved RAM is no longer its last state.
 */
export async function changedDisk({ disks }: SaveRecord): Promise<{ target: string; how: 'written' | 'gone' } | null> {
  for (const { target, path, stamp } of disks) {
    if (!(await exists(path))) return { target, how: 'gone' };
    if ((await fileStamp(path)) !== stamp) return { target, how: 'written' };
  }
  return null;
}

export const sameProcess = (one: ProcessIdentity | null, other: ProcessIdentity | null): boolean =>
  one?.pid === other?.pid && one?.startTime === other?.startTime;
