import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import test from 'node:test';
import { zstdCompressSync } from 'node:zlib';
import fc from 'fast-check';
import { createMessage, encrypt } from 'openpgp';
import { decodePiece, encodePiece } from '../../activities/package/codec.ts';
import { SegmentCipher } from '../../activities/package/cipher.ts';
import {
  checkRecord,
  MAX_SEALED_BYTES,
  OriginRecord,
  SEGMENT_BYTES,
  segmentCount,
  pieceBytes,
} from '../../activities/package/format.ts';
import { isSealed } from '../../activities/package/seipd.ts';
import { PROFILE } from '../../activities/trust/openpgp-profile.ts';
import { testPool } from '../support/pool-hosts.ts';
import { refused } from '../support/refusals.ts';
import { samplePackage } from '../support/sample-package.ts';

const ownMemory = (data: Uint8Array): Uint8Array<ArrayBuffer> => new Uint8Array(data);

async function withCipher<T>(key: Uint8Array, task: (cipher: SegmentCipher) => Promise<T>): Promise<T> {
  const cipher = new SegmentCipher(key);
  try {
    return await task(cipher);
  } finally {
    await cipher.close();
  }
}

await test('a stream has as many segments as pieces of 8 MiB, and an empty one has none', () => {
  assert.equal(segmentCount(0), 0);
  assert.equal(segmentCount(1), 1);
  assert.equal(segmentCount(SEGMENT_BYTES), 1);
  assert.equal(segmentCount(SEGMENT_BYTES + 1), 2);
  assert.equal(pieceBytes(SEGMENT_BYTES + 1, 1), 1);
});

await test('pieces come back as they were, whatever they hold', async () => {
  for (const kind of ['zstd', 'store'] as const) {
    await fc.assert(
      fc.asyncProperty(
        fc.uint8Array({ minLength: 1, maxLength: 5000 }),
        fc.integer({ min: 1, max: 19 }),
        async (piece, level) => {
          const content = await encodePiece(piece, { kind }, level);
          assert.deepEqual(Buffer.from(await decodePiece(content, { kind }, piece.length)), Buffer.from(piece));
        },
      ),
      { numRuns: 40 },
    );
  }
});

await test('the highest level still decodes within the window that a reader allows', async () => {
  const piece = Buffer.concat([randomBytes(SEGMENT_BYTES / 2), Buffer.alloc(SEGMENT_BYTES / 2, 'ferry')]);
  const content = await encodePiece(piece, { kind: 'zstd' }, 19);
  assert.ok(content.length < MAX_SEALED_BYTES);
  assert.equal(Buffer.compare(await decodePiece(content, { kind: 'zstd' }, piece.length), piece), 0);
});

await test('a frame that holds more or less than its piece, or asks for a larger window, is refused', async () => {
  const zstd = { kind: 'zstd' } as const;
  const frame = await encodePiece(Buffer.alloc(1000), zstd, 1);
  await refused('PackageMalformed', decodePiece(frame, zstd, 999));
  await refused('PackageMalformed', decodePiece(frame, zstd, 1001));
  await refused('PackageMalformed', decodePiece(frame.subarray(0, -1), zstd, 1000));
  await refused('PackageMalformed', decodePiece(randomBytes(100), zstd, 1000));
  const bomb = zstdCompressSync(Buffer.alloc(64 * 1024 * 1024));
  await refused('PackageMalformed', decodePiece(bomb, zstd, SEGMENT_BYTES));
  // By hand: magic, no content size, a window of 2^n bytes, one raw block of four bytes.
  const declaring = (log: number): Buffer =>
    Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0, (log - 10) << 3, (4 << 3) | 1, 0, 0, 1, 2, 3, 4]);
  assert.equal((await decodePiece(declaring(23), zstd, 4)).length, 4);
  await refused('PackageMalformed', decodePiece(declaring(24), zstd, 4));
});

await test('a delta is refused by a reader that cannot apply one', async () => {
  const reference = { packageId: '11111111-1111-4111-8111-111111111111', stream: 'snapshot', sha256: 'ab'.repeat(32) };
  await refused('PackageMalformed', decodePiece(new Uint8Array(1), { kind: 'delta', reference }, 1));
});

await test('a sealed segment is one SEIPDv2 packet with AES-256-GCM, whatever its size', async () => {
  await withCipher(randomBytes(32), async (cipher) => {
    for (const size of [0, 1, 100, 500, 70_000, 1_000_000, SEGMENT_BYTES]) {
      const { sealed } = await cipher.seal(ownMemory(randomBytes(size)));
      assert.ok(isSealed(sealed), `${size} bytes`);
      assert.ok(sealed.length <= MAX_SEALED_BYTES);
    }
  });
});

await test('no beginning of a segment, nothing longer, and no two of them pass for one', async () => {
  await withCipher(randomBytes(32), async (cipher) => {
    const { sealed } = await cipher.seal(ownMemory(randomBytes(2000)));
    for (let length = 0; length < sealed.length; length++) assert.ok(!isSealed(sealed.subarray(0, length)));
    assert.ok(!isSealed(Buffer.concat([sealed, Buffer.of(0)])));
    assert.ok(!isSealed(Buffer.concat([sealed, sealed])));
  });
});

await test('random bytes never crash the check of a segment’s form', () => {
  fc.assert(fc.property(fc.uint8Array({ maxLength: 64 }), (data) => !isSealed(data) || data[0] === 0xd2));
});

await test('a packet of version 1, or with another cipher mode, does not pass for a segment', async () => {
  const data = randomBytes(32);
  const message = await createMessage({ binary: randomBytes(1000) });
  const old = (await encrypt({
    message,
    sessionKey: { data, algorithm: 'aes256' },
    format: 'binary',
    config: PROFILE,
  })) as Uint8Array;
  assert.ok(!isSealed(old));
  const sessionKey = { data, algorithm: 'aes256', aeadAlgorithm: 'ocb' } as const;
  const ocb = (await encrypt({ message, sessionKey, format: 'binary', config: PROFILE })) as Uint8Array;
  assert.ok(!isSealed(ocb));
});

await test('two segments with the same content differ, and each opens under its own key only', async () => {
  const key = randomBytes(32);
  const piece = randomBytes(1000);
  const [one, two] = await withCipher(key, async (cipher) => [
    await cipher.seal(ownMemory(piece)),
    await cipher.seal(ownMemory(piece)),
  ]);
  assert.notEqual(one.sha256, two.sha256);
  await withCipher(key, async (cipher) => {
    const { data } = await cipher.open(ownMemory(one.sealed), one.sha256);
    assert.deepEqual(Buffer.from(data ?? []), piece);
  });
  await withCipher(randomBytes(32), async (cipher) => {
    const { data, failure } = await cipher.open(ownMemory(one.sealed), one.sha256);
    assert.equal(data, undefined);
    assert.ok(failure);
  });
});

await test('a cipher thread whose digest differs decrypts nothing', async () => {
  await withCipher(randomBytes(32), async (cipher) => {
    const { sealed } = await cipher.seal(ownMemory(randomBytes(1000)));
    const { data, failure, sha256 } = await cipher.open(ownMemory(sealed), 'ab'.repeat(32));
    assert.equal(data, undefined);
    assert.equal(failure, undefined);
    assert.match(sha256, /^[0-9a-f]{64}$/);
  });
});

await test('an origin record is refused for any field that is missing, unknown or out of bounds', async (t) => {
  const pool = await testPool(t);
  const { origin } = await samplePackage(await pool.host('alpha'), []);
  const [config, snapshot, disk] = origin.streams;
  assert.ok(config && snapshot && disk);
  const check = (record: object): Promise<unknown> =>
    Promise.resolve().then(() => checkRecord(record, OriginRecord, 'it'));
  await check(origin);
  for (const field of Object.keys(origin)) {
    await refused('PackageMalformed', check({ ...origin, [field]: undefined }));
  }
  const wrong: Record<string, object> = {
    'another version': { version: 2 },
    'another type': { type: 'envelope' },
    'an unknown field': { more: true },
    'the first generation': { generation: 1 },
    'another piece size': { segmentBytes: 4096 },
    'an id in upper case': { instanceId: origin.instanceId.toUpperCase() },
    'an id that is a path': { packageId: '../../etc' },
    'a missing stream': { streams: [config, snapshot] },
    'a stream too many': { streams: [...origin.streams, { ...disk, name: 'disk-vdb' }] },
    'streams in another order': { streams: [snapshot, config, disk] },
    'a stream twice': { streams: [config, snapshot, snapshot] },
    'a stream that is a path': { streams: [config, snapshot, { ...disk, name: 'disk-../x' }] },
    'a disk that is a path': { disks: [{ ...origin.disks[0], target: '../vda' }] },
    'the same disk twice': { disks: [origin.disks[0], origin.disks[0]], streams: [config, snapshot, disk, disk] },
    'too few segments': { streams: [config, { ...snapshot, segments: snapshot.segments.slice(1) }, disk] },
    'too many segments': {
      streams: [config, { ...snapshot, segments: [...snapshot.segments, ...snapshot.segments] }, disk],
    },
    'a segment beyond its bound': {
      streams: [config, snapshot, { ...disk, segments: [{ ...disk.segments[0], bytes: MAX_SEALED_BYTES + 1 }] }],
    },
    'a stream of negative length': { streams: [config, snapshot, { ...disk, bytes: -1 }] },
    'a stream beyond all bounds': { streams: [config, { ...snapshot, bytes: 2 ** 50 }, disk] },
    'a digest in upper case': { streams: [config, snapshot, { ...disk, sha256: disk.sha256.toUpperCase() + 'A' }] },
    'a member that is a path': { members: [{ ...origin.members[0], name: '../libvirt.xml' }] },
    'an unknown member': { members: [...origin.members, { ...origin.members[0], name: 'passwd' }] },
    'a member twice': { members: [...origin.members, origin.members[0]] },
    'no domain XML': { members: origin.members.slice(1) },
    'no statements': { chain: { ...origin.chain, statements: [] } },
    'a statement without end': { chain: { ...origin.chain, statements: ['x'.repeat(100_000)] } },
    'a policy that nobody here can keep': { policy: { placement: { country: 'NO' }, protection: null } },
  };
  for (const [name, changes] of Object.entries(wrong)) {
    await t.test(name, () => refused('PackageMalformed', check({ ...origin, ...changes })));
  }
});
