import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdtemp, open, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { checkOverlay, inspectImage, inspectQcow2 } from '../../activities/disk/qcow2.ts';
import { check, createOverlay, rebaseUnsafe } from '../../activities/disk/qemu-img.ts';
import { run } from '../../activities/exec/run.ts';
import { probeAccelerator } from '../../activities/hypervisor/probe-kvm.ts';
import { VmferryError } from '../../workflows/failures.ts';

const EMULATOR = '/usr/bin/qemu-system-x86_64';
const skip = existsSync('/usr/bin/qemu-img') ? false : 'there is no qemu-img: run `npm run setup`';
const SIZE = 16 * 2 ** 20;
const isType = (type: string) => (error: unknown) => error instanceof VmferryError && error.type === type;

describe('Disks, as qemu-img makes and reads them', { skip }, () => {
  let folder: string;
  let base: string;
  let path: string;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'vmferry-disk-'));
    base = join(folder, 'base.img');
    path = join(folder, 'overlay.qcow2');
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', base, String(SIZE)]);
  });
  after(() => rm(folder, { recursive: true }));

  test('an overlay has its base’s size and names it', async () => {
    await createOverlay({ path, base, baseFormat: 'qcow2' });
    const { backingFile, backingFormat, virtualBytes } = await inspectQcow2(path);
    assert.deepEqual(
      { backingFile, backingFormat, virtualBytes },
      { backingFile: base, backingFormat: 'qcow2', virtualBytes: SIZE },
    );
    await check(path);
  });

  test('an overlay is rebased to a name that means nothing here, and back', async () => {
    await rebaseUnsafe({ path, backing: 'ab'.repeat(32), backingFormat: 'qcow2' });
    await checkOverlay(path, { backing: 'ab'.repeat(32), virtualBytes: SIZE });
    await rebaseUnsafe({ path, backing: base, backingFormat: 'qcow2' });
    await checkOverlay(path, { backing: base, virtualBytes: SIZE });
    await check(path);
  });

  test('an overlay without a base cannot be made', async () => {
    const missing = join(folder, 'missing.img');
    await assert.rejects(
      createOverlay({ path: join(folder, 'x'), base: missing, baseFormat: 'raw' }),
      isType('CommandFailed'),
    );
  });

  test('f37: contradictory tables are found', async () => {
    await run('qemu-io', ['-f', 'qcow2', '-c', 'write -P 5 0 1M', path]);
    await check(path);
    // The refcount table's first entry: every cluster is said to be free.
    const file = await open(path, 'r+');
    await file.write(Buffer.alloc(8), 0, 8, 65536);
    await file.close();
    await assert.rejects(check(path), isType('DiskMalformed'));
  });

  test('the forms that qemu-img can write are told apart', async () => {
    const made = async (...options: string[]): Promise<string> => {
      const image = join(folder, 'image');
      await rm(image, { force: true });
      await run('qemu-img', ['create', '-q', ...options, image, String(SIZE)]);
      return image;
    };
    for (const options of [
      ['compat=0.10'],
      ['compat=1.1'],
      ['compression_type=zstd'],
      ['extended_l2=on,cluster_size=128k'],
      ['lazy_refcounts=on'],
    ]) {
      const image = await made('-f', 'qcow2', '-o', options.join(','));
      assert.deepEqual(await inspectImage(image), { format: 'qcow2', virtualBytes: SIZE }, options.join());
    }
    assert.deepEqual(await inspectImage(await made('-f', 'raw')), { format: 'raw', virtualBytes: SIZE });
    for (const format of ['vmdk', 'vdi', 'vhdx', 'vpc', 'qed']) {
      await assert.rejects(inspectImage(await made('-f', format)), isType('DiskMalformed'), format);
    }
    const external = await made('-f', 'qcow2', '-o', `data_file=${join(folder, 'data')},data_file_raw=on`);
    await assert.rejects(inspectImage(external), isType('DiskMalformed'));
    await writeFile(join(folder, 'secret'), 'x'.repeat(8));
    const encrypted = await made(
      '--object',
      `secret,id=s,file=${join(folder, 'secret')}`,
      '-f',
      'qcow2',
      '-o',
      'encrypt.format=aes,encrypt.key-secret=s',
    );
    await assert.rejects(inspectImage(encrypted), isType('DiskMalformed'));
    const snapshotted = await made('-f', 'qcow2');
    await run('qemu-img', ['snapshot', '-c', 'one', snapshotted]);
    await assert.rejects(inspectImage(snapshotted), isType('DiskMalformed'));
  });
});

describe('The probe of an accelerator', { skip: existsSync(EMULATOR) ? false : `there is no ${EMULATOR}` }, () => {
  test('passes under TCG, and fails with an emulator that cannot run it', async () => {
    assert.equal(await probeAccelerator(EMULATOR, 'tcg'), true);
    assert.equal(await probeAccelerator('/bin/true', 'tcg'), false);
    assert.equal(await probeAccelerator('/nonexistent/qemu', 'tcg'), false);
  });
});
