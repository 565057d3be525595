/**
 * The tar archive of the config stream, read strictly: plain ustar headers, one for each listed member, in the listed
 * order, then the end. Anything else that a tar archive can say (links, devices, other names, long-name and pax records,
 * a second entry of the same name, data after the end) has no place where it could stand, so no library gets to
 * interpret it.
 */
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { VmferryError } from '../../workflows/failures.ts';
import { openRegular, readExactly, writeThen } from './files.ts';
import type { Member } from './format.ts';
import type { FileHandle } from 'node:fs/promises';

const BLOCK = 512;
const CHUNK = 1024 * 1024;
const padded = (bytes: number): number => Math.ceil(bytes / BLOCK) * BLOCK;

/**
 * Writes the members of an archive into a folder, each under its listed name. Nothing is written before the whole
 * archive is known to be in order; a member has its name only when its digest was right and it is on the disk.
 *
 * @throws ForbiddenMember
 */
export async function extractConfig(archive: string, members: readonly Member[], target: string): Promise<void> {
  const opened = await openRegular(archive);
  if (!opened) throw new VmferryError('Internal', `the archive ${archive} disappeared`);
  const { file, bytes } = opened;
  try {
    const found = await locateMembers(file, bytes, members);
    for (const { member, position } of found) {
      await writeThen(join(target, member.name), (output) => copyMember(file, position, member, output));
    }
  } finally {
    await file.close();
  }
}

async function locateMembers(
  file: FileHandle,
  bytes: number,
  members: readonly Member[],
): Promise<{ member: Member; position: number }[]> {
  const found: { member: Member; position: number }[] = [];
  let position = 0;
  for (const member of members) {
    const header = await readExactly(file, BLOCK, position);
    checkHeader(header, member);
    found.push({ member, position: position + BLOCK });
    position += BLOCK + padded(member.bytes);
  }
  // Two blocks of zeros; writers may fill up to a record of 10 KiB.
  const rest = await readExactly(file, Math.min(20 * BLOCK + 1, Math.max(0, bytes - position)), position);
  if (rest.length < 2 * BLOCK || rest.length > 20 * BLOCK || rest.some((byte) => byte !== 0)) {
    throw new VmferryError('ForbiddenMember', 'the config archive does not end after its listed members');
  }
  return found;
}

/** The header of a regular file of this name and size, in the oldest form of ustar, and of nothing else. */
function checkHeader(header: Uint8Array, member: Member): void {
  const refuse = (why: string): never => {
    throw new VmferryError('ForbiddenMember', `the config archive should hold ${member.name} here, but ${why}`);
  };
  if (header.length < BLOCK) refuse('it ends');
  const name = field(header, 0, 100);
  if (name !== member.name) refuse(`holds ${JSON.stringify(name.slice(0, 100))}`);
  const type = field(header, 156, 1);
  if (type !== '0' && type !== '') refuse(`its entry is of type ${JSON.stringify(type)}`);
  if (field(header, 157, 100) !== '' || field(header, 345, 155) !== '') refuse('its entry names a link or a folder');
  const size = field(header, 124, 12).trim();
  if (!/^[0-7]{1,11}$/.test(size) || Number.parseInt(size, 8) !== member.bytes) refuse(`its entry has another size`);
}

/** Text up to the first NUL; what follows must be NUL too, or two readers could read two names. */
function field(header: Uint8Array, offset: number, length: number): string {
  const bytes = Buffer.from(header.subarray(offset, offset + length));
  const end = bytes.indexOf(0);
  if (end !== -1 && bytes.subarray(end).some((byte) => byte !== 0)) return '\u0000';
  return bytes.subarray(0, end === -1 ? length : end).toString('latin1');
}

async function copyMember(file: FileHandle, start: number, member: Member, output: FileHandle): Promise<void> {
  const hash = createHash('sha256');
  for (let done = 0; done < member.bytes; done += CHUNK) {
    const chunk = await readExactly(file, Math.min(CHUNK, member.bytes - done), start + done);
    hash.update(chunk);
    await output.writeFile(chunk);
  }
  if (hash.digest('hex') !== member.sha256) {
    throw new VmferryError(
      'ForbiddenMember',
      `${member.name} in the config archive has another digest than its record says`,
    );
  }
}
