/** The one way in which vmferry uses OpenPGP.js: RFC 9580, v6 keys, SEIPDv2 with AES-256-GCM, nothing older. */
import { enums, type PartialConfig } from 'openpgp';

export const PROFILE = {
  v6Keys: true,
  aeadProtect: true,
  preferredAEADAlgorithm: enums.aead.gcm,
  preferredCompressionAlgorithm: enums.compression.uncompressed,
  // 4 MiB, the largest that RFC 9580 allows: measurably faster than the default, and still two chunks per segment.
  aeadChunkSizeByte: 16,
  // Nothing of ours is compressed by OpenPGP; hostile input must not be able to make us decompress it.
  maxDecompressedMessageSize: 0,
  ignoreUnsupportedPackets: false,
  ignoreMalformedPackets: false,
  showVersion: false,
  showComment: false,
} as const satisfies PartialConfig;

/**
 * The moment at which keys and signatures are judged: after each of them. No key of ours expires, and what is over is over by
 * what another statement says, never by a date. A host whose clock is wrong must not hold up what it has released.
 */
export const JUDGING_DATE = new Date('9999-12-31T23:59:59Z');
