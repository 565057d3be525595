import { ErrorCode, ErrorDomain } from './constants.ts';
import type { NativeFailure } from './native.ts';

/**
 * libvirt said no. `code` is one of {@link ErrorCode}, `domain` one of {@link ErrorDomain} (the part of libvirt that
 * reported it), `level` 1 for a warning and 2 for an error; `call` names the method. The message is libvirt's own.
 */
export class LibvirtError extends Error {
  override readonly name = 'LibvirtError';
  readonly call: string;
  readonly code: number;
  readonly domain: number;
  readonly level: number;

  constructor(call: string, failure: NativeFailure) {
    super(failure.message);
    this.call = call;
    this.code = failure.code;
    this.domain = failure.domain;
    this.level = failure.level;
  }

  /**
   * The connection is gone, or could not be made. Whether the call took effect is then unknown: look before you try
   * again, on a new connection. (Code INTERNAL_ERROR alone would be too broad: only from the RPC layer it means this.)
   */
  get connectionLost(): boolean {
    const { INTERNAL_ERROR, SYSTEM_ERROR, RPC, NO_CONNECT, INVALID_CONN } = ErrorCode;
    const lost: readonly number[] = [INTERNAL_ERROR, SYSTEM_ERROR, RPC, NO_CONNECT];
    return (this.domain === ErrorDomain.RPC && lost.includes(this.code)) || this.code === INVALID_CONN;
  }
}

/** Is this libvirt saying one of these codes? */
export function isLibvirtError(error: unknown, ...codes: ErrorCode[]): error is LibvirtError {
  return error instanceof LibvirtError && (codes.length === 0 || (codes as number[]).includes(error.code));
}
