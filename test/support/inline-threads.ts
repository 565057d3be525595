/**
 * Runs the programs of worker threads in the thread that starts them: a new thread takes a tenth of a second to come up,
 * most of what a small package costs, and where a program runs is not what such a test is about. The programs are the real
 * ones; each is loaded anew with a port and data of its own, as in a thread.
 */
import { EventEmitter } from 'node:events';
import { registerHooks, syncBuiltinESMExports } from 'node:module';
import threads, { type Transferable } from 'node:worker_threads';

/** By number; the module that a program gets instead of `node:worker_threads` takes its own out of here. */
const started = new Map<string, { parentPort: Port; workerData: unknown }>();
const KEY = Symbol.for('vmferry.inline-threads');
const INSIDE = 'inline-thread';

class Port extends EventEmitter {
  other: EventEmitter | null = null;

  postMessage(message: unknown, transfer: Transferable[] = []): void {
    const copy: unknown = structuredClone(message, { transfer });
    setImmediate(() => this.other?.emit('message', copy));
  }
}

class InlineWorker extends Port {
  readonly #port = new Port();

  constructor(program: URL, { workerData }: { workerData: unknown }) {
    super();
    this.other = this.#port;
    this.#port.other = this;
    const number = String(started.size);
    started.set(number, { parentPort: this.#port, workerData: structuredClone(workerData) });
    const instance = new URL(program);
    instance.searchParams.set(INSIDE, number);
    import(instance.href).then(
      // One that waits for messages runs until it is terminated.
      () => this.#port.listenerCount('message') === 0 && this.emit('exit', 0),
      (error: unknown) => this.emit('error', error),
    );
  }

  terminate(): Promise<number> {
    this.#port.other = null;
    this.other = null;
    return Promise.resolve(0);
  }
}

/** From here on, for this process. */
export function runThreadsInline(): void {
  Reflect.set(globalThis, KEY, started);
  registerHooks({
    resolve(specifier, context, next) {
      const number = context.parentURL?.startsWith('file:') && new URL(context.parentURL).searchParams.get(INSIDE);
      if (specifier !== 'node:worker_threads' || !number) return next(specifier, context);
      const source = `const own = globalThis[Symbol.for(${JSON.stringify(KEY.description)})].get('${number}');
        export const { parentPort, workerData } = own;`;
      return { url: `data:text/javascript,${encodeURIComponent(source)}`, shortCircuit: true };
    },
  });
  Reflect.set(threads, 'Worker', InlineWorker);
  syncBuiltinESMExports();
}
