/** Segments sealed and opened under one session key, in a thread of their own. */
import { randomBytes } from 'node:crypto';
import { Worker } from 'node:worker_threads';
import { workerFile } from './worker-file.ts';

/** 32 random bytes: AES-256, for every segment of one package. */
export const newSessionKey = (): Uint8Array => new Uint8Array(randomBytes(32));

export type CipherJob = { id: number; data: Uint8Array<ArrayBuffer> } & (
  | { kind: 'seal' }
  | { kind: 'open'; sha256: string }
  /** Opens whatever its digest is: to look at what an earlier attempt of our own left. */
  | { kind: 'try' }
);

export interface CipherAnswer {
  id: number;
  /** Missing if the digest differs or there is a failure. */
  data?: Uint8Array<ArrayBuffer>;
  /** Of the sealed segment. */
  sha256: string;
  failure?: unknown;
}

/**
 * The thread's heap needs 20 MB. V8 collects dead buffers outside the heap only once they exceed half of this limit, so a
 * low one is what bounds the copies that OpenPGP.js makes (measured in November 2026: 100 MiB less than by default).
 */
const MAX_HEAP_MB = 48;

/** Holds a thread: `close` it. */
export class SegmentCipher {
  readonly #worker: Worker;
  readonly #waiting = new Map<number, PromiseWithResolvers<CipherAnswer>>();
  #next = 0;
  #ended: Error | undefined;

  constructor(sessionKey: Uint8Array) {
    this.#worker = new Worker(workerFile('cipher-worker', import.meta.url), {
      workerData: sessionKey,
      resourceLimits: { maxOldGenerationSizeMb: MAX_HEAP_MB },
    });
    this.#worker.on('message', (answer: CipherAnswer) => {
      this.#waiting.get(answer.id)?.resolve(answer);
      this.#waiting.delete(answer.id);
    });
    this.#worker.on('error', (error: Error) => this.#fail(error));
    this.#worker.on('exit', () => this.#fail(new Error('the cipher thread has ended')));
  }

  /** Takes the buffer away from the caller. */
  async seal(data: Uint8Array<ArrayBuffer>): Promise<{ sealed: Uint8Array<ArrayBuffer>; sha256: string }> {
    const answer = await this.#ask({ id: this.#next++, kind: 'seal', data });
    if (!answer.data) throw answer.failure;
    return { sealed: answer.data, sha256: answer.sha256 };
  }

  /**
   * Decrypts a segment if its digest is the given one. Takes the buffer away from the caller.
   *
   * @returns the digest found, and the content if it is the right one and decrypts
   */
  async open(data: Uint8Array<ArrayBuffer>, sha256: string): Promise<Omit<CipherAnswer, 'id'>> {
    return this.#ask({ id: this.#next++, kind: 'open', data, sha256 });
  }

  /** Decrypts whatever decrypts. Takes the buffer away from the caller. */
  async try(data: Uint8Array<ArrayBuffer>): Promise<Omit<CipherAnswer, 'id'>> {
    return this.#ask({ id: this.#next++, kind: 'try', data });
  }

  async close(): Promise<void> {
    await this.#worker.terminate();
  }

  async #ask(job: CipherJob): Promise<CipherAnswer> {
    if (this.#ended) throw this.#ended;
    const waiting = Promise.withResolvers<CipherAnswer>();
    this.#waiting.set(job.id, waiting);
    this.#worker.postMessage(job, [job.data.buffer]);
    return waiting.promise;
  }

  #fail(error: Error): void {
    this.#ended ??= error;
    for (const waiting of this.#waiting.values()) waiting.reject(error);
    this.#waiting.clear();
  }
}
