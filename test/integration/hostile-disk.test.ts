/**
 * Disks as a hostile, certified source could make them, with the real qemu-img, on their way through the restore. What is
 * refused is refused before qemu-img or QEMU sees it; what is taken names nothing but what this host has chosen.
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { run } from '../../activities/exec/run.ts';
import type { HostContext } from '../../activities/host-context.ts';
import { newDomainXml } from '../../activities/hypervisor/domain-xml.ts';
import type { GuestNetwork } from '../../activities/network/guest-network.ts';
import { MEMBER } from '../../activities/records/layout.ts';
import { ensurePausedCopy } from '../../activities/restore-copy.ts';
import type { FailureType } from '../../workflows/failures.ts';
import { FakeHypervisor } from '../fakes/hypervisor.ts';
import { fakeSaveFile } from '../fakes/save-file.ts';
import { testPool } from '../support/pool-hosts.ts';
import { refused } from '../support/refusals.ts';
import { unwatched } from '../support/sample-package.ts';

const skip = existsSync('/usr/bin/qemu-img') ? false : 'there is no qemu-img: run `npm run setup`';
const SIZE = 16 * 2 ** 20;
const IMAGE = 'ab'.repeat(32);

interface Scene {
  hypervisor: FakeHypervisor;
  /** Where the disk of the package lies before the restore. */
  staged: string;
  /** Where QEMU would work. */
  working: string;
  base: string;
  restore: () => Promise<unknown>;
}

/** A package's members at a host that holds the base image in this format. */
async function scene(t: TestContext, baseFormat: 'qcow2' | 'raw' = 'qcow2'): Promise<Scene> {
  const { name, layout, keys, pool, ledger } = await (await testPool(t)).host('beta');
  const [instanceId, moveId] = [randomUUID(), randomUUID()];
  await mkdir(layout.image(IMAGE), { recursive: true });
  const base = layout.imageDisk(IMAGE);
  await run('qemu-img', ['create', '-q', '-f', baseFormat, base, String(SIZE)]);
  const image = { id: IMAGE, name: 'base', format: baseFormat, bytes: 1, virtualBytes: SIZE, boot: {} };
  await writeFile(join(layout.image(IMAGE), 'image.json'), JSON.stringify(image));
  const folder = layout.stage(moveId);
  await mkdir(folder, { recursive: true });
  const working = join(layout.generation(instanceId, 2), 'vda.qcow2');
  const xml = newDomainXml({
    ...{ instanceId, name: 'guest', memoryBytes: 2 ** 28, vcpus: 1, architecture: 'x86_64', domainType: 'qemu' },
    ...{ machines: ['pc-q35-7.2'], emulator: '/usr/bin/qemu-system-x86_64', disk: working },
    ...{ mac: '52:54:00:77:00:05', tap: 'vf0123456789ab', serialLog: join(folder, 'serial.log') },
  });
  await writeFile(join(folder, MEMBER.snapshot), fakeSaveFile({ xml, ram: 'ram' }));
  const hypervisor = new FakeHypervisor();
  const host: HostContext = { name, layout, keys, pool, ledger, hypervisor, network: {} as GuestNetwork };
  const disks = [{ target: 'vda', imageId: IMAGE, virtualBytes: SIZE }];
  return {
    ...{ hypervisor, working, base, staged: join(folder, MEMBER.disk('vda')) },
    restore: () => ensurePausedCopy(host, instanceId, 2, folder, () => Promise.resolve(disks), unwatched()),
  };
}

const create = (path: string, ...options: string[]): Promise<unknown> =>
  run('qemu-img', ['create', '-q', '-f', 'qcow2', ...options, path, String(SIZE)]);
/** `-u`: qemu-img does not look whether the base is there. */
const overlay = (path: string, backing: string, format = 'qcow2'): Promise<unknown> =>
  create(path, '-u', '-b', backing, '-F', format);

const HOSTILE: Record<string, { type: FailureType; make: (path: string, secret: string) => Promise<unknown> }> = {
  'a file of the host for its base': {
    type: 'ForeignBackingFile',
    make: (path, secret) => overlay(path, secret, 'raw'),
  },
  'a base that is a description of what to open': {
    type: 'ForeignBackingFile',
    make: (path, secret) => overlay(path, `json:{"driver":"raw","file":{"driver":"file","filename":"${secret}"}}`),
  },
  'a base on the network': {
    type: 'ForeignBackingFile',
    make: (path) => overlay(path, 'nbd://192.0.2.1/export', 'raw'),
  },
  'a base reached from its own folder': { type: 'ForeignBackingFile', make: (path) => overlay(path, `../x/${IMAGE}`) },
  'no base': { type: 'ForeignBackingFile', make: (path) => create(path) },
  'its data in a file of the host': {
    type: 'DiskMalformed',
    make: (path, secret) => create(path, '-o', `data_file=${secret},data_file_raw=on`),
  },
  'a snapshot inside': {
    type: 'DiskMalformed',
    make: async (path) => {
      await create(path);
      await run('qemu-img', ['snapshot', '-c', 'one', path]);
      await run('qemu-img', ['rebase', '-q', '-u', '-f', 'qcow2', '-b', IMAGE, '-F', 'qcow2', path]);
    },
  },
  'no qcow2 at all': { type: 'DiskMalformed', make: (path) => writeFile(path, Buffer.alloc(SIZE)) },
};

for (const [what, { type, make }] of Object.entries(HOSTILE)) {
  test(`f31: a disk with ${what} is refused as ${type}, and nothing of it reaches QEMU`, { skip }, async (t) => {
    const { hypervisor, staged, working, restore } = await scene(t);
    const secret = join(staged, '..', 'secret');
    await make(staged, secret);
    const before = await readFile(secret).catch(() => null);
    await refused(type, restore());
    assert.ok(!hypervisor.calls.includes('restorePaused'));
    assert.deepEqual(await readdir(join(working, '..')), []);
    assert.deepEqual(await readFile(secret).catch(() => null), before);
  });
}

for (const said of ['qcow2', 'raw']) {
  for (const real of ['qcow2', 'raw'] as const) {
    test(`f31: the base of a disk that says ${said} is opened as the ${real} image that it is`, { skip }, async (t) => {
      const { staged, working, base, restore } = await scene(t, real);
      await overlay(staged, IMAGE, said);
      await restore();
      const { stdout } = await run('qemu-img', ['info', '--output', 'json', '-f', 'qcow2', working]);
      const info = JSON.parse(stdout) as Record<string, string>;
      assert.equal(info['full-backing-filename'], base);
      assert.equal(info['backing-filename-format'], real);
    });
  }
}

test('f37: a disk whose tables contradict one another is never restored', { skip }, async (t) => {
  const { hypervisor, staged, base, restore } = await scene(t);
  await overlay(staged, base);
  await run('qemu-io', ['-f', 'qcow2', '-c', 'write -P 5 0 1M', staged]);
  await run('qemu-img', ['rebase', '-q', '-u', '-f', 'qcow2', '-b', IMAGE, '-F', 'qcow2', staged]);
  const whole = await readFile(staged);
  // The refcount table's first entry: every cluster is said to be free.
  await writeFile(staged, Buffer.concat([whole.subarray(0, 65536), Buffer.alloc(8), whole.subarray(65536 + 8)]));
  await refused('DiskMalformed', restore());
  assert.ok(!hypervisor.calls.includes('restorePaused'));
  await writeFile(staged, whole);
  await restore();
});
