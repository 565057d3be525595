/**
 * What a disk image says of itself, read by us before any other program opens it. A qcow2 header can name any file or
 * network address of the host as its base or as the place of its data, and QEMU would open it; so a header is believed
 * only when it is of the plain form that QEMU writes for an overlay or a stand-alone image.
 *
 * Layout: docs/interop/qcow2.txt of QEMU. All numbers are big-endian.
 */
import { open, type FileHandle } from 'node:fs/promises';
import { VmferryError } from '../../workflows/failures.ts';

export interface Qcow2Facts {
  version: 2 | 3;
  /** Size of the disk that a guest sees. */
  virtualBytes: number;
  clusterBytes: number;
  /** As it is written, which may be relative, or no file name at all. Null for a stand-alone image. */
  backingFile: string | null;
  /** Null if the header leaves it to be guessed. */
  backingFormat: string | null;
}

const MAGIC = 'QFI\xfb';
/** Enough for a header with all its extensions, which lie in the first cluster. */
const MAX_HEADER_BYTES = 64 * 1024;
const V2_HEADER_BYTES = 72;
const MAX_BACKING_NAME = 1023;

/** Other formats that would be taken for raw, and then show the guest nonsense. */
const OTHER_FORMATS: [magic: string, name: string][] = [
  ['KDMV', 'VMDK'],
  ['COWD', 'VMDK'],
  ['# Disk DescriptorFile', 'VMDK'],
  ['vhdxfile', 'VHDX'],
  ['conectix', 'VHD'],
  ['<<< ', 'VDI'],
  ['QED\0', 'QED'],
  ['LUKS\xba\xbe', 'LUKS'],
];

/** Incompatible features, by bit. The others change what a reader must do, in ways that we do not know. */
const FEATURE = {
  dirty: 1n << 0n,
  corrupt: 1n << 1n,
  externalData: 1n << 2n,
  compressionType: 1n << 3n,
  extendedL2: 1n << 4n,
};
const EXTENSION = { end: 0, backingFormat: 0xe2792aca, featureNames: 0x6803f857 } as const;

/** Does the file call itself qcow2? Anything else is raw to whoever reads it. */
export async function isQcow2(path: string): Promise<boolean> {
  return withFile(path, async (file) => (await readStart(file)).toString('latin1', 0, MAGIC.length) === MAGIC);
}

/** Throws `DiskMalformed` unless the file is a plain qcow2 image. */
export async function inspectQcow2(path: string): Promise<Qcow2Facts> {
  return withFile(path, async (file, bytes) => parseHeader(await readStart(file), bytes, path));
}

/**
 * Throws `ForeignBackingFile` unless the overlay's backing name is exactly this text, `DiskMalformed` if it does not name
 * its base's format, has another size, or is no plain qcow2 image.
 */
export async function checkOverlay(path: string, expected: { backing: string; virtualBytes: number }): Promise<void> {
  const { backingFile, backingFormat, virtualBytes } = await inspectQcow2(path);
  if (backingFile !== expected.backing) {
    const named = backingFile === null ? 'none' : JSON.stringify(backingFile.slice(0, 200));
    throw new VmferryError(
      'ForeignBackingFile',
      `disk ${path} names ${named} as its base instead of ${expected.backing}`,
    );
  }
  if (backingFormat !== 'qcow2' && backingFormat !== 'raw') {
    throw malformed(path, `its base is of format ${backingFormat === null ? 'unsaid' : JSON.stringify(backingFormat)}`);
  }
  if (virtualBytes !== expected.virtualBytes) {
    throw malformed(path, `it shows a disk of ${virtualBytes} bytes instead of ${expected.virtualBytes}`);
  }
}

/** A base image: stand-alone qcow2, or else raw. Throws `DiskMalformed` for anything else. */
export async function inspectImage(path: string): Promise<{ format: 'qcow2' | 'raw'; virtualBytes: number }> {
  return withFile(path, async (file, bytes) => {
    const start = await readStart(file);
    if (start.toString('latin1', 0, 4) === MAGIC) {
      const { backingFile, virtualBytes } = parseHeader(start, bytes, path);
      if (backingFile !== null)
        throw malformed(path, 'it is based on another file; `qemu-img convert` makes it stand alone');
      return { format: 'qcow2', virtualBytes };
    }
    const text = start.toString('latin1');
    const other = OTHER_FORMATS.find(([magic]) => text.startsWith(magic));
    if (other)
      throw malformed(
        path,
        `it is of format ${other[1]}; \`qemu-img convert -O qcow2\` makes it one that is understood`,
      );
    if (bytes === 0 || bytes % 512 !== 0)
      throw malformed(path, `it is neither qcow2 nor a raw disk: ${bytes} bytes are no sectors`);
    return { format: 'raw', virtualBytes: bytes };
  });
}

function parseHeader(header: Buffer, fileBytes: number, path: string): Qcow2Facts {
  if (header.length < V2_HEADER_BYTES || header.toString('latin1', 0, 4) !== MAGIC)
    throw malformed(path, 'it is not qcow2');
  const version = header.readUInt32BE(4);
  if (version !== 2 && version !== 3) throw malformed(path, `its version is ${version}`);
  const clusterBits = header.readUInt32BE(20);
  if (clusterBits < 9 || clusterBits > 21) throw malformed(path, `its clusters have 2^${clusterBits} bytes`);
  const clusterBytes = 2 ** clusterBits;
  const virtualBytes = safeNumber(header, 24, path, 'size');
  if (virtualBytes === 0 || virtualBytes % 512 !== 0) throw malformed(path, `its size is ${virtualBytes} bytes`);
  if (header.readUInt32BE(32) !== 0) throw malformed(path, 'it is encrypted');
  if (header.readUInt32BE(60) !== 0) throw malformed(path, 'it has internal snapshots');

  const table = (offsetAt: number, bytes: number, name: string): void => {
    const offset = safeNumber(header, offsetAt, path, name);
    const inside = offset >= clusterBytes && offset % clusterBytes === 0 && offset + bytes <= fileBytes;
    if (bytes > 0 && !inside) throw malformed(path, `its ${name} lies outside of the file`);
  };
  table(40, header.readUInt32BE(36) * 8, 'L1 table');
  table(48, header.readUInt32BE(56) * clusterBytes, 'refcount table');

  const headerBytes = version === 2 ? V2_HEADER_BYTES : parseVersion3(header, path);
  const firstCluster = header.subarray(0, clusterBytes);
  const { backingFormat, end } = parseExtensions(firstCluster, headerBytes, path);
  return { version, virtualBytes, clusterBytes, backingFile: parseBackingFile(firstCluster, end, path), backingFormat };
}

/** Answers the header's length. */
function parseVersion3(header: Buffer, path: string): number {
  if (header.length < 104) throw malformed(path, 'it ends within its header');
  const features = header.readBigUInt64BE(72);
  if (features & FEATURE.externalData) throw malformed(path, 'its data are in another file');
  if (features & FEATURE.corrupt) throw malformed(path, 'QEMU has marked it as corrupt');
  if (features & FEATURE.dirty) throw malformed(path, 'it was not closed; `qemu-img check -r all` repairs it');
  const unknown = features & ~(FEATURE.compressionType | FEATURE.extendedL2);
  if (unknown) throw malformed(path, `it needs unknown features 0x${unknown.toString(16)}`);
  if (header.readUInt32BE(96) > 6) throw malformed(path, 'its refcounts are wider than 64 bits');
  const headerBytes = header.readUInt32BE(100);
  if (headerBytes !== 104 && headerBytes !== 112) throw malformed(path, `its header claims ${headerBytes} bytes`);
  return headerBytes;
}

/** Answers also where the extensions end. */
function parseExtensions(header: Buffer, start: number, path: string): { backingFormat: string | null; end: number } {
  let backingFormat: string | null = null;
  for (let at = start; ;) {
    if (at + 8 > header.length) throw malformed(path, 'its header extensions have no end');
    const type = header.readUInt32BE(at);
    const length = header.readUInt32BE(at + 4);
    const next = at + 8 + Math.ceil(length / 8) * 8;
    if (type === EXTENSION.end) return { backingFormat, end: at + 8 };
    if (next > header.length) throw malformed(path, 'a header extension is longer than the header');
    if (type === EXTENSION.backingFormat) {
      if (backingFormat !== null) throw malformed(path, 'it names the format of its base twice');
      backingFormat = utf8(header.subarray(at + 8, at + 8 + length), path);
    } else if (type !== EXTENSION.featureNames) {
      throw malformed(path, `it has a header extension of type 0x${type.toString(16)}`);
    }
    at = next;
  }
}

function parseBackingFile(header: Buffer, extensionsEnd: number, path: string): string | null {
  const offset = safeNumber(header, 8, path, 'backing name');
  const length = header.readUInt32BE(16);
  if (offset === 0) {
    if (length !== 0) throw malformed(path, 'its backing name has a length but no place');
    return null;
  }
  if (length === 0 || length > MAX_BACKING_NAME || offset < extensionsEnd || offset + length > header.length) {
    throw malformed(path, 'its backing name lies outside of its header');
  }
  return utf8(header.subarray(offset, offset + length), path);
}

function safeNumber(header: Buffer, at: number, path: string, what: string): number {
  const value = header.readBigUInt64BE(at);
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw malformed(path, `its ${what} is ${value}`);
  return Number(value);
}

/** QEMU would cut a name at its first NUL, and so open another file than the one that was compared. */
function utf8(bytes: Buffer, path: string): string {
  try {
    if (!bytes.includes(0)) return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (error) {
    throw new VmferryError('DiskMalformed', `disk ${path}: a name in its header is not UTF-8`, { cause: error });
  }
  throw malformed(path, 'a name in its header holds a NUL');
}

async function withFile<T>(path: string, read: (file: FileHandle, bytes: number) => Promise<T>): Promise<T> {
  const file = await open(path, 'r');
  try {
    return await read(file, (await file.stat()).size);
  } finally {
    await file.close();
  }
}

async function readStart(file: FileHandle): Promise<Buffer> {
  const buffer = Buffer.alloc(MAX_HEADER_BYTES);
  let done = 0;
  while (done < buffer.length) {
    const { bytesRead } = await file.read(buffer, done, buffer.length - done, done);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return buffer.subarray(0, done);
}

function malformed(path: string, why: string): VmferryError {
  return new VmferryError('DiskMalformed', `disk ${path}: ${why}`);
}
