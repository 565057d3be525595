/** The hosts as processes: each lives with its PID 1, and comes back with another one. */
import { closeSync, openSync, readSync } from 'node:fs';
import { find } from '../../../infra/testbed/processes.ts';

interface Init {
  pid: number;
  /** Files of /proc. They are bound to this very process, not to its number. */
  alive: number;
  children: number;
}

export class Hosts {
  readonly names: readonly string[];
  readonly #testbed: string;
  readonly #inits = new Map<string, Init>();
  readonly #buffer = Buffer.alloc(64 * 1024);

  constructor(testbed: string, names: readonly string[]) {
    this.#testbed = testbed;
    this.names = names;
  }

  /** Looks for hosts that have been switched on. Dear while one is off (it reads every process), free otherwise. */
  survey(): void {
    for (const name of this.names) {
      if (this.#inits.has(name)) continue;
      const pid = find(this.#testbed, `${name}/host`)?.pid;
      if (pid === undefined) continue;
      try {
        const alive = openSync(`/proc/${pid}/schedstat`, 'r');
        this.#inits.set(name, { pid, alive, children: openSync(`/proc/${pid}/task/${pid}/children`, 'r') });
      } catch {
        // It ended at this moment.
      }
    }
  }

  /** PID 1 of a host, by the machine's numbers; null while it is off. */
  pid(name: string): number | null {
    return this.#inits.get(name)?.pid ?? null;
  }

  /** What PID 1 is the parent of: daemons, and every QEMU that libvirt has started. Empty while the host is off. */
  children(name: string): number[] {
    const init = this.#inits.get(name);
    if (!init) return [];
    try {
      // Of a dead process it fails, while the list is merely empty.
      readSync(init.alive, this.#buffer, 0, 1, 0);
      const bytes = readSync(init.children, this.#buffer, 0, this.#buffer.length, 0);
      return this.#buffer.toString('latin1', 0, bytes).trim().split(' ').filter(Boolean).map(Number);
    } catch {
      this.#forget(name, init);
      return [];
    }
  }

  close(): void {
    for (const [name, init] of this.#inits) this.#forget(name, init);
  }

  #forget(name: string, { alive, children }: Init): void {
    closeSync(alive);
    closeSync(children);
    this.#inits.delete(name);
  }
}
