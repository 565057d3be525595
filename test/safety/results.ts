/** What the sweep has found so far: one JSON line for each case, kept so that an interrupted sweep can go on. */
import { existsSync, readFileSync } from 'node:fs';
import { appendFile, mkdir } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { Role } from './expectation.ts';
import type { Place } from './points.ts';
import type { Cell, Outcome } from './wave.ts';

export interface Result {
  fault: string;
  role: Role;
  point: string;
  /** Whose worker stood there: both hosts take the last step. */
  place: Place;
  end: string;
  /** From the strike to the end of the move. */
  seconds: number;
  why: string;
  /** Empty if all was as it must be. */
  problems: string[];
}

export class Results {
  readonly #path: string;
  readonly #byCell = new Map<string, Result>();

  private constructor(path: string) {
    this.#path = path;
  }

  /** Reads what is there, the newest word on each case. */
  static open(path: string): Results {
    const results = new Results(path);
    const text = existsSync(path) ? readFileSync(path, 'utf8') : '';
    for (const line of text.split('\n').filter((line) => line !== '')) {
      const result = JSON.parse(line) as Result;
      results.#byCell.set(key(result), result);
    }
    return results;
  }

  all(): Result[] {
    return [...this.#byCell.values()];
  }

  /** Has this case ended as it must? One that has not is tried again. */
  passed({ fault, role, point }: Cell): boolean {
    return (
      this.#byCell.get(key({ fault: fault.name, role, point: point.name, place: point.place }))?.problems.length === 0
    );
  }

  async add({ cell, end, seconds, why, problems }: Outcome): Promise<void> {
    const { fault, role, point } = cell;
    const { name, place } = point;
    const result: Result = { fault: fault.name, role, point: name, place, end, seconds, why, problems };
    this.#byCell.set(key(result), result);
    await mkdir(dirname(this.#path), { recursive: true });
    await appendFile(this.#path, `${JSON.stringify(result)}\n`);
  }
}

const key = ({ fault, role, point, place }: Pick<Result, 'fault' | 'role' | 'point' | 'place'>): string =>
  [fault, role, point, place].join('\n');
