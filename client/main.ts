#!/usr/bin/env node
/** Entry of the command line. */
import { enableCompileCache } from 'node:module';
import { homedir } from 'node:os';
import { join } from 'node:path';

// Before anything else is loaded, because it saves half of the time of `vmferry help`. In the user's own folder, because
// what lies there is run: Node's default is under /tmp, where another user may be first.
enableCompileCache(join(process.env['XDG_CACHE_HOME'] || join(homedir(), '.cache'), 'vmferry', 'compiled'));
const [{ run }, { systemClock }] = await Promise.all([import('./cli.ts'), import('./session.ts')]);

const interrupt = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  // The second one finds no handler and ends the process.
  process.once(signal, () => interrupt.abort());
}
// The reader of a pipe left, as `head` does: there is nobody to write to any more.
process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 0 : 1));

const { argv, env, stdin, stdout, stderr } = process;
process.exit(await run(argv.slice(2), { stdin, stdout, stderr, env, clock: systemClock, interrupt: interrupt.signal }));
