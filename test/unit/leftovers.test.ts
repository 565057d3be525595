import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdtemp, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { it } from 'node:test';
import { removeLeftovers } from '../leftovers.ts';

it('removes the files that a test left, ends what it started, and nothing else', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'vmferry-leftovers-'));
  await writeFile(join(folder, 'file'), '');
  const sleeper = (directory: string): ChildProcess =>
    spawn('sleep', ['60'], { env: { ...process.env, TMPDIR: directory } });
  const left = sleeper(folder);
  const other = sleeper(`${folder}-of-another`);
  try {
    await Promise.all([once(left, 'spawn'), once(other, 'spawn')]);
    const ended = once(left, 'exit');
    await removeLeftovers(folder);
    assert.deepEqual(await ended, [null, 'SIGKILL']);
    assert.equal(existsSync(folder), false);
    assert.equal(other.exitCode ?? other.signalCode, null);
  } finally {
    left.kill();
    other.kill();
  }
});
