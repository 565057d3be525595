/**
 * docs/known-failures.md is held to the tests: each of its rows links to files, and each of those has a test whose title
 * begins with the row's number. A number in a title that the page does not link is an error too.
 */
import assert from 'node:assert/strict';
import { existsSync, globSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { describe, test } from 'node:test';

const ROOT = join(import.meta.dirname, '../..');
const PAGE = join(ROOT, 'docs/known-failures.md');

/** Rows that decide whether a VM is lost, doubled or damaged. They must not disappear from the page. */
const REQUIRED = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 20, 26, 30, 31, 32, 33, 37, 38];

interface Row {
  number: number;
  cells: string[];
  /** Paths from the root of the repository. */
  files: string[];
}

function rowsOf(page: string): Row[] {
  return [...page.matchAll(/^\| f([0-9]+) \|(.*)\|$/gm)].map(([, number, rest = '']) => ({
    number: Number(number),
    cells: rest.split(/(?<!\\)\|/).map((cell) => cell.trim()),
    files: [...rest.matchAll(/\]\(\.\.\/([^)#]+)\)/g)].map(([, path = '']) => path),
  }));
}

/** Row numbers in the titles of a test file: `f5: f33: a move …`. */
function numbersIn(source: string): Set<number> {
  const titles = source.matchAll(/\b(?:it|test|describe)\(\s*['"`]((?:f[0-9]+: )+)/g);
  return new Set([...titles].flatMap(([, words = '']) => words.match(/[0-9]+/g)?.map(Number) ?? []));
}

describe('the page of known failures', () => {
  const rows = rowsOf(readFileSync(PAGE, 'utf8'));
  const numbered = new Map(
    globSync('test/**/*.ts', { cwd: ROOT, exclude: [relative(ROOT, import.meta.filename)] }).map((path) => [
      path,
      numbersIn(readFileSync(join(ROOT, path), 'utf8')),
    ]),
  );

  test('has one row for each failure, with what goes wrong, what holds here, and where that is shown', () => {
    const numbers = rows.map(({ number }) => number);
    assert.deepEqual(
      numbers,
      [...new Set(numbers)].sort((a, b) => a - b),
    );
    assert.deepEqual(
      REQUIRED.filter((number) => !numbers.includes(number)),
      [],
    );
    for (const { number, cells, files } of rows) {
      assert.equal(cells.length, 3, `f${number}`);
      for (const cell of cells) assert.ok(cell.length > 10, `f${number}: ${cell}`);
      assert.ok(files.length > 0, `f${number} links to no test`);
    }
  });

  for (const { number, files } of rows) {
    test(`links only to tests that carry the number: row ${number}`, () => {
      for (const file of files) {
        assert.ok(existsSync(join(ROOT, file)), `${file} is not there`);
        assert.ok(numbered.get(file)?.has(number), `no test of ${file} has a title that begins with f${number}:`);
      }
    });
  }

  test('knows every test that carries a number', () => {
    const linked = new Set(rows.flatMap(({ number, files }) => files.map((file) => `f${number} in ${file}`)));
    const carried = [...numbered].flatMap(([file, numbers]) => [...numbers].map((number) => `f${number} in ${file}`));
    assert.deepEqual(
      carried.filter((one) => !linked.has(one)),
      [],
    );
  });

  test('would notice a title without its row', () => {
    assert.deepEqual([...numbersIn(`it('f5: f33: both', …); test(\n  \`f7: \${x}\`, …)`)], [5, 33, 7]);
    assert.deepEqual([...numbersIn(`it('the row f5: is not at its beginning')`)], []);
  });
});
