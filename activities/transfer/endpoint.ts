/** What package server and package client agree on: HTTPS with both certificates pinned by certified host records. */

/** Request header: the caller's certified record, base64. The server believes it only if the pool key signed it and the TLS connection was made with the certificate in it. */
export const RECORD_HEADER = 'vmferry-record';

/** Paths below `https://host:port`. */
export const path = {
  envelope: (packageId: string): string => `/v1/packages/${packageId}/envelope`,
  segment: (packageId: string, stream: string, index: number): string =>
    `/v1/packages/${packageId}/segments/${stream}/${index}`,
  image: (imageId: string, file: 'disk.img' | 'kernel' | 'initrd'): string => `/v1/images/${imageId}/${file}`,
};

/** Is this the very certificate that the record names? Compares DER, never names. */
export function samePem(pem: string, der: Uint8Array): boolean {
  const body = pem.replace(/-----(BEGIN|END) CERTIFICATE-----/g, '').replace(/\s/g, '');
  return Buffer.from(body, 'base64').equals(der);
}
