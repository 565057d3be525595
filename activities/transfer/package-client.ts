/** Fetches files from a peer's package server: pinned TLS, resumable by range, bounded memory. */
import { createWriteStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { Agent, request } from 'node:https';
import type { IncomingMessage } from 'node:http';
import { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { TLSSocket } from 'node:tls';
import type { HostRecord, SignedText } from '../../workflows/contract.ts';
import { VmferryError } from '../../workflows/failures.ts';
import { asNoSpace, exists } from '../records/durable.ts';
import type { HostKeys } from '../trust/keys.ts';
import { RECORD_HEADER, samePem } from './endpoint.ts';

/** A connection without a byte for this long is taken for dead. */
const IDLE_MS = 15_000;

export class PeerClient {
  readonly #peer: HostRecord;
  readonly #agent: Agent;
  readonly #selfRecord: SignedText;
  #address: string | undefined;

  /** @param peer verified record of the host to fetch from */
  constructor(peer: HostRecord, keys: HostKeys, selfRecord: SignedText) {
    this.#peer = peer;
    this.#selfRecord = selfRecord;
    this.#agent = new Agent({
      keepAlive: true,
      maxSockets: 4,
      key: keys.tls.key,
      cert: keys.tls.cert,
      minVersion: 'TLSv1.3',
      // The certificate is pinned, byte for byte, whatever it says of names and dates: see #ask.
      rejectUnauthorized: false,
      // A resumed session shows no certificate.
      maxCachedSessions: 0,
    });
  }

  /**
   * Fetches a file whole into memory.
   *
   * @throws HostUnreachable, PackageNotFound, PackageMalformed if it is larger than `limit` bytes
   */
  async fetchSmall(path: string, limit: number, signal: AbortSignal): Promise<Buffer> {
    const response = await this.#get(path, 0, signal);
    const parts: Buffer[] = [];
    let bytes = 0;
    for await (const part of response as AsyncIterable<Buffer>) {
      bytes += part.length;
      if (bytes > limit) {
        response.destroy();
        throw new VmferryError('PackageMalformed', `${path} of ${this.#peer.name} is larger than ${limit} bytes`);
      }
      parts.push(part);
    }
    return Buffer.concat(parts);
  }

  /**
   * Fetches a file to `target`, going on where a former attempt left it.
   *
   * @param bytes its exact length
   * @returns bytes that crossed the wire now
   */
  async fetchFile(
    path: string,
    target: string,
    bytes: number,
    signal: AbortSignal,
    onBytes: (count: number) => void,
  ): Promise<number> {
    const before = (await exists(target)) ? (await stat(target)).size : 0;
    if (before === bytes) return 0;
    const from = before < bytes ? before : 0;
    const response = await this.#get(path, from, signal);
    const start = response.statusCode === 206 ? from : 0;
    let received = 0;
    const meter = new Transform({
      transform(chunk: Buffer, _encoding, done) {
        received += chunk.length;
        onBytes(chunk.length);
        done(
          start + received > bytes ? new VmferryError('SegmentDamaged', `${path} is longer than ${bytes} bytes`) : null,
          chunk,
        );
      },
    });
    try {
      await pipeline(response, meter, createWriteStream(target, { flags: start > 0 ? 'r+' : 'w', start }), { signal });
    } catch (error) {
      signal.throwIfAborted();
      if (error instanceof VmferryError) throw error;
      const full = asNoSpace(error, target);
      throw full === error ? this.#unreachable(path, error) : full;
    }
    return received;
  }

  close(): void {
    this.#agent.destroy();
  }

  /** Tries the peer's addresses in their order, the one that answered last time first. */
  async #get(path: string, from: number, signal: AbortSignal): Promise<IncomingMessage> {
    const addresses = this.#address === undefined ? this.#peer.addresses : [this.#address, ...this.#peer.addresses];
    let failure: unknown;
    for (const address of addresses) {
      try {
        const response = await this.#ask(address, path, from, signal);
        this.#address = address;
        return this.#checkStatus(path, response);
      } catch (error) {
        signal.throwIfAborted();
        if (error instanceof VmferryError) throw error;
        failure = error;
      }
    }
    throw this.#unreachable(path, failure);
  }

  #ask(address: string, path: string, from: number, signal: AbortSignal): Promise<IncomingMessage> {
    return new Promise((resolve, reject) => {
      const outgoing = request(
        `https://${address}${path}`,
        {
          agent: this.#agent,
          signal,
          headers: {
            [RECORD_HEADER]: Buffer.from(this.#selfRecord).toString('base64'),
            ...(from > 0 && { range: `bytes=${from}-` }),
          },
        },
        (response) => {
          // Nothing that another peer says is looked at; what it was asked for is no secret.
          const certificate = (response.socket as TLSSocket).getPeerCertificate();
          if (certificate.raw && samePem(this.#peer.tlsCertificate, certificate.raw)) return resolve(response);
          outgoing.destroy(new Error(`${address} shows another certificate than the record of ${this.#peer.name}`));
        },
      );
      outgoing.setTimeout(IDLE_MS, () => outgoing.destroy(new Error(`no byte for ${IDLE_MS / 1000} s`)));
      outgoing.on('socket', (socket) => (socket as TLSSocket).setNoDelay(true));
      outgoing.on('error', reject);
      outgoing.end();
    });
  }

  #checkStatus(path: string, response: IncomingMessage): IncomingMessage {
    const status = response.statusCode ?? 0;
    if (status === 200 || status === 206) return response;
    response.resume();
    if (status === 404)
      throw new VmferryError('PackageNotFound', `host ${this.#peer.name} has nothing for this host at ${path}`);
    if (status === 403)
      throw new VmferryError('HostNotCertified', `host ${this.#peer.name} does not accept this host’s record`);
    throw new VmferryError('HostUnreachable', `host ${this.#peer.name} answered ${status} for ${path}`);
  }

  #unreachable(path: string, cause: unknown): VmferryError {
    const reason = cause instanceof Error ? cause.message : String(cause);
    return new VmferryError(
      'HostUnreachable',
      `cannot fetch ${path} from ${this.#peer.name} (${this.#peer.addresses.join(', ')}): ${reason}`,
      { cause },
    );
  }
}
