/** A verdict in words, with what it rests on. */
import type { History, Violation } from './history.ts';
import { viewOf, when } from './rules/view.ts';

export function describeVerdict(history: History, violations: readonly Violation[]): string {
  const { hosts, instances, disturbances, qemus, packages, looks, from, to } = history;
  const seconds = Math.round((to - from) / 1000);
  const lines = [
    `${instances.length} instances on ${hosts.join(', ')} for ${seconds} s: ${qemus.length} QEMU processes, ` +
      `${packages.length} packages, ${disturbances.length} disturbances`,
    `looked ${looks.count} times, the longest pause was ${Math.round(looks.longestPause)} ms; ` +
      `the observers took ${((looks.cpuMillis / Math.max(1, to - from)) * 100).toFixed(1)} % of one processor`,
  ];
  for (const instance of instances) {
    const path: string[] = [];
    for (const { life } of viewOf(history, instance).runs) if (path.at(-1) !== life.host) path.push(life.host);
    lines.push(`  ${instance.name} (${instance.id}): ${path.join(' → ') || 'never seen to run'}`);
  }
  if (violations.length === 0) return [...lines, 'no violation'].join('\n');
  lines.push(`${violations.length} violations:`);
  for (const { invariant, at, text } of violations) lines.push(`  [${invariant}] ${when(history, at)}  ${text}`);
  return lines.join('\n');
}
