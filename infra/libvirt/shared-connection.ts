import { Connection, type OpenOptions } from './connection.ts';
import type { CloseReason } from './constants.ts';
import { LibvirtError } from './error.ts';

/** Calls that may take longer than a moment; they belong on a connection of their own. */
export type LongCall =
  | 'domainSave'
  | 'domainSaveParams'
  | 'domainRestore'
  | 'domainRestoreParams'
  | 'domainSnapshotCreateXML'
  | 'domainCreate'
  | 'domainCreateXML'
  | 'domainDestroy'
  | 'domainSetTime'
  | 'domainAgentCommand';

/** What a shared connection offers: all that answers in a moment. */
export type ShortCalls = Omit<Connection, LongCall | 'close'>;

/**
 * The one connection of a process for short calls and for events. Opened when first used, thrown away when libvirtd has
 * gone, and opened anew on next use; a call that was lost on the way is not repeated, since it may have taken effect.
 */
export class SharedConnection {
  readonly #uri: string;
  readonly #options: OpenOptions;
  #current: Promise<Connection> | null = null;

  /** `onClose` tells that the connection was lost, and with it whatever events there are until the next use. */
  constructor(uri: string, options: OpenOptions = {}) {
    this.#uri = uri;
    this.#options = options;
  }

  async use<T>(call: (connection: ShortCalls) => Promise<T>): Promise<T> {
    const current = (this.#current ??= this.#open());
    try {
      return await call(await current);
    } catch (error) {
      if (error instanceof LibvirtError && error.connectionLost) await this.#discard(current);
      throw error;
    }
  }

  /** It may be used again afterwards, and then opens anew. */
  async close(): Promise<void> {
    if (this.#current) await this.#discard(this.#current);
  }

  #open(): Promise<Connection> {
    const opening: Promise<Connection> = Connection.open(this.#uri, {
      ...this.#options,
      onClose: (reason: CloseReason) => {
        void this.#discard(opening);
        this.#options.onClose?.(reason);
      },
    });
    opening.catch(() => this.#discard(opening)); // the next use tries again
    return opening;
  }

  async #discard(lost: Promise<Connection>): Promise<void> {
    if (this.#current === lost) this.#current = null;
    const connection = await lost.catch(() => null); // it was never opened: whoever waits for it is told
    await connection?.close();
  }
}
