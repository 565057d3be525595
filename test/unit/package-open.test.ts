import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import {
  mkdir,
  open,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  symlink,
  truncate,
  unlink,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import fc from 'fast-check';
import { createMessage, encrypt } from 'openpgp';
import { SegmentCipher } from '../../activities/package/cipher.ts';
import { encodePiece } from '../../activities/package/codec.ts';
import { SEGMENT_BYTES, type OriginRecord, type Stream } from '../../activities/package/format.ts';
import { openPackage } from '../../activities/package/open.ts';
import { checkSegment, packageFacts, segmentPath, segmentsOf, verifyPackage } from '../../activities/package/verify.ts';
import { MEMBER } from '../../activities/records/layout.ts';
import { PROFILE } from '../../activities/trust/openpgp-profile.ts';
import type { FailureType } from '../../workflows/failures.ts';
import { dieAt } from '../support/crash-points.ts';
import { temporary, testPool } from '../support/pool-hosts.ts';
import { refused } from '../support/refusals.ts';
import { samplePackage, unwatched, type SamplePackage } from '../support/sample-package.ts';

interface World extends SamplePackage {
  target: string;
  /** Opens the package, as it lies there now, with another record if one is given. */
  open: (origin?: OriginRecord) => Promise<{ bytes: number }>;
  verify: () => Promise<unknown>;
}

async function world(t: TestContext): Promise<World> {
  const pool = await testPool(t);
  const sample = await samplePackage(await pool.host('alpha'), []);
  const { folder, sessionKey } = sample;
  const target = join(await temporary(t), 'staging');
  return {
    ...sample,
    target,
    open: (origin = sample.origin) => openPackage({ folder, origin, sessionKey, target, work: unwatched() }),
    verify: () => verifyPackage({ folder, origin: sample.origin, work: unwatched() }),
  };
}

const FILES = [MEMBER.snapshot, MEMBER.disk('vda'), MEMBER.domainXml, MEMBER.kernel, MEMBER.initrd];

async function assertOpened({ target, members }: World): Promise<void> {
  assert.deepEqual((await readdir(target)).sort(), [...FILES].sort());
  assert.equal(Buffer.compare(await readFile(join(target, MEMBER.snapshot)), members.snapshot), 0);
  assert.equal(Buffer.compare(await readFile(join(target, MEMBER.disk('vda'))), members.disk), 0);
  for (const [name, data] of Object.entries(members.files)) assert.deepEqual(await readFile(join(target, name)), data);
}

/** The record with one of its streams changed. */
const withStream = (origin: OriginRecord, name: string, change: (stream: Stream) => Partial<Stream>): OriginRecord => ({
  ...origin,
  streams: origin.streams.map((stream) => (stream.name === name ? { ...stream, ...change(stream) } : stream)),
});

const sha256 = (data: Uint8Array): string => createHash('sha256').update(data).digest('hex');

await test('a package opens to the files that it was made of', async (t) => {
  const w = await world(t);
  const { bytes } = await w.open();
  assert.equal(
    bytes,
    w.origin.streams.reduce((sum, stream) => sum + stream.bytes, 0),
  );
  await assertOpened(w);
});

await test('empty stretches of a guest’s memory take no space', async (t) => {
  const pool = await testPool(t);
  const snapshot = Buffer.concat([Buffer.alloc(3 * SEGMENT_BYTES), Buffer.of(1)]);
  const members = { snapshot, disk: Buffer.alloc(1), files: { [MEMBER.domainXml]: Buffer.from('<domain/>') } };
  const { folder, origin, sessionKey } = await samplePackage(await pool.host('alpha'), [], { members });
  const target = join(await temporary(t), 'staging');
  await openPackage({ folder, origin, sessionKey, target, work: unwatched() });
  const { size, blocks } = await stat(join(target, MEMBER.snapshot));
  assert.equal(size, snapshot.length);
  assert.ok(blocks * 512 < 1024 * 1024);
  assert.equal(sha256(await readFile(join(target, MEMBER.snapshot))), sha256(snapshot));
});

await test('f9: f32: whatever byte of whatever segment changes, it is found before anything is decrypted', async (t) => {
  const w = await world(t);
  const segments = [...segmentsOf(w.origin)];
  const cipher = new SegmentCipher(w.sessionKey);
  t.after(() => cipher.close());
  await fc.assert(
    fc.asyncProperty(
      fc.nat(segments.length - 1),
      fc.double({ min: 0, max: 1, noNaN: true }),
      fc.integer({ min: 1, max: 255 }),
      async (which, where, change) => {
        const segment = segments[which];
        assert.ok(segment);
        const path = segmentPath(w.folder, segment.place);
        const right = await readFile(path);
        const altered = Buffer.from(right);
        const position = Math.floor(where * (altered.length - 1));
        altered[position] = (altered[position] ?? 0) ^ change;
        await writeFile(path, altered);
        await refused('SegmentDamaged', checkSegment(path, segment.place, w.origin));
        await refused('SegmentDamaged', checkSegment(altered, segment.place, w.origin));
        await refused('SegmentDamaged', w.verify());
        const answer = await cipher.open(new Uint8Array(altered), segment.expected.sha256);
        assert.equal(answer.data, undefined);
        assert.equal(answer.failure, undefined, 'it was given to the decoder');
        await writeFile(path, right);
      },
    ),
    { numRuns: 25 },
  );
  await w.open();
});

const DAMAGE: Record<string, { type: FailureType; damage: (w: World) => Promise<void> }> = {
  'a flipped bit': {
    type: 'SegmentDamaged',
    damage: async (w) => {
      const file = await open(join(w.folder, 'snapshot', '000000.seg'), 'r+');
      const { buffer } = await file.read(Buffer.alloc(1), 0, 1, 5000);
      await file.write(Buffer.of((buffer[0] ?? 0) ^ 1), 0, 1, 5000);
      await file.close();
    },
  },
  'a truncated segment': {
    type: 'SegmentDamaged',
    damage: (w) => truncate(join(w.folder, 'snapshot', '000000.seg'), 5000),
  },
  'an extended segment': {
    type: 'SegmentDamaged',
    damage: (w) => writeFile(join(w.folder, 'snapshot', '000001.seg'), 'more', { flag: 'a' }),
  },
  'an empty segment': { type: 'SegmentDamaged', damage: (w) => truncate(join(w.folder, 'snapshot', '000000.seg'), 0) },
  'a missing segment': { type: 'SegmentDamaged', damage: (w) => unlink(join(w.folder, 'disk-vda', '000000.seg')) },
  'a missing stream': { type: 'SegmentDamaged', damage: (w) => rm(join(w.folder, 'disk-vda'), { recursive: true }) },
  'a segment that is a link': {
    type: 'ForbiddenMember',
    damage: async (w) => {
      const path = join(w.folder, 'snapshot', '000000.seg');
      await rename(path, join(w.target, '..', 'away'));
      await symlink(join(w.target, '..', 'away'), path);
    },
  },
  'a segment that is a folder': {
    type: 'ForbiddenMember',
    damage: async (w) => {
      await unlink(join(w.folder, 'snapshot', '000000.seg'));
      await mkdir(join(w.folder, 'snapshot', '000000.seg'));
    },
  },
};
for (const [name, { type, damage }] of Object.entries(DAMAGE)) {
  await test(`f9: ${name} is refused, by opening and by verifying`, async (t) => {
    const w = await world(t);
    await damage(w);
    await refused(type, w.open());
    await refused(type, w.verify());
    // Nothing has a name that restoring would look for, but what was whole.
    const left = await readdir(w.target);
    assert.ok(!left.includes(MEMBER.snapshot) || !left.includes(MEMBER.disk('vda')));
    assert.ok(left.every((file) => !file.endsWith('.partial')));
  });
}

await test('f32: segments of equal length that were exchanged are recognised as such', async (t) => {
  const pool = await testPool(t);
  // Incompressible pieces of equal size: AEAD alone would take one for the other.
  const members = {
    snapshot: randomBytes(2 * SEGMENT_BYTES),
    disk: Buffer.alloc(1),
    files: { [MEMBER.domainXml]: Buffer.from('<domain/>') },
  };
  const { folder, origin, sessionKey } = await samplePackage(await pool.host('alpha'), [], { members });
  const [one, two] = [join(folder, 'snapshot', '000000.seg'), join(folder, 'snapshot', '000001.seg')];
  assert.equal((await stat(one)).size, (await stat(two)).size);
  await rename(one, `${folder}-one`);
  await rename(two, one);
  await rename(`${folder}-one`, two);
  const target = join(await temporary(t), 'staging');
  await refused('SegmentMisplaced', openPackage({ folder, origin, sessionKey, target, work: unwatched() }));
  await refused('SegmentMisplaced', verifyPackage({ folder, origin, work: unwatched() }));
  await refused('SegmentMisplaced', checkSegment(two, { stream: 'snapshot', index: 1 }, origin));
  await refused('SegmentMisplaced', checkSegment(one, { stream: 'snapshot', index: 2 }, origin));
  await refused('SegmentMisplaced', checkSegment(one, { stream: 'disk-vdb', index: 0 }, origin));
});

await test('a segment that the disk does not give back is damaged', async (t) => {
  const { origin } = await world(t);
  // Reading it at address 0 gives EIO, as a bad sector does.
  const checking = checkSegment('/proc/self/mem', { stream: 'snapshot', index: 0 }, origin);
  await assert.rejects(checking, { type: 'SegmentDamaged', message: /cannot be read from the disk/ });
});

await test('f30: anything in the folder that the record does not list is refused by verifying', async (t) => {
  const w = await world(t);
  const more: Record<string, () => Promise<unknown>> = {
    'a segment too many': () => writeFile(join(w.folder, 'snapshot', '000002.seg'), 'x'),
    'a stream too many': () => mkdir(join(w.folder, 'disk-vdb')),
    'a file': () => writeFile(join(w.folder, 'libvirt.xml'), 'x'),
    'a link': () => symlink('/etc/passwd', join(w.folder, 'release.asc')),
  };
  for (const [name, add] of Object.entries(more)) {
    await t.test(name, async () => {
      const before = new Set(await readdir(w.folder, { recursive: true }));
      await add();
      await refused('ForbiddenMember', w.verify());
      for (const path of await readdir(w.folder, { recursive: true })) {
        if (!before.has(path)) await rm(join(w.folder, path), { recursive: true });
      }
    });
  }
  await writeFile(join(w.folder, 'release.asc'), 'a statement that travelled with it');
  await w.verify();
});

await test('what a certified but hostile source signs is still judged by what it holds', async (t) => {
  const w = await world(t);
  const { folder, origin, sessionKey } = w;
  const cipher = new SegmentCipher(sessionKey);
  t.after(() => cipher.close());
  /** Puts a sealed segment in place of the disk's only one and lists it in the record, as its source could. */
  const replaced = async (sealed: Uint8Array, changes: Partial<Stream> = {}): Promise<OriginRecord> => {
    await writeFile(join(folder, 'disk-vda', '000000.seg'), sealed);
    const segments = [{ bytes: sealed.length, sha256: sha256(sealed) }];
    return withStream(origin, 'disk-vda', () => ({ segments, ...changes }));
  };
  const seal = async (content: Uint8Array): Promise<Uint8Array> => (await cipher.seal(new Uint8Array(content))).sealed;
  const zstd = { kind: 'zstd' } as const;
  const piece = w.members.disk;
  const content = await encodePiece(piece, zstd, 1);

  const message = await createMessage({ binary: content });
  const downgraded: unknown = await encrypt({
    message,
    sessionKey: { data: sessionKey, algorithm: 'aes256' },
    format: 'binary',
    config: PROFILE,
  });
  await refused('PackageMalformed', w.open(await replaced(downgraded as Uint8Array)));
  await refused('PackageMalformed', w.open(await replaced(Buffer.concat([await seal(content), await seal(content)]))));
  await refused('PackageMalformed', w.open(await replaced(randomBytes(500))));

  const otherKey = new SegmentCipher(randomBytes(32));
  t.after(() => otherKey.close());
  await refused('PackageMalformed', w.open(await replaced((await otherKey.seal(new Uint8Array(content))).sealed)));

  // Compressed once more, by OpenPGP.
  const compressed: unknown = await encrypt({
    message,
    sessionKey: { data: sessionKey, algorithm: 'aes256', aeadAlgorithm: 'gcm' },
    format: 'binary',
    config: { ...PROFILE, preferredCompressionAlgorithm: 2 },
  });
  await refused('PackageMalformed', w.open(await replaced(compressed as Uint8Array)));

  const bomb = await encodePiece(Buffer.alloc(SEGMENT_BYTES), zstd, 1);
  await refused('PackageMalformed', w.open(await replaced(await seal(bomb))));
  await refused('PackageMalformed', w.open(await replaced(await seal(await encodePiece(piece.subarray(1), zstd, 1)))));
  await refused('PackageMalformed', w.open(await replaced(await seal(content), { encoding: { kind: 'store' } })));
  await refused('PackageMalformed', w.open(await replaced(await seal(content), { sha256: 'ab'.repeat(32) })));
  const reference = { packageId: origin.packageId, stream: 'snapshot', sha256: 'ab'.repeat(32) };
  await refused(
    'PackageMalformed',
    w.open(await replaced(await seal(content), { encoding: { kind: 'delta', reference } })),
  );

  await w.open(await replaced(await seal(piece), { encoding: { kind: 'store' } }));
  await assertOpened(w);
});

await test('f30: a record whose members are not those of the archive is refused, and no member appears', async (t) => {
  const w = await world(t);
  const { members } = w.origin;
  const [xml, kernel, initrd] = members;
  assert.ok(xml && kernel && initrd);
  const wrong: OriginRecord['members'][] = [
    [xml, kernel],
    [xml, initrd, kernel],
    [xml, { ...kernel, bytes: kernel.bytes + 1 }, initrd],
    [xml, { ...kernel, sha256: 'ab'.repeat(32) }, initrd],
    [{ ...xml, name: MEMBER.kernel }, kernel, initrd],
  ];
  for (const listed of wrong) await refused('ForbiddenMember', w.open({ ...w.origin, members: listed }));
  assert.ok(!(await readdir(w.target)).includes(MEMBER.kernel));
  await w.open();
  await assertOpened(w);
});

await test('f33: whatever instant the opener dies at, the next attempt ends the work and keeps what was whole', async (t) => {
  const w = await world(t);
  for (let count = 1; ; count++) {
    await rm(w.target, { recursive: true, force: true });
    const died = await dieAt(count, ['rename', 'datasync', 'truncate', 'rm'], () => w.open());
    const before = new Map<string, number>();
    for (const name of FILES) {
      const found = await stat(join(w.target, name)).catch(() => null);
      if (found) before.set(name, found.ino);
    }
    await w.open();
    await assertOpened(w);
    for (const name of [MEMBER.snapshot, MEMBER.disk('vda')]) {
      const number = before.get(name);
      if (number !== undefined)
        assert.equal((await stat(join(w.target, name))).ino, number, `${name} was opened again`);
    }
    if (!died) break;
  }
});

await test('a file that later steps have changed is not opened over', async (t) => {
  const w = await world(t);
  await w.open();
  // rewriteXml exchanges the XML in the save file's header.
  await writeFile(join(w.target, MEMBER.snapshot), 'rewritten');
  await w.open();
  assert.equal(await readFile(join(w.target, MEMBER.snapshot), 'utf8'), 'rewritten');
});

await test('opening and verifying end when they are called off', async (t) => {
  const w = await world(t);
  const reason = new Error('called off');
  const work = unwatched(AbortSignal.abort(reason));
  await assert.rejects(openPackage({ ...w, work }), reason);
  await assert.rejects(verifyPackage({ ...w, work }), reason);
});

await test('what people are told of a package adds up', async (t) => {
  const w = await world(t);
  const facts = await packageFacts(w.folder, w.origin);
  let bytes = 0;
  for (const name of await readdir(w.folder, { recursive: true })) {
    const found = await stat(join(w.folder, name));
    if (found.isFile()) bytes += found.size;
  }
  assert.equal(facts.bytes, bytes);
  assert.deepEqual(
    facts.streams.map(({ name }) => name),
    ['config', 'snapshot', 'disk-vda'],
  );
});
