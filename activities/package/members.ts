/**
 * What the source collected in `moves/<move>/` for packing: written last by rebaseOverlay, when every file is there and
 * checked; read by buildPackage and encryptPackage.
 */
import { z } from 'zod';
import { Disk, MemberName, Requirements } from './format.ts';

export const MEMBERS_FILE = 'members.json';

export const Members = z.strictObject({
  disks: z.array(Disk).min(1).max(32),
  /** Small files of the `config` stream; `libvirt.xml` first. */
  members: z.array(MemberName).min(1),
  requirements: Requirements,
});
export type Members = z.infer<typeof Members>;
