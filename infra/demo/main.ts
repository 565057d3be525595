#!/usr/bin/env node
/**
 * `npm run demo [-- --keep] [--output jsonl]`: a virtual machine moves, with its RAM, between two hosts that share nothing.
 * Everything is done by the real client on real parts; what the report says is asked of the guest, of libvirt and of
 * qemu-img, not of vmferry.
 */
import { rmdirSync } from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Command, Option } from 'commander';
import { EXIT, VmferryError } from '../../workflows/failures.ts';
import { loadState, testbedDirectory } from '../testbed/state.ts';
import { Testbed } from '../testbed/testbed.ts';
import { Demo } from './demo.ts';
import { lastWords } from './last-words.ts';
import { report } from './report.ts';

interface Options {
  keep?: boolean;
  output: 'text' | 'jsonl';
}

const { keep = false, output } = new Command('demo')
  .description('Watch a running virtual machine move between two simulated hosts')
  .option('--keep', 'leave everything running afterwards, for looking around')
  .addOption(
    new Option('--output <form>', 'what is printed on standard output').choices(['text', 'jsonl']).default('text'),
  )
  .parse()
  .opts<Options>();

const say = (line: string): void => {
  (output === 'jsonl' ? process.stderr : process.stdout).write(`${line}\n`);
};
const emit = (event: object): void => {
  if (output === 'jsonl') process.stdout.write(`${JSON.stringify(event)}\n`);
};

const interruption = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    if (!interruption.signal.aborted) say('Interrupted.');
    interruption.abort();
  });
}

const given = process.env['VMFERRY_TESTBED'];
const directory = given || (await mkdtemp(join(tmpdir(), 'vmferry-demo-')));
if (given && (await loadState(testbedDirectory(given)))) {
  process.stderr.write(
    `demo: there is a testbed in ${given} already; the demo makes one of its own: unset VMFERRY_TESTBED\n`,
  );
  process.exit(EXIT.conflict);
}
const demo = new Demo({ directory, say, emit, signal: interruption.signal });
try {
  const summary = await demo.run();
  if (output === 'text') say(report(summary));
  await finish(lookAround(summary.instance, summary.uiUrl));
  emit(summary);
  process.exitCode = summary.ok ? EXIT.ok : EXIT.failure;
} catch (error) {
  const interrupted = interruption.signal.aborted;
  const message = interrupted ? 'interrupted' : error instanceof Error ? error.message : String(error);
  const defect = !interrupted && error instanceof Error && !(error instanceof VmferryError);
  process.stderr.write(`demo: ${defect ? error.stack : message}\n`);
  if (!interrupted && (await loadState(testbedDirectory(directory)))) {
    process.stderr.write(`\nThe logs say last:\n${lastWords(await Testbed.open(directory))}\n`);
  }
  await finish('\nWhat there is was left as it is. The logs of the hosts are in HOST/var/log, the others in log.');
  emit({ type: 'summary', ok: false, error: message });
  process.exitCode = interrupted ? EXIT.interrupted : EXIT.failure;
}

/** Leaves everything running if that was asked for, and nothing otherwise. */
async function finish(advice: string): Promise<void> {
  if (keep && !interruption.signal.aborted) {
    say(`${advice}\nEnd it:\n  VMFERRY_TESTBED=${directory} npm run testbed -- down`);
    return;
  }
  say('\nRemoving the testbed; `npm run demo -- --keep` leaves it, and the history with it.');
  await Testbed.down(directory);
  if (!given) rmdirIfThere(directory);
}

function rmdirIfThere(path: string): void {
  try {
    rmdirSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
}

function lookAround(instance: string, uiUrl: string): string {
  return `
Everything is still running. The history of the move:
  ${uiUrl}
Look around:
  export VMFERRY_TESTBED=${directory} VMFERRY_PROFILE=${join(directory, 'profile.toml')}
  npx vmferry list
  npx vmferry instances show ${instance}
  npm run testbed -- console ${instance}
  npm run testbed -- exec beta virsh list
  npx vmferry instances migrate ${instance} alpha`;
}
