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

/** How far the clocks of two hosts may differ. A signature from further in the future is refused. */
export const CLOCK_SKEW_MS = 10 * 60 * 1000;
