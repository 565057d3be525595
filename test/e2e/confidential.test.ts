import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { once } from 'node:events';
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { cannotRun, Pool, type Guest } from '../support/pool.ts';

/** Does the file hold the text anywhere? */
async function holds(path: string, text: string): Promise<boolean> {
  let rest = '';
  for await (const chunk of createReadStream(path, { encoding: 'latin1', highWaterMark: 1024 * 1024 })) {
    const part = rest + String(chunk);
    if (part.includes(text)) return true;
    rest = part.slice(-text.length);
  }
  return false;
}

async function filesThatHold(folder: string, text: string): Promise<string[]> {
  const found: string[] = [];
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    if (entry.isFile() && (await holds(path, text))) found.push(path);
  }
  return found;
}

describe('nobody but the two hosts sees the guest', { skip: cannotRun }, () => {
  let pool: Pool;
  let guest: Guest;

  before(async () => {
    pool = await Pool.up();
    guest = await pool.spawn('alpha', 'secretive');
  });
  after(() => pool.down());

  it('f32: leaves no trace of a marker in RAM and on disk in Temporal, in the catalog or on the wire', async () => {
    const marker = `marker-${randomBytes(16).toString('hex')}`;
    await pool.testbed.guestGet('alpha', guest.ip, `/marker?text=${marker}`);
    const capture = join(pool.testbed.directory, 'wire.pcap');
    // Everything that beta gets or sends passes its port of the bridge.
    const listen = ['tcpdump', '-i', 'beta', '-s', '0', '-U', '-Z', 'root', '-w', capture] as const;
    const [program, ...args] = pool.testbed.enter('wan', listen);
    const tcpdump = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'] });
    await once(tcpdump.stderr, 'data'); // it says that it listens

    const held = await pool.hold('alpha', 'buildPackage', 'after');
    const move = pool.cli('instances', 'migrate', guest.id, 'beta');
    await held.reached();
    // The search must be able to find it: the save file on alpha holds it in clear.
    const moves = pool.testbed.outside('alpha', '/var/lib/vmferry/moves');
    assert.ok((await filesThatHold(moves, marker)).some((path) => path.endsWith('/snapshot')));
    await held.release();
    assert.equal((await move).exitCode, 0);
    await sleep(500);
    tcpdump.kill('SIGINT');
    await once(tcpdump, 'exit');

    assert.ok((await stat(capture)).size > 10_000_000, 'the capture holds the move');
    assert.ok(!(await holds(capture, marker)), 'the wire carries no clear text');
    for (const part of ['temporal', 'postgres']) {
      const folder = join(pool.testbed.directory, part);
      assert.ok((await readdir(folder)).length > 0, `${folder} is where ${part} keeps its data`);
      assert.deepEqual(await filesThatHold(folder, marker), []);
    }
    // Sealed packages too are ciphertext.
    for (const host of ['alpha', 'beta']) {
      assert.deepEqual(await filesThatHold(pool.testbed.outside(host, '/var/lib/vmferry/packages'), marker), []);
    }
    const kept = await pool.testbed.guestGet('beta', guest.ip, '/marker');
    assert.deepEqual(kept, { ram: marker, disk: marker }, 'the guest still has it, in RAM and on its disk');
  });
});
