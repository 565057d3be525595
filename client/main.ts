#!/usr/bin/env node
/** Entry of the command line. */
import { run } from './cli.ts';
import { systemClock } from './session.ts';

const interrupt = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  // The second one finds no handler and ends the process.
  process.once(signal, () => interrupt.abort());
}
// The reader of a pipe left, as `head` does: there is nobody to write to any more.
process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 0 : 1));

const { argv, env, stdin, stdout, stderr } = process;
process.exit(await run(argv.slice(2), { stdin, stdout, stderr, env, clock: systemClock, interrupt: interrupt.signal }));
