/** What goes through the links of a testbed, found out from its hosts. `wan` is Temporal's place between them. */
import assert from 'node:assert/strict';
import { run, type RunResult } from '../../activities/exec/run.ts';
import type { Testbed } from '../../infra/testbed/testbed.ts';

const on = (testbed: Testbed, where: string, command: readonly [string, ...string[]]): Promise<RunResult> => {
  const [program, ...args] = testbed.enter(where, command);
  return run(program, args, { okExitCodes: [0, 1, 124] });
};

/** Where a party is reached. */
export async function addressOf(testbed: Testbed, party: string): Promise<string> {
  if (party === 'wan') return testbed.temporalAddress.split(':')[0] ?? '';
  const { stdout } = await testbed.exec(testbed.hosts[0] ?? '', ['getent', 'hosts', party]);
  return stdout.split(/\s/)[0] ?? '';
}

/** Megabits a second that `bytes` take from one party to another. */
export async function measure(testbed: Testbed, from: string, to: string, bytes: number): Promise<number> {
  const receiver = `
    require('node:net').createServer((socket) => {
      let bytes = 0; let begin;
      socket.on('data', (data) => { begin ??= process.hrtime.bigint(); bytes += data.length; });
      socket.on('end', () => {
        process.stdout.write(String((bytes * 8e3) / Number(process.hrtime.bigint() - begin)));
        process.exit();
      });
    }).listen(9000);`;
  const sender = `
    const socket = require('node:net').connect(9000, process.argv[1], () => socket.end(Buffer.alloc(Number(process.argv[2]))));
    socket.on('error', () => process.exit(1));`;
  const receiving = on(testbed, to, ['timeout', '60', process.execPath, '-e', receiver]);
  const send = ['timeout', '50', process.execPath, '-e', sender, await addressOf(testbed, to), String(bytes)] as const;
  for (let tries = 0; (await on(testbed, from, send)).exitCode !== 0; tries++) {
    assert.ok(tries < 50, `${to} does not listen`);
  }
  return Number((await receiving).stdout);
}

export async function connects(testbed: Testbed, from: string, to: string, seconds = 2): Promise<boolean> {
  const script = 'exec 3<>"/dev/tcp/$0/9"';
  const probe = ['timeout', String(seconds), 'bash', '-c', script, await addressOf(testbed, to)] as const;
  const { exitCode, stderr } = await on(testbed, from, probe);
  // Nobody listens there; that the host says so shows that it is reached.
  return exitCode === 0 || stderr.includes('Connection refused');
}

/** A neighbour that was sought in vain while the cable was out is sought again after a few seconds. */
export async function connectsAgain(testbed: Testbed, from: string, to: string): Promise<void> {
  for (const deadline = Date.now() + 15_000; !(await connects(testbed, from, to));) {
    assert.ok(Date.now() < deadline, `${from} does not reach ${to}`);
  }
}

/** Does `to` hear what `from` says, be there an answer or not? They must have met before. */
export async function hears(testbed: Testbed, from: string, to: string): Promise<boolean> {
  const receiver = `
    require('node:dgram').createSocket('udp4').on('message', () => process.exit()).bind(9001, () => console.log('listens'));`;
  const sender = 'for i in {1..15}; do echo hello >"/dev/udp/$0/9001"; sleep 0.2; done';
  const receiving = on(testbed, to, ['timeout', '4', process.execPath, '-e', receiver]);
  await on(testbed, from, ['bash', '-c', sender, await addressOf(testbed, to)]);
  return (await receiving).exitCode === 0;
}
