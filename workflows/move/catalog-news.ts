/** Tells the catalog how a move stands without anybody waiting for it: in order, and the newest word only. */
import { CancellationScope } from '@temporalio/workflow';
import type { ControlActivities } from '../contract.ts';

type Word = Omit<Parameters<ControlActivities['recordMove']>[0], 'moveId'>;

export class CatalogNews {
  readonly #send: (word: Word) => Promise<void>;
  #next: Word | null = null;
  #sending: Promise<void> | null = null;

  constructor(send: (word: Word) => Promise<void>) {
    this.#send = send;
  }

  tell(word: Word): void {
    this.#next = word;
    this.#sending ??= CancellationScope.nonCancellable(() => this.#run());
  }

  /** Resolves when nothing is left to tell. */
  async told(): Promise<void> {
    await this.#sending;
  }

  async #run(): Promise<void> {
    while (this.#next) {
      const word = this.#next;
      this.#next = null;
      // The catalog refused the word; the next one, or the end of the move, sets it right.
      await this.#send(word).catch(() => undefined);
    }
    this.#sending = null;
  }
}
