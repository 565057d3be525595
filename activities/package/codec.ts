/** One piece of a stream into the content of one segment, and back. One-shot zstd, a frame for each piece. */
import { promisify } from 'node:util';
import { constants, zstdCompress, zstdDecompress, type ZstdOptions } from 'node:zlib';
import { VmferryError } from '../../workflows/failures.ts';
import { SEGMENT_BYTES, type Encoding } from './format.ts';

const compress = promisify<Uint8Array, ZstdOptions, Buffer>(zstdCompress);
const decompress = promisify<Uint8Array, ZstdOptions, Buffer>(zstdDecompress);

/** A frame whose window exceeds one piece was not written by this format; a decoder must not allocate for it. */
const MAX_WINDOW_LOG = Math.log2(SEGMENT_BYTES);

/**
 * Most pieces of RAM shrink to a few of these. One for the whole piece would be allocated for each, however little of it
 * is used, and V8 collects garbage by what is allocated.
 */
const COMPRESSED_CHUNK_BYTES = 1024 * 1024;

/**
 * @param level of zstd, 1 to 19
 */
export async function encodePiece(piece: Uint8Array, encoding: Encoding, level: number): Promise<Uint8Array> {
  if (encoding.kind !== 'zstd') return piece;
  // Never ZSTD_c_nbWorkers: in Node 24 it damages output without an error (nodejs/node#59899, November 2026).
  return compress(piece, {
    params: { [constants.ZSTD_c_compressionLevel]: level },
    pledgedSrcSize: piece.length,
    chunkSize: COMPRESSED_CHUNK_BYTES,
  });
}

/**
 * @param bytes what the piece must have
 * @throws PackageMalformed if the content is anything else, without allocating more
 */
export async function decodePiece(content: Uint8Array, encoding: Encoding, bytes: number): Promise<Uint8Array> {
  let piece: Uint8Array;
  switch (encoding.kind) {
    case 'store':
      piece = content;
      break;
    case 'zstd':
      try {
        piece = await decompress(content, {
          params: { [constants.ZSTD_d_windowLogMax]: MAX_WINDOW_LOG },
          maxOutputLength: bytes,
          // One more than is needed: zlib allocates as much again once a chunk is full.
          chunkSize: bytes + 1024,
        });
      } catch (cause) {
        throw new VmferryError('PackageMalformed', `a segment is no zstd frame of ${bytes} bytes`, { cause });
      }
      break;
    case 'delta':
      throw new VmferryError('PackageMalformed', 'a stream is a delta; this version cannot apply one');
  }
  if (piece.length !== bytes) {
    throw new VmferryError('PackageMalformed', `a segment holds ${piece.length} bytes instead of ${bytes}`);
  }
  return piece;
}
