import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import fc from 'fast-check';
import { checkOverlay, inspectImage, inspectQcow2 } from '../../activities/disk/qcow2.ts';
import { VmferryError, type FailureType } from '../../workflows/failures.ts';

const BACKING = 'a'.repeat(64);
const SIZE = 64 * 2 ** 20;

let folder: string;
let path: string;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'vmferry-qcow2-'));
  path = join(folder, 'disk.qcow2');
});
after(() => rm(folder, { recursive: true }));

interface Extension {
  type: number;
  data: string | Buffer;
}
const FORMAT = (format: string): Extension => ({ type: 0xe2792aca, data: format });

/** As `qemu-img create -b` writes it: header, extensions, backing name; four clusters of tables behind it. */
function overlay(
  options: { version?: number; backing?: string; extensions?: Extension[]; edit?: (file: Buffer) => void } = {},
): Buffer {
  const { version = 3, backing = BACKING, extensions = [FORMAT('qcow2')], edit } = options;
  const file = Buffer.alloc(4 * 65536);
  file.write('QFI\xfb', 'latin1');
  file.writeUInt32BE(version, 4);
  file.writeUInt32BE(16, 20);
  file.writeBigUInt64BE(BigInt(SIZE), 24);
  file.writeUInt32BE(1, 36);
  file.writeBigUInt64BE(3n * 65536n, 40);
  file.writeBigUInt64BE(65536n, 48);
  file.writeUInt32BE(1, 56);
  let at = 72;
  if (version === 3) {
    file.writeUInt32BE(4, 96);
    file.writeUInt32BE(112, 100);
    at = 112;
  }
  for (const { type, data } of extensions) {
    file.writeUInt32BE(type, at);
    file.writeUInt32BE(data.length, at + 4);
    Buffer.from(data).copy(file, at + 8);
    at += 8 + Math.ceil(data.length / 8) * 8;
  }
  at += 8;
  if (backing !== '') {
    file.writeBigUInt64BE(BigInt(at), 8);
    file.writeUInt32BE(Buffer.byteLength(backing), 16);
    file.write(backing, at);
  }
  edit?.(file);
  return file;
}

const refused = (type: FailureType, said: RegExp) => (error: unknown) => {
  assert.ok(error instanceof VmferryError, String(error));
  assert.equal(error.type, type, error.message);
  assert.match(error.message, said);
  return true;
};

describe('an overlay', () => {
  test('is read as QEMU writes it, in both versions', async () => {
    for (const version of [2, 3] as const) {
      await writeFile(path, overlay({ version }));
      assert.deepEqual(await inspectQcow2(path), {
        version,
        virtualBytes: SIZE,
        clusterBytes: 65536,
        backingFile: BACKING,
        backingFormat: 'qcow2',
      });
      await checkOverlay(path, { backing: BACKING, virtualBytes: SIZE });
    }
  });

  test('f31: is refused with any other base than the one expected', async () => {
    for (const backing of [
      '',
      '/etc/shadow',
      `../${BACKING}`,
      `./${BACKING}`,
      `${BACKING}x`,
      BACKING.toUpperCase(),
      'nbd://127.0.0.1/x',
      'json:{"driver":"file","filename":"/etc/shadow"}',
    ]) {
      await writeFile(path, overlay({ backing }));
      await assert.rejects(
        checkOverlay(path, { backing: BACKING, virtualBytes: SIZE }),
        refused('ForeignBackingFile', /names/),
        backing,
      );
    }
  });

  const set32 = (at: number, value: number) => (file: Buffer) => file.writeUInt32BE(value, at);
  const set64 = (at: number, value: bigint) => (file: Buffer) => file.writeBigUInt64BE(value, at);
  const CASES: [what: string, file: () => Buffer, said: RegExp][] = [
    ['another magic', () => overlay({ edit: set32(0, 0x51464900) }), /not qcow2/],
    ['a version of the future', () => overlay({ edit: set32(4, 4) }), /version is 4/],
    ['data in another file', () => overlay({ edit: set64(72, 4n) }), /another file/],
    ['a mark of corruption', () => overlay({ edit: set64(72, 2n) }), /corrupt/],
    ['a mark of not being closed', () => overlay({ edit: set64(72, 1n) }), /not closed/],
    ['an unknown feature', () => overlay({ edit: set64(72, 1n << 63n) }), /unknown features/],
    ['encryption', () => overlay({ edit: set32(32, 2) }), /encrypted/],
    ['internal snapshots', () => overlay({ edit: set32(60, 1) }), /internal snapshots/],
    ['tiny clusters', () => overlay({ edit: set32(20, 8) }), /clusters/],
    ['huge clusters', () => overlay({ edit: set32(20, 0x80000010) }), /clusters/],
    ['no size', () => overlay({ edit: set64(24, 0n) }), /size is 0/],
    ['a size of half a sector', () => overlay({ edit: set64(24, 255n) }), /size is 255/],
    ['a size beyond reason', () => overlay({ edit: set64(24, 1n << 60n) }), /its size is/],
    ['another size than recorded', () => overlay({ edit: set64(24, 512n) }), /shows a disk of 512/],
    ['an L1 table outside', () => overlay({ edit: set64(40, 1n << 40n) }), /L1 table lies outside/],
    ['an L1 table over the header', () => overlay({ edit: set64(40, 0n) }), /L1 table lies outside/],
    ['an L1 table of four billion entries', () => overlay({ edit: set32(36, 0xffffffff) }), /L1 table lies outside/],
    ['a refcount table outside', () => overlay({ edit: set64(48, 1n << 40n) }), /refcount table lies outside/],
    ['a header of another length', () => overlay({ edit: set32(100, 4096) }), /claims 4096/],
    ['a header shorter than itself', () => overlay({ edit: set32(100, 72) }), /claims 72/],
    ['wide refcounts', () => overlay({ edit: set32(96, 7) }), /refcounts/],
    [
      'a data file named in an extension',
      () => overlay({ extensions: [FORMAT('qcow2'), { type: 0x44415441, data: '/etc/shadow' }] }),
      /extension of type 0x44415441/,
    ],
    [
      'a LUKS header',
      () => overlay({ extensions: [{ type: 0x0537be77, data: Buffer.alloc(16) }] }),
      /extension of type 0x537be77/,
    ],
    ['two formats of its base', () => overlay({ extensions: [FORMAT('raw'), FORMAT('qcow2')] }), /twice/],
    ['no format of its base', () => overlay({ extensions: [] }), /format unsaid/],
    ['a network format of its base', () => overlay({ extensions: [FORMAT('nbd')] }), /format "nbd"/],
    ['an extension without end', () => overlay({ edit: set32(116, 0xfffffff0) }), /longer than the header/],
    ['a backing name outside of its header', () => overlay({ edit: set64(8, 70000n) }), /outside of its header/],
    ['a backing name over its extensions', () => overlay({ edit: set64(8, 112n) }), /outside of its header/],
    ['a backing name without end', () => overlay({ edit: set32(16, 5000) }), /outside of its header/],
    ['a backing name without place', () => overlay({ edit: set64(8, 0n) }), /no place/],
    ['a backing name with a NUL', () => overlay({ backing: `${BACKING}\0` }), /NUL/],
    ['a backing name that is no text', () => overlay({ edit: (file) => file.writeUInt8(0xff, 150) }), /not UTF-8/],
    ['nothing in it', () => Buffer.alloc(0), /not qcow2/],
    ['half a header', () => overlay().subarray(0, 90), /outside|within its header/],
  ];
  for (const [what, file, said] of CASES) {
    test(`f31: is refused with ${what}`, async () => {
      await writeFile(path, file());
      await assert.rejects(
        checkOverlay(path, { backing: BACKING, virtualBytes: SIZE }),
        refused('DiskMalformed', said),
      );
    });
  }

  test('f31: whatever its bytes, is read or refused', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.integer({ min: 4, max: 300 }), fc.integer({ min: 0, max: 255 })), {
          minLength: 1,
          maxLength: 6,
        }),
        async (changes) => {
          await writeFile(
            path,
            overlay({ edit: (file) => changes.forEach(([at, value]) => file.writeUInt8(value, at)) }),
          );
          await inspectQcow2(path).catch((error: unknown) => refused('DiskMalformed', /./)(error));
        },
      ),
      { numRuns: 300 },
    );
  });
});

describe('a base image', () => {
  test('is stand-alone qcow2 or raw', async () => {
    await writeFile(path, overlay({ backing: '', extensions: [] }));
    assert.deepEqual(await inspectImage(path), { format: 'qcow2', virtualBytes: SIZE });
    await writeFile(path, Buffer.alloc(1024, 1));
    assert.deepEqual(await inspectImage(path), { format: 'raw', virtualBytes: 1024 });
  });

  test('is refused when it is based on another, of another format or no disk', async () => {
    const cases: [Buffer, RegExp][] = [
      [overlay(), /based on another file/],
      [overlay({ backing: '', edit: (file) => file.writeBigUInt64BE(4n, 72) }), /another file/],
      [Buffer.from('KDMV'.padEnd(512, '\0')), /VMDK/],
      [Buffer.from('vhdxfile'.padEnd(512, '\0')), /VHDX/],
      [Buffer.alloc(0), /neither/],
      [Buffer.alloc(1000), /neither/],
    ];
    for (const [file, said] of cases) {
      await writeFile(path, file);
      await assert.rejects(inspectImage(path), refused('DiskMalformed', said));
    }
  });
});
