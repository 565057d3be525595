/** The sweep's results as a page for people: fault × step → how it ended, and how long that took. */
import { readFile } from 'node:fs/promises';
import { writeDurable } from '../../activities/records/durable.ts';
import { allCells } from './cells.ts';
import { STRUCK_ACTIVITIES } from './points.ts';
import type { Result } from './results.ts';

const BEGIN = '<!-- made by `npm run test:safety`: begin -->';
const END = '<!-- made by `npm run test:safety`: end -->';

/** Puts the table where the page has its place for it. */
export async function updatePage(path: string, results: readonly Result[]): Promise<void> {
  const page = await readFile(path, 'utf8');
  const [begin, end] = [page.indexOf(BEGIN), page.indexOf(END)];
  if (begin < 0 || end < begin) throw new Error(`${path} has no place for the table`);
  await writeDurable(path, `${page.slice(0, begin + BEGIN.length)}\n\n${table(results)}\n\n${page.slice(end)}`);
}

/** One line for each fault and role; in each step the ends of its points, and the longest time to one of them. */
function table(results: readonly Result[]): string {
  const rows = new Map<string, Result[]>();
  for (const { fault, role } of allCells()) rows.set(rowName(fault.name, role), []);
  for (const result of results) rows.get(rowName(result.fault, result.role))?.push(result);
  const lines = [...rows].map(([name, cases]) => {
    const cells = STRUCK_ACTIVITIES.map((activity) =>
      cell(cases.filter(({ point }) => point.startsWith(`${activity}.`))),
    );
    return `| ${name} | ${cells.join(' | ')} |`;
  });
  const bad = results.filter(({ problems }) => problems.length > 0);
  return [
    `${results.length} of ${allCells().length} cases were run; ${results.length - bad.length} ended as they must.`,
    '',
    `| fault | ${STRUCK_ACTIVITIES.map((name) => `\`${name}\``).join(' | ')} |`,
    `|${'---|'.repeat(STRUCK_ACTIVITIES.length + 1)}`,
    ...lines,
    ...bad.flatMap(({ fault, role, point, problems }) => [
      '',
      `- **${fault}**, ${role}, \`${point}\`: ${problems.join('; ')}`,
    ]),
  ].join('\n');
}

const rowName = (fault: string, role: string): string => (role === 'shared' ? fault : `${fault} (${role})`);

function cell(cases: readonly Result[]): string {
  if (cases.length === 0) return '';
  const ends = [...new Set(cases.map(({ end, problems }) => (problems.length > 0 ? `✖ ${end}` : end)))];
  return `${ends.join(', ')} ${Math.ceil(Math.max(...cases.map(({ seconds }) => seconds)))} s`;
}
