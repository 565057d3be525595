/** The outer form of a segment, judged before any OpenPGP parser sees it. */

/**
 * Is this exactly one Symmetrically Encrypted and Integrity Protected Data packet, version 2, AES-256, GCM, that ends where
 * the data ends? AEAD alone would let an older version pass under the same key, and a parser would take padding and
 * further packets (RFC 9580 sections 4.2 and 5.13.2). Its length may be one number or, as OpenPGP.js writes it, a
 * sequence of partial ones.
 */
export function isSealed(data: Uint8Array): boolean {
  if (data[0] !== 0xd2) return false; // packet type 18 in the current format
  let body: number | undefined;
  for (let position = 1; ;) {
    const length = readLength(data, position);
    if (!length) return false;
    body ??= position + length.header;
    position += length.header + length.bytes;
    if (position > data.length) return false;
    if (length.partial) continue;
    const [version, cipher, aead, chunk] = data.subarray(body, body + 4);
    return (
      position === data.length && version === 2 && cipher === 9 && aead === 3 && chunk !== undefined && chunk <= 16
    );
  }
}

/** A length in the current format (RFC 9580 section 4.2.1); null where the data ends. */
function readLength(data: Uint8Array, position: number): { header: number; bytes: number; partial: boolean } | null {
  const [first, second, ...rest] = data.subarray(position, position + 5);
  if (first === undefined) return null;
  if (first < 192) return { header: 1, bytes: first, partial: false };
  if (first >= 224 && first < 255) return { header: 1, bytes: 2 ** (first - 224), partial: true };
  if (second === undefined) return null;
  if (first < 224) return { header: 2, bytes: (first - 192) * 256 + second + 192, partial: false };
  if (rest.length < 3) return null;
  return { header: 5, bytes: rest.reduce((number, byte) => number * 256 + byte, second), partial: false };
}
