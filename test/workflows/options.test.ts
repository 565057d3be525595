import assert from 'node:assert/strict';
import { test } from 'node:test';
import { attemptsWithin } from '../../workflows/options.ts';

test('attempts fill the retry window with their waits: 0.5, 1, 2, 4, 8, 15, 15, … seconds', () => {
  const expected: [seconds: number, attempts: number][] = [
    [0, 1],
    [0.4, 1],
    [0.5, 2],
    [1.5, 3],
    [15, 5],
    [15.5, 6],
    [30.5, 7],
    [120, 12],
  ];
  for (const [seconds, attempts] of expected) assert.equal(attemptsWithin(seconds), attempts, `${seconds} s`);
});
