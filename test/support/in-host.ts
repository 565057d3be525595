/** Test files that run within a simulated host, where libvirtd, /proc and the network are that host's own. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Testbed } from '../../infra/testbed/testbed.ts';

const INSIDE = 'VMFERRY_TEST_IN_HOST';

/** Why tests that need a simulated host cannot run here, or false. */
function missing(): string | false {
  if (process.getuid?.() !== 0) return 'simulated hosts need root';
  for (const program of ['/usr/sbin/libvirtd', '/usr/bin/qemu-system-x86_64', '/usr/sbin/nft']) {
    if (!existsSync(program)) return `there is no ${program}: run \`npm run setup\``;
  }
  return false;
}

/**
 * Called at the top of a test file: on the machine it makes one test, which starts a simulated host and runs the same file
 * there; within that host it calls `tests`.
 */
export function inSimulatedHost(title: string, file: string, tests: () => void): void {
  if (process.env[INSIDE]) return tests();
  let folder: string | undefined;
  after(async () => {
    if (folder === undefined) return;
    await Testbed.down(join(folder, 'testbed'));
    await rm(folder, { recursive: true, force: true });
  });
  test(title, { skip: missing(), timeout: 300_000 }, async () => {
    folder = await mkdtemp(join(tmpdir(), 'vmferry-in-host-'));
    const testbed = await Testbed.up({ hosts: 1, bare: true, directory: join(folder, 'testbed') });
    const node = [process.execPath, '--test-reporter=spec', '--test', fileURLToPath(file)];
    const [program = '', ...args] = testbed.enter('alpha', ['env', '-u', 'NODE_TEST_CONTEXT', `${INSIDE}=1`, ...node]);
    const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'inherit'] });
    let output = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
    const [code] = (await once(child, 'close')) as [number | null];
    console.log(output.trimEnd().replace(/^/gm, `    alpha │ `));
    assert.equal(code, 0, 'a test within the host failed');
    assert.match(output, /ℹ pass [1-9]/, 'no test ran within the host');
  });
}
