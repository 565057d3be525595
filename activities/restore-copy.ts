/**
 * A paused instance from the members in a folder: the heart of restoring, used by the destination and by the way back.
 *
 * QEMU works on copies in the folder of the new generation. They are made anew at every attempt, so a restore can be
 * repeated as often as it takes: nothing that a half-started QEMU wrote is ever read again.
 */
import { readdir, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { z } from 'zod';
import type { InstanceId } from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';
import { copyFile, sha256File } from './disk/copy.ts';
import { checkOverlay, inspectQcow2 } from './disk/qcow2.ts';
import { check, rebaseUnsafe } from './disk/qemu-img.ts';
import type { Work } from './heartbeat.ts';
import type { HostContext } from './host-context.ts';
import { passed } from './marks.ts';
import { readImage } from './images.ts';
import { diskStream, type OriginRecord } from './package/format.ts';
import {
  exists,
  makeDirectory,
  readJson,
  removeDurably,
  syncDirectory,
  syncFile,
  writeRecord,
} from './records/durable.ts';
import { MEMBER } from './records/layout.ts';
import { LOCAL_XML } from './rewrite-xml.ts';
import { sameProcess } from './save-record.ts';

export interface StagedDisk {
  target: string;
  imageId: string;
  virtualBytes: number;
  /** What the signed record says of the overlay. Absent where it was never packed. */
  sha256?: string;
}

/** The overlays that a package holds, as its signed record describes them. */
export function sealedDisks({ disks, streams }: OriginRecord): StagedDisk[] {
  return disks.map((disk) => {
    const stream = streams.find(({ name }) => name === diskStream(disk.target));
    return { ...disk, ...(stream && { sha256: stream.sha256 }) };
  });
}

/** Written into the members' folder when libvirt has restored the copy: which process it is, and from which bytes. */
const Restored = z.strictObject({
  generation: z.int(),
  process: z.strictObject({ pid: z.number(), startTime: z.number() }),
  /** SHA-256 of each overlay as it lay in the folder, by target. */
  diskSha256: z.record(z.string(), z.string()),
});
type Restored = z.infer<typeof Restored>;

/** Null if no restore from the members in this folder was ever finished. */
export function readRestored(folder: string): Promise<Restored | null> {
  return readJson(join(folder, 'restored.json'), Restored);
}

/**
 * Makes sure that the instance stands here restored, from the members in `folder`. A copy that an earlier attempt
 * finished is kept; one that nobody can vouch for is thrown away and made anew. Only for generations that never ran here.
 *
 * @param disksOf asked only if it is made anew: nobody waits for it otherwise
 * @returns SHA-256 of each overlay as it lay in the folder, by target
 * @throws AlreadyExists if a domain of this UUID runs that did not come from here
 */
export async function ensurePausedCopy(
  host: HostContext,
  instanceId: InstanceId,
  generation: number,
  folder: string,
  disksOf: () => Promise<readonly StagedDisk[]>,
  work: Work,
): Promise<Record<string, string>> {
  const marker = join(folder, 'restored.json');
  const restored = await readRestored(folder);
  const found = await host.hypervisor.find(instanceId);
  if (restored?.generation === generation && found?.process && sameProcess(restored.process, found.process)) {
    return restored.diskSha256;
  }
  if (found?.state === 'running') {
    throw new VmferryError(
      'AlreadyExists',
      `host ${host.name} runs a domain ${instanceId} that this move did not restore; look at it before anything else`,
    );
  }
  const diskSha256 = await restorePausedCopy(host, instanceId, generation, folder, await disksOf(), work);
  const domain = await host.hypervisor.find(instanceId);
  if (domain?.state !== 'paused' || !domain.process) {
    throw new VmferryError(
      'LibvirtFailed',
      `instance ${instanceId} is ${domain?.state ?? 'gone'} on ${host.name} after its restore`,
    );
  }
  await passed('restored');
  const about = `${new Date().toISOString()}: ${host.name} has restored generation ${generation} of instance ${instanceId}, paused, as QEMU ${domain.process.pid}`;
  await writeRecord(marker, about, { generation, process: domain.process, diskSha256 } satisfies Restored);
  return diskSha256;
}

/** @throws ForeignBackingFile, DiskMalformed, ImageNotFound before QEMU or qemu-img sees the disk */
async function restorePausedCopy(
  host: HostContext,
  instanceId: InstanceId,
  generation: number,
  folder: string,
  disks: readonly StagedDisk[],
  work: Work,
): Promise<Record<string, string>> {
  const target = host.layout.generation(instanceId, generation);
  await host.hypervisor.destroy(instanceId);
  await rm(target, { recursive: true, force: true });
  await makeDirectory(target);

  const digests: Record<string, string> = {};
  for (const disk of disks) {
    const staged = join(folder, MEMBER.disk(disk.target));
    await checkOverlay(staged, { backing: disk.imageId, virtualBytes: disk.virtualBytes });
    const image = await readImage(host.layout, disk.imageId);
    if (!image)
      throw new VmferryError(
        'ImageNotFound',
        `host ${host.name} lacks the base image ${disk.imageId} of ${instanceId}`,
      );
    const copy = join(target, `${disk.target}.qcow2`);
    const digest = await sha256File(staged, work);
    if (disk.sha256 !== undefined && digest !== disk.sha256) {
      // Opened whole, and altered since: gone, it is opened from the package once more when the move is retried.
      await removeDurably(join(folder, LOCAL_XML));
      await rm(staged, { force: true });
      throw new VmferryError('DiskMalformed', `disk ${staged} is not what the package's record says any more`);
    }
    digests[disk.target] = digest;
    await copyFile({ from: staged, to: copy, work });
    await rebaseUnsafe({ path: copy, backing: host.layout.imageDisk(disk.imageId), backingFormat: image.format });
    await check(copy, work.signal);
    // The header is new. Once the guest may have run from this disk nothing else is ever read, so it must outlast the power.
    await syncFile(copy);
  }
  for (const name of [MEMBER.kernel, MEMBER.initrd]) {
    if (await exists(join(folder, name))) await copyFile({ from: join(folder, name), to: join(target, name), work });
  }
  await syncDirectory(target);
  await passed('copied');
  work.signal.throwIfAborted();
  await host.hypervisor.restorePaused(join(folder, MEMBER.snapshot));
  return digests;
}

/** The overlays in a folder of members, as their headers describe them. For the way back from what the save left. */
export async function stagedDisks(folder: string): Promise<StagedDisk[]> {
  const found: StagedDisk[] = [];
  for (const name of await readdir(folder)) {
    const target = /^disk-([a-z0-9]+)\.qcow2$/.exec(name)?.[1];
    if (target === undefined) continue;
    const { backingFile, virtualBytes } = await inspectQcow2(join(folder, name));
    found.push({ target, virtualBytes, imageId: basename(backingFile ?? '') });
  }
  return found;
}
