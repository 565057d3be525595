import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import {
  formatBytes,
  formatCapacity,
  formatFingerprint,
  formatSeconds,
  parseBytes,
  parseWhole,
  plainFingerprint,
} from '../../client/format.ts';
import { fields, Output, section, table } from '../../client/output.ts';
import type { Format } from '../../client/output.ts';

function collect(format: Format, terminal = false) {
  const written = { out: '', err: '' };
  const output = new Output({
    format,
    stdout: { write: (text) => (written.out += text) },
    stderr: { write: (text) => (written.err += text), isTTY: terminal, columns: 20 },
  });
  return { output, written };
}

const rows = [
  { id: 'a', bytes: 5 },
  { id: 'bcd', bytes: 1234 },
];
const things = section({
  kind: 'thing',
  title: 'things',
  rows,
  columns: [
    { title: 'id', value: ({ id }) => id },
    { title: 'size', value: ({ bytes }) => String(bytes), align: 'right' },
  ],
});

describe('output', () => {
  it('puts columns under their titles', () => {
    assert.deepEqual(table(rows, things.columns as never), ['ID   SIZE', 'a       5', 'bcd  1234']);
    assert.deepEqual(table([], []), ['(none)']);
  });

  it('answers in words or in data', () => {
    const data = { id: 'x' };
    const said = (['text', 'json', 'jsonl'] as const).map((format) => {
      const { output, written } = collect(format);
      output.answer('Thing x made', data);
      return written.out;
    });
    assert.deepEqual(said, ['Thing x made\n', '{\n  "id": "x"\n}\n', '{"type":"result","id":"x"}\n']);
  });

  it('lists one kind as an array and several by their names', () => {
    const { output, written } = collect('json');
    output.listing(things);
    assert.deepEqual(JSON.parse(written.out), rows);
    const both = collect('json');
    both.output.listing(things, section({ kind: 'other', title: 'others', rows: [], columns: [] }));
    assert.deepEqual(JSON.parse(both.written.out), { things: rows, others: [] });
    const text = collect('text');
    text.output.listing(things, section({ kind: 'other', title: 'others', rows: [], columns: [] }));
    assert.equal(text.written.out, 'Things:\nID   SIZE\na       5\nbcd  1234\n\nOthers:\n(none)\n');
  });

  it('tags each row and event in jsonl, and tells events nowhere else', () => {
    const { output, written } = collect('jsonl');
    output.listing(things);
    output.event('progress', { step: 'x' });
    assert.deepEqual(written.out.trim().split('\n'), [
      '{"type":"thing","id":"a","bytes":5}',
      '{"type":"thing","id":"bcd","bytes":1234}',
      '{"type":"progress","step":"x"}',
    ]);
    for (const format of ['text', 'json'] as const) {
      const other = collect(format);
      other.output.event('progress', {});
      assert.deepEqual(other.written, { out: '', err: '' });
    }
  });

  it('keeps remarks out of stdout, and out of everything in the JSON forms', () => {
    const text = collect('text');
    text.output.note('hm');
    assert.deepEqual(text.written, { out: '', err: 'hm\n' });
    const json = collect('json');
    json.output.note('hm');
    assert.deepEqual(json.written, { out: '', err: '' });
  });

  it('ends a failed command with a sentence and advice, or one JSON object, on stderr', () => {
    const explanation = { type: 'SameHost', message: 'It is there.', advice: 'Name another.', exit: 2 } as const;
    const text = collect('text');
    text.output.failure(explanation);
    assert.deepEqual(text.written, { out: '', err: 'vmferry: It is there.\nName another.\n' });
    for (const format of ['json', 'jsonl'] as const) {
      const { output, written } = collect(format);
      output.failure(explanation);
      assert.equal(written.out, '');
      assert.deepEqual(JSON.parse(written.err), explanation);
    }
  });

  it('draws a status line only on a terminal, cut to its width', () => {
    const terminal = collect('text', true);
    terminal.output.status('x'.repeat(50));
    assert.equal(terminal.written.err, `\r${'x'.repeat(19)}\u001b[K`);
    const pipe = collect('text');
    pipe.output.status('x');
    assert.equal(pipe.written.err, '');
    const json = collect('jsonl', true);
    json.output.status('x');
    assert.equal(json.written.err, '');
  });

  it('shows fields that have a value', () => {
    assert.equal(
      fields([
        ['Id', 'x'],
        ['Waiting for', null],
        ['Host', 'alpha'],
      ]),
      'Id:    x\nHost:  alpha',
    );
  });
});

describe('formats', () => {
  it('writes sizes as the histories of moves do, and what a guest sees in powers of 1024', () => {
    assert.deepEqual([0, 999, 1000, 41_234_567, 1e15].map(formatBytes), [
      '0 B',
      '999 B',
      '1.0 kB',
      '41.2 MB',
      '1000.0 TB',
    ]);
    assert.deepEqual([0, 1023, 2 ** 28, 1.5 * 2 ** 30].map(formatCapacity), ['0 B', '1023 B', '256.0 MiB', '1.5 GiB']);
  });

  it('reads sizes with and without unit', () => {
    const read = ['1048576', '256MiB', '1.5G', '512m', '2 GiB', '4KB'].map((text) => parseBytes(text, '--memory'));
    assert.deepEqual(read, [2 ** 20, 2 ** 28, 1.5 * 2 ** 30, 2 ** 29, 2 ** 31, 4096]);
    for (const wrong of ['', 'many', '-1G', '0', '1.0000001K', '1e9', '256MiBs']) {
      assert.throws(() => parseBytes(wrong, '--memory'), { type: 'InvalidInput', message: /--memory/ });
    }
  });

  it('reads whole numbers within their limits', () => {
    assert.equal(parseWhole('19', '--compression-level', 1, 19), 19);
    for (const wrong of ['0', '20', '1.5', '', '-1', '1e1', 'x']) {
      assert.throws(() => parseWhole(wrong, '--compression-level', 1, 19), { type: 'InvalidInput' });
    }
  });

  it('writes times as people say them', () => {
    assert.deepEqual([0.421, 12.34, 65, 3661].map(formatSeconds), ['0.42 s', '12.3 s', '1 min 05 s', '1 h 01 min']);
  });

  it('groups fingerprints for the eye and compares them without blanks and case', () => {
    const fingerprint = '0123456789ABCDEF'.repeat(4);
    const grouped = formatFingerprint(fingerprint);
    assert.equal(grouped.length, 2);
    assert.equal(grouped[0], '0123 4567 89AB CDEF 0123 4567 89AB CDEF');
    assert.equal(plainFingerprint(` ${grouped.join('\n').toLowerCase()}`), fingerprint);
  });
});
