/**
 * libvirt's save file: what is in front of QEMU's migration stream.
 *
 *   0    16 bytes: `LibvirtQemudPart` while it is written, `LibvirtQemudSave` when complete
 *   16   u32: version (2), data length, was running, compressed, cookie offset; 14 more, spare
 *   92   domain XML, NUL; at 92 + cookie offset the cookie, NUL; zeros
 *   92 + data length: QEMU's stream
 *
 * libvirt leaves 64 KiB of zeros, so that a longer XML fits and the stream stays where it is: a header is rewritten in
 * place whatever the size of the RAM behind it. Numbers are in the byte order of the host that saved; we read
 * little-endian only, which is what every supported architecture has.
 */
import { open, type FileHandle } from 'node:fs/promises';
import { VmferryError } from '../../workflows/failures.ts';
import { createOnce, exists } from '../records/durable.ts';
import { MAX_XML_BYTES, parseXml, rootOf } from './xml.ts';

const HEADER_BYTES = 92;
const MAGIC_BYTES = 16;
const COMPLETE = 'LibvirtQemudSave';
const PARTIAL = 'LibvirtQemudPart';
const STREAM_MAGIC = 'QEVM';
const MAX_DATA_BYTES = 2 * MAX_XML_BYTES + 64 * 1024;
/** Field offsets. */
const AT = { version: 16, dataLength: 20, wasRunning: 24, compressed: 28, cookieOffset: 32 } as const;

export interface SaveHeader {
  /** Domain XML, as libvirt will use it for the restore. */
  xml: string;
  /** libvirt's own notes for the restore, notably the CPU as QEMU really showed it; null in old files. */
  cookie: string | null;
  /** The guest's vCPUs ran when it was saved. */
  wasRunning: boolean;
  /** Bytes between the header and the stream: room for XML and cookie with a NUL each. */
  dataLength: number;
  /** Where QEMU's stream begins. */
  streamOffset: number;
}

/**
 * `complete` says that all of the RAM is in the file, not that the source is dead: libvirt ends QEMU afterwards.
 * Throws `SaveFileMalformed` for a file of another kind.
 */
export async function saveFileState(path: string): Promise<'absent' | 'partial' | 'complete'> {
  let file: FileHandle;
  try {
    file = await open(path, 'r');
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return 'absent';
    throw error;
  }
  try {
    const magic = (await readAt(file, 0, MAGIC_BYTES)).toString('latin1');
    if (magic === COMPLETE) return 'complete';
    // libvirt may have created the file and not yet written to it.
    if (PARTIAL.startsWith(magic)) return 'partial';
    throw malformed(path, 'it does not begin as libvirt’s save files do');
  } finally {
    await file.close();
  }
}

/** Throws `SaveFileMalformed` unless the file is complete, and of a form that libvirt 9 writes without compression. */
export async function readSaveHeader(path: string): Promise<SaveHeader> {
  const file = await open(path, 'r');
  try {
    const block = await readHeaderBlock(file, path);
    const stream = await readAt(file, block.length, STREAM_MAGIC.length);
    if (stream.toString('latin1') !== STREAM_MAGIC) throw malformed(path, 'no QEMU stream follows its header');
    return parseHeaderBlock(block, path);
  } finally {
    await file.close();
  }
}

/**
 * Puts another domain XML in the header, in place and durably; the cookie and the stream stay. Throws
 * `SaveFileMalformed`, with the file unchanged, if the XML does not fit: RAM is never overwritten.
 *
 * May be repeated, also after a crash in the middle: the first call keeps the original header beside the file (`.header`),
 * and every call starts from that. Whoever puts another save file under the same name removes that copy as well.
 */
export async function rewriteSaveHeader(path: string, xml: string): Promise<void> {
  const original = await originalHeaderBlock(path);
  const { cookie } = parseHeaderBlock(original, path);
  parseXml(xml, `the new domain XML for ${path}`, 'SaveFileMalformed');
  if (cookie !== null) checkCookie(cookie, path);
  const block = buildHeaderBlock(original, xml, cookie, path);
  const file = await open(path, 'r+');
  try {
    await writeAt(file, 0, block);
    await file.sync();
  } finally {
    await file.close();
  }
}

/** From the copy beside the file, made now if there is none. */
async function originalHeaderBlock(path: string): Promise<Buffer> {
  const keptAt = `${path}.header`;
  if (!(await exists(keptAt))) {
    await readSaveHeader(path);
    const file = await open(path, 'r');
    try {
      await createOnce(keptAt, await readHeaderBlock(file, path));
    } finally {
      await file.close();
    }
  }
  const kept = await open(keptAt, 'r');
  try {
    return await readHeaderBlock(kept, keptAt);
  } finally {
    await kept.close();
  }
}

/** Header and data area as they are, of a complete file. */
async function readHeaderBlock(file: FileHandle, path: string): Promise<Buffer> {
  const header = await readAt(file, 0, HEADER_BYTES);
  if (header.length < HEADER_BYTES) throw malformed(path, 'it ends within its header');
  const magic = header.toString('latin1', 0, MAGIC_BYTES);
  if (magic === PARTIAL) throw malformed(path, 'it is not complete');
  if (magic !== COMPLETE) throw malformed(path, 'it does not begin as libvirt’s save files do');
  const version = header.readUInt32LE(AT.version);
  if (version !== 2) throw malformed(path, `its version is ${version} instead of 2`);
  if (header.readUInt32LE(AT.compressed) !== 0) {
    throw malformed(
      path,
      'libvirt compressed it; leave save_image_format in qemu.conf at "raw", packages are compressed anyway',
    );
  }
  const dataLength = header.readUInt32LE(AT.dataLength);
  if (dataLength > MAX_DATA_BYTES) throw malformed(path, `it claims ${dataLength} bytes of XML`);
  const block = await readAt(file, 0, HEADER_BYTES + dataLength);
  if (block.length < HEADER_BYTES + dataLength) throw malformed(path, 'it ends within its domain XML');
  return block;
}

function parseHeaderBlock(block: Buffer, path: string): SaveHeader {
  const dataLength = block.readUInt32LE(AT.dataLength);
  const cookieOffset = block.readUInt32LE(AT.cookieOffset);
  const data = block.subarray(HEADER_BYTES);
  if (cookieOffset > dataLength) throw malformed(path, 'its cookie lies outside of its data');
  return {
    xml: textUpToNul(cookieOffset === 0 ? data : data.subarray(0, cookieOffset), path, 'domain XML'),
    cookie: cookieOffset === 0 ? null : textUpToNul(data.subarray(cookieOffset), path, 'cookie'),
    wasRunning: block.readUInt32LE(AT.wasRunning) !== 0,
    dataLength,
    streamOffset: block.length,
  };
}

function buildHeaderBlock(original: Buffer, xml: string, cookie: string | null, path: string): Buffer {
  const xmlBytes = Buffer.from(`${xml}\0`);
  const cookieBytes = cookie === null ? Buffer.alloc(0) : Buffer.from(`${cookie}\0`);
  const block = Buffer.alloc(original.length);
  original.copy(block, 0, 0, HEADER_BYTES);
  if (HEADER_BYTES + xmlBytes.length + cookieBytes.length > block.length) {
    throw malformed(path, `a domain XML of ${xmlBytes.length} bytes does not fit in front of its RAM`);
  }
  xmlBytes.copy(block, HEADER_BYTES);
  cookieBytes.copy(block, HEADER_BYTES + xmlBytes.length);
  block.writeUInt32LE(cookie === null ? 0 : xmlBytes.length, AT.cookieOffset);
  return block;
}

/** The cookie reaches libvirt as it came, so it may hold what libvirt 9 writes there and nothing else. */
function checkCookie(cookie: string, path: string): void {
  const root = rootOf(parseXml(cookie, `the cookie of ${path}`, 'SaveFileMalformed'));
  if (root.nodeName !== 'cookie') throw malformed(path, `its cookie is <${root.nodeName}>`);
  const known = { cpu: ['model', 'vendor', 'feature', 'topology', 'maxphysaddr'], slirpHelper: [] } as Record<
    string,
    string[]
  >;
  for (const child of root.children) {
    const inner = known[child.nodeName];
    if (!inner) throw malformed(path, `its cookie holds <${child.nodeName}>`);
    for (const { nodeName } of child.children) {
      if (!inner.includes(nodeName)) throw malformed(path, `its cookie holds <${nodeName}> in <${child.nodeName}>`);
    }
  }
}

function textUpToNul(bytes: Buffer, path: string, what: string): string {
  const end = bytes.indexOf(0);
  if (end < 0) throw malformed(path, `its ${what} has no end`);
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes.subarray(0, end));
  } catch (error) {
    throw new VmferryError('SaveFileMalformed', `save file ${path}: its ${what} is not UTF-8`, { cause: error });
  }
}

/** As many bytes as there are, up to `length`. */
async function readAt(file: FileHandle, position: number, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length);
  let done = 0;
  while (done < length) {
    const { bytesRead } = await file.read(buffer, done, length - done, position + done);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return buffer.subarray(0, done);
}

async function writeAt(file: FileHandle, position: number, data: Buffer): Promise<void> {
  let done = 0;
  while (done < data.length) {
    done += (await file.write(data, done, data.length - done, position + done)).bytesWritten;
  }
}

function malformed(path: string, why: string): VmferryError {
  return new VmferryError('SaveFileMalformed', `save file ${path}: ${why}`);
}
