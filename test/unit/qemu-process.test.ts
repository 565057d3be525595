import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { copyFile, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { processAlive } from '../../activities/exec/process-identity.ts';
import { qemuProcesses, qemuProcessOf } from '../../activities/hypervisor/qemu-process.ts';

test('A QEMU is found by the UUID in its command line, and is gone when it is killed', async () => {
  const uuid = randomUUID();
  assert.equal(await qemuProcessOf(uuid), null);
  const folder = await mkdtemp(join(tmpdir(), 'vmferry-process-'));
  // A name that looks like the fields behind it in /proc/PID/stat.
  const program = join(folder, 'q) Z 1 2');
  await copyFile('/bin/bash', program);
  const args = ['-name', 'guest=web,,1,debug-threads=on', '-machine', 'q35', '-uuid', uuid];
  const child = spawn(program, ['-c', 'echo ready; while :; do read -t 1000 <> <(:); done', ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  try {
    await once(child.stdout, 'data');
    const found = await qemuProcessOf(uuid);
    assert.ok(found);
    const { startTime, ...rest } = found;
    assert.deepEqual(rest, { pid: child.pid, instanceId: uuid, name: 'web,1' });
    assert.ok((await qemuProcesses()).some(({ instanceId }) => instanceId === uuid));
    assert.equal(await processAlive(found), true);
    assert.equal(await processAlive({ ...found, startTime: startTime + 1 }), false, 'the pid was given to another');
    child.kill('SIGKILL');
    await once(child, 'exit');
    assert.equal(await processAlive(found), false);
    assert.equal(await qemuProcessOf(uuid), null);
  } finally {
    child.kill('SIGKILL');
    await rm(folder, { recursive: true });
  }
});

test('Other programs that speak of a UUID are not taken for its QEMU', async () => {
  const uuid = randomUUID();
  const child = spawn('bash', ['-c', 'echo ready; read -t 100 <> <(:)', '-uuid', uuid]);
  try {
    await once(child.stdout, 'data');
    assert.equal(await qemuProcessOf(uuid), null);
  } finally {
    child.kill('SIGKILL');
  }
});

test('What is left of a process that nobody has asked after is not alive', async () => {
  // Its parent, having become another program, never asks.
  const parent = spawn('bash', ['-c', 'sleep 100 & echo $!; exec sleep 100'], { stdio: ['ignore', 'pipe', 'inherit'] });
  try {
    const [line] = (await once(parent.stdout, 'data')) as [Buffer];
    const pid = Number(line.toString());
    const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
    const startTime = Number(stat.split(' ')[21]);
    assert.equal(await processAlive({ pid, startTime }), true);
    process.kill(pid, 'SIGKILL');
    while (!(await readFile(`/proc/${pid}/stat`, 'utf8')).includes(') Z ')) await sleep(5);
    assert.equal(await processAlive({ pid, startTime }), false);
  } finally {
    parent.kill('SIGKILL');
  }
});
