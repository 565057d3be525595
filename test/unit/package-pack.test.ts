import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readFile, readdir, rename, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'node:test';
import { decodePiece } from '../../activities/package/codec.ts';
import { SEGMENT_BYTES, pieceBytes, segmentCount } from '../../activities/package/format.ts';
import {
  packConfig,
  packStream,
  piecePath,
  readPacked,
  readPackedMembers,
  type PackedStream,
} from '../../activities/package/pack.ts';
import { dieAt } from '../support/crash-points.ts';
import { temporary } from '../support/pool-hosts.ts';
import { refused } from '../support/refusals.ts';
import { unwatched } from '../support/sample-package.ts';

const NAME = 'snapshot';
const sample = Buffer.concat([
  Buffer.alloc(SEGMENT_BYTES, 'ferry'),
  randomBytes(100_000),
  Buffer.alloc(SEGMENT_BYTES),
  Buffer.of(1),
]);

const pack = (directory: string, level = 1): Promise<PackedStream> =>
  packStream({
    name: NAME,
    source: join(directory, 'source'),
    folder: join(directory, 'packed'),
    level,
    work: unwatched(),
  });

async function unpacked(directory: string): Promise<Buffer> {
  const packed = await readPacked(join(directory, 'packed'), NAME);
  assert.ok(packed);
  const pieces: Uint8Array[] = [];
  for (let index = 0; index < segmentCount(packed.bytes); index++) {
    const content = await readFile(piecePath(join(directory, 'packed'), NAME, index));
    pieces.push(await decodePiece(content, packed.encoding, pieceBytes(packed.bytes, index)));
  }
  return Buffer.concat(pieces);
}

/** Which file a name stands for; another number means that it was written anew. */
const inode = async (path: string): Promise<number> => (await stat(path)).ino;

await test('a stream is packed piece by piece and described', async (t) => {
  const directory = await temporary(t);
  await writeFile(join(directory, 'source'), sample);
  for (const level of [0, 1, 3]) {
    await writeFile(join(directory, 'source'), sample);
    const packed = await pack(directory, level);
    assert.equal(packed.bytes, sample.length);
    assert.equal(packed.sha256, createHash('sha256').update(sample).digest('hex'));
    assert.equal(packed.encoding.kind, level === 0 ? 'store' : 'zstd');
    assert.equal(Buffer.compare(await unpacked(directory), sample), 0);
    if (level > 0) assert.ok(packed.packedBytes < 200_000);
  }
});

await test('an empty stream has no pieces', async (t) => {
  const directory = await temporary(t);
  await writeFile(join(directory, 'source'), '');
  assert.equal((await pack(directory)).bytes, 0);
  assert.deepEqual(await readdir(join(directory, 'packed', NAME)), ['stream.json']);
});

await test('a stream that is packed already is left alone; one whose source changed is packed anew', async (t) => {
  const directory = await temporary(t);
  const source = join(directory, 'source');
  await writeFile(source, sample);
  const first = await pack(directory);
  const piece = piecePath(join(directory, 'packed'), NAME, 1);
  const before = await inode(piece);
  assert.deepEqual(await pack(directory), first);
  assert.equal(await inode(piece), before);

  const changed = Buffer.from(sample);
  changed[SEGMENT_BYTES + 5] = (changed[SEGMENT_BYTES + 5] ?? 0) ^ 1;
  await writeFile(source, changed);
  const second = await pack(directory);
  assert.notEqual(second.sha256, first.sha256);
  assert.equal(Buffer.compare(await unpacked(directory), changed), 0);
});

await test('whatever instant the packer dies at, the next one ends the work and keeps what is good', async (t) => {
  const directory = await temporary(t);
  await writeFile(join(directory, 'source'), sample);
  for (let count = 1; ; count++) {
    await rename(join(directory, 'packed'), join(directory, `packed-${count}`)).catch(() => undefined);
    const died = await dieAt(count, ['rename', 'datasync', 'sync'], () => pack(directory));
    // It may have died before there was a folder.
    const names = existsSync(join(directory, 'packed', NAME)) ? await readdir(join(directory, 'packed', NAME)) : [];
    const before = new Map<string, number>();
    for (const name of names.filter((name) => name.endsWith('.piece')))
      before.set(name, await inode(join(directory, 'packed', NAME, name)));
    await pack(directory);
    assert.equal(Buffer.compare(await unpacked(directory), sample), 0);
    for (const [name, number] of before)
      assert.equal(await inode(join(directory, 'packed', NAME, name)), number, `${name} was packed again`);
    if (!died) break;
  }
});

await test('f33: a piece that an earlier attempt left damaged, cut or from another source is not kept', async (t) => {
  const directory = await temporary(t);
  await writeFile(join(directory, 'source'), sample);
  await pack(directory);
  const path = (index: number): string => piecePath(join(directory, 'packed'), NAME, index);
  const right = await readFile(path(1));
  const wrong: Record<string, () => Promise<void>> = {
    damaged: () => writeFile(path(1), Buffer.concat([right.subarray(0, -1), Buffer.of((right.at(-1) ?? 0) ^ 1)])),
    cut: () => truncate(path(1), 10),
    empty: () => writeFile(path(1), ''),
    'of another piece': async () => writeFile(path(1), await readFile(path(0))),
    'no zstd at all': () => writeFile(path(1), randomBytes(100)),
  };
  for (const [name, damage] of Object.entries(wrong)) {
    await t.test(name, async () => {
      await damage();
      await writeFile(
        join(directory, 'packed', NAME, 'stream.json'),
        JSON.stringify({ ...(await readPacked(join(directory, 'packed'), NAME)), source: 'other' }),
      );
      await pack(directory);
      assert.equal(Buffer.compare(await unpacked(directory), sample), 0);
    });
  }
});

await test('packing ends soon when it is called off, with the reason', async (t) => {
  const directory = await temporary(t);
  await writeFile(join(directory, 'source'), '');
  await truncate(join(directory, 'source'), 20 * SEGMENT_BYTES);
  const controller = new AbortController();
  const reason = new Error('called off');
  const work = { signal: controller.signal, onProgress: () => controller.abort(reason) };
  const promise = packStream({
    name: NAME,
    source: join(directory, 'source'),
    folder: join(directory, 'packed'),
    level: 1,
    work,
  });
  await assert.rejects(promise, reason);
  assert.ok((await readdir(join(directory, 'packed', NAME))).length < 8);
});

await test('progress counts up to the whole stream', async (t) => {
  const directory = await temporary(t);
  await writeFile(join(directory, 'source'), sample);
  const told: number[] = [];
  const work = { signal: new AbortController().signal, onProgress: (done: number) => void told.push(done) };
  await packStream({
    name: NAME,
    source: join(directory, 'source'),
    folder: join(directory, 'packed'),
    level: 1,
    work,
  });
  assert.deepEqual(told, [SEGMENT_BYTES, 2 * SEGMENT_BYTES, sample.length]);
});

await test('what is missing or no file is refused by name', async (t) => {
  const directory = await temporary(t);
  await refused('FileNotFound', pack(directory));
  await mkdir(join(directory, 'source'));
  await refused('ForbiddenMember', pack(directory));
  const members = [{ name: 'libvirt.xml', path: join(directory, 'libvirt.xml') }] as const;
  await refused(
    'FileNotFound',
    packConfig({ members, folder: join(directory, 'packed'), level: 1, work: unwatched() }),
  );
});

await test('the config stream is packed anew when a member has changed, and only then', async (t) => {
  const directory = await temporary(t);
  const path = join(directory, 'libvirt.xml');
  const options = {
    members: [{ name: 'libvirt.xml', path }] as const,
    folder: join(directory, 'packed'),
    level: 1,
    work: unwatched(),
  };
  await writeFile(path, '<domain/>');
  const first = await packConfig(options);
  assert.deepEqual(await packConfig(options), first);
  await writeFile(path, '<domain>2</domain>');
  const second = await packConfig(options);
  assert.notEqual(second.sha256, first.sha256);
  assert.equal((await readPackedMembers(options.folder))?.[0]?.bytes, 18);
});
