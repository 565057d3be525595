/**
 * Where a command's words go: data on stdout, everything about the work on stderr. In the JSON forms prose vanishes;
 * jsonl adds one tagged object per event to stdout. Fields may be added later, never given another meaning.
 */
import type { Explanation } from './failure.ts';

export const FORMATS = ['text', 'json', 'jsonl'] as const;
export type Format = (typeof FORMATS)[number];

/** The part of a writable stream that is used, so that tests can collect. */
export interface Sink {
  write(text: string): unknown;
  isTTY?: boolean | undefined;
  columns?: number | undefined;
}

export interface Column<Row> {
  title: string;
  value: (row: Row) => string;
  align?: 'left' | 'right';
}

/** Rows of one kind: a table for people, objects for programs. */
export interface Section<Row extends object = object> {
  /** Singular; the `type` of each row in jsonl. */
  kind: string;
  /** Plural; the key in json when there are several sections, the title in text. */
  title: string;
  rows: Row[];
  columns: Column<Row>[];
}

/** Declares a section with its row type checked, then forgets it, so that sections of several types fit one listing. */
export function section<Row extends object>(of: Section<Row>): Section {
  return of as unknown as Section;
}

export class Output {
  readonly format: Format;
  readonly #stdout: Sink;
  readonly #stderr: Sink;

  constructor(options: { format: Format; stdout: Sink; stderr: Sink }) {
    this.format = options.format;
    this.#stdout = options.stdout;
    this.#stderr = options.stderr;
  }

  /** May a line on stderr be drawn again and again? */
  get live(): boolean {
    return this.format === 'text' && this.#stderr.isTTY === true;
  }

  /** Width of the terminal. */
  get columns(): number {
    return this.#stderr.columns ?? 80;
  }

  /** The result of a command: its sentence, or its data. */
  answer(text: string, data: object): void {
    if (this.format === 'text') this.#stdout.write(`${text}\n`);
    else if (this.format === 'json') this.#stdout.write(`${JSON.stringify(data, null, 2)}\n`);
    else this.#line({ type: 'result', ...data });
  }

  /** The result of a listing command. */
  listing(...sections: Section[]): void {
    const first = sections[0];
    if (this.format === 'text') {
      const tables = sections.map((of) =>
        [...(sections.length > 1 ? [`${capital(of.title)}:`] : []), ...table(of.rows, of.columns)].join('\n'),
      );
      this.#stdout.write(`${tables.join('\n\n')}\n`);
    } else if (this.format === 'json') {
      const data = sections.length === 1 ? first?.rows : Object.fromEntries(sections.map((of) => [of.title, of.rows]));
      this.#stdout.write(`${JSON.stringify(data, null, 2)}\n`);
    } else {
      for (const of of sections) for (const row of of.rows) this.#line({ type: of.kind, ...row });
    }
  }

  /** Something that happened on the way; only jsonl tells it. */
  event(type: string, facts: object): void {
    if (this.format === 'jsonl') this.#line({ type, ...facts });
  }

  /** A remark for people, on stderr. */
  note(text: string): void {
    if (this.format === 'text') this.#stderr.write(`${text}\n`);
  }

  /** Words that the user must see whatever the format, such as a question. */
  ask(text: string): void {
    this.#stderr.write(text);
  }

  /** Draws the line at the bottom of the terminal anew; an empty text clears it. Only when `live`. */
  status(text: string): void {
    if (this.live) this.#stderr.write(`\r${text.slice(0, Math.max(0, this.columns - 1))}\u001b[K`);
  }

  /** The end of a command that failed. */
  failure(explanation: Explanation): void {
    if (this.format === 'text') {
      const advice = explanation.advice === '' ? '' : `${explanation.advice}\n`;
      this.#stderr.write(`vmferry: ${explanation.message}\n${advice}`);
    } else {
      this.#stderr.write(`${JSON.stringify(explanation)}\n`);
    }
  }

  #line(data: object): void {
    this.#stdout.write(`${JSON.stringify(data)}\n`);
  }
}

function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** Lines of a table whose columns are as wide as their longest cell. */
export function table<Row>(rows: Row[], columns: Column<Row>[]): string[] {
  if (rows.length === 0) return ['(none)'];
  const cells = [
    columns.map(({ title }) => title.toUpperCase()),
    ...rows.map((row) => columns.map(({ value }) => value(row))),
  ];
  const widths = columns.map((_, index) => Math.max(...cells.map((line) => line[index]?.length ?? 0)));
  return cells.map((line) =>
    line
      .map((cell, index) => {
        const width = widths[index] ?? 0;
        return columns[index]?.align === 'right' ? cell.padStart(width) : cell.padEnd(width);
      })
      .join('  ')
      .trimEnd(),
  );
}

/** `key: value` lines with the values under one another. */
export function fields(pairs: [string, string | null | undefined][]): string {
  const shown = pairs.filter((pair): pair is [string, string] => pair[1] !== null && pair[1] !== undefined);
  const width = Math.max(0, ...shown.map(([key]) => key.length));
  return shown.map(([key, value]) => `${`${key}:`.padEnd(width + 1)}  ${value}`).join('\n');
}
