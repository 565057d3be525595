import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { copyFile, sha256File } from '../../activities/disk/copy.ts';

let folder: string;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'vmferry-copy-'));
});
after(() => rm(folder, { recursive: true }));

const work = (signal = new AbortController().signal) => {
  const seen: [number, number][] = [];
  return { signal, onProgress: (done: number, total: number) => void seen.push([done, total]), seen };
};

test('A copy has the same bytes, is for its owner alone and replaces what was there', async () => {
  const from = join(folder, 'from');
  const to = join(folder, 'to');
  const content = randomBytes(9 * 2 ** 20 + 123);
  await writeFile(from, content);
  await writeFile(to, Buffer.alloc(20 * 2 ** 20, 7), { mode: 0o644 });
  const progress = work();
  await copyFile({ from, to, work: progress });
  assert.ok((await readFile(to)).equals(content));
  assert.equal((await stat(to)).mode & 0o777, 0o600);
  assert.deepEqual(progress.seen.at(-1), [content.length, content.length]);
});

test('Zeros take no room in a copy', async () => {
  const from = join(folder, 'sparse');
  const to = join(folder, 'sparse-copy');
  await writeFile(from, randomBytes(1000));
  await truncate(from, 64 * 2 ** 20);
  await copyFile({ from, to, work: work() });
  const { size, blocks } = await stat(to);
  assert.equal(size, 64 * 2 ** 20);
  assert.ok(blocks * 512 < 2 ** 20, `${blocks * 512} bytes on disk`);
  assert.ok((await readFile(to)).equals(await readFile(from)));
});

test('A copy and a digest end with the reason of their signal', async () => {
  const from = join(folder, 'from');
  const reason = new Error('cancelled');
  const signal = AbortSignal.abort(reason);
  await assert.rejects(
    copyFile({ from, to: join(folder, 'aborted'), work: work(signal) }),
    (error) => error === reason,
  );
  assert.equal(existsSync(join(folder, 'aborted')), false);
  await assert.rejects(sha256File(from, work(signal)), (error) => error === reason);
});

test('A digest is that of the content', async () => {
  const path = join(folder, 'digest');
  const content = randomBytes(3 * 2 ** 20 + 1);
  await writeFile(path, content);
  const progress = work();
  assert.equal(await sha256File(path, progress), createHash('sha256').update(content).digest('hex'));
  assert.deepEqual(progress.seen.at(-1), [content.length, content.length]);
});

test('What is missing is said', async () => {
  await assert.rejects(copyFile({ from: join(folder, 'no'), to: join(folder, 'x'), work: work() }), { code: 'ENOENT' });
});
