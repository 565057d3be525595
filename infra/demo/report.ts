/** The demo's report for people. */
import { MOVE_STEPS } from '../../workflows/contract.ts';
import type { Summary } from './demo.ts';
import { RATE } from './demo.ts';

/** One screen: what happened, how long it took, and the evidence. */
export function report(summary: Summary): string {
  const { before, after, from, to } = summary;
  const order = (step: string): number => (MOVE_STEPS as readonly string[]).indexOf(step);
  const steps = Object.entries(summary.stepSeconds).sort(([one], [other]) => order(one) - order(other));
  const longest = Math.max(...steps.map(([, seconds]) => seconds), 0.001);
  const bar = (seconds: number): string => '█'.repeat(Math.round((seconds / longest) * 30));
  const same = (one: string, other: string): string => (one === other ? 'the same' : `NOT the same: ${other}`);
  return [
    '',
    summary.ok
      ? `The instance ${summary.instance} has moved from ${from} to ${to}.`
      : 'THE MOVE DID NOT KEEP ITS PROMISES.',
    '',
    'Seconds per step',
    ...steps.map(([step, seconds]) =>
      `  ${step.padEnd(16)} ${seconds.toFixed(2).padStart(6)}  ${bar(seconds)}`.trimEnd(),
    ),
    '',
    `  Blackout ${summary.blackoutSeconds.toFixed(2)} s, the whole move ${summary.totalSeconds.toFixed(2)} s`,
    `  ${megabytes(summary.wireBytes)} on the wire at ${RATE.replace('mbit', ' Mbit/s')}, package ${megabytes(summary.packageBytes)}`,
    '',
    'The guest says',
    `  counter    ${before.counter} on ${before.host}, ${after.counter} on ${after.host}`,
    `  RAM token  ${before.token} before, ${same(before.token, after.token)} after`,
    `  boot id    ${before.bootId} before, ${same(before.bootId, after.bootId)} after`,
    '',
    'libvirt and qemu-img say',
    `  running on ${summary.runningOn.join(', ') || 'no host'}, known on ${summary.definedOn.join(', ') || 'no host'}`,
    `  disk       ${summary.diskCheck}`,
    '',
    `The move in the Temporal UI: ${summary.uiUrl}`,
  ].join('\n');
}

const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`;
