/** Random choices that follow from a seed, on every machine alike. */
import { uniformFloat64 } from 'pure-rand/distribution/uniformFloat64';
import { uniformInt } from 'pure-rand/distribution/uniformInt';
import { xoroshiro128plus } from 'pure-rand/generator/xoroshiro128plus';

export class Random {
  readonly #generator;

  /** Of one seed there are as many independent streams as one likes. */
  constructor(seed: number, stream: number) {
    this.#generator = xoroshiro128plus((seed * 1_000_003 + stream) | 0);
  }

  /** From `least` to `most`, not whole. */
  between(least: number, most: number): number {
    return least + uniformFloat64(this.#generator) * (most - least);
  }

  /** True once in `times`. */
  once(times: number): boolean {
    return uniformInt(this.#generator, 1, times) === 1;
  }

  pick<T>(from: readonly [T, ...T[]] | readonly T[]): T {
    if (from.length === 0) throw new RangeError('there is nothing to pick from');
    return from[uniformInt(this.#generator, 0, from.length - 1)] as T;
  }
}
