/** An image leaves a host only when no disk there stands on it, whatever the catalog thinks. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { mkdir, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { createDeleteImage } from '../../activities/delete-image.ts';
import { createOverlay, rebaseUnsafe } from '../../activities/disk/qemu-img.ts';
import type { HostContext } from '../../activities/host-context.ts';
import { newDomainXml } from '../../activities/hypervisor/domain-xml.ts';
import { exists, makeDirectory } from '../../activities/records/durable.ts';
import { FakeGuestNetwork } from '../fakes/guest-network.ts';
import { FakeHypervisor } from '../fakes/hypervisor.ts';
import { testPool } from '../support/pool-hosts.ts';
import { refused } from '../support/refusals.ts';

const IMAGE = 'ab'.repeat(32);

interface World {
  host: HostContext;
  hypervisor: FakeHypervisor;
  /** The image’s file. */
  image: string;
  remove: () => Promise<void>;
}

async function world(t: TestContext): Promise<World> {
  const { name, layout, keys, pool, ledger } = await (await testPool(t)).host('alpha');
  const hypervisor = new FakeHypervisor();
  const host = { name, layout, keys, pool, ledger, hypervisor, network: new FakeGuestNetwork() };
  for (const folder of [layout.image(IMAGE), layout.instances, layout.moves, layout.staging])
    await makeDirectory(folder);
  const image = layout.imageDisk(IMAGE);
  await writeFile(image, Buffer.alloc(1024 * 1024));
  return { host, hypervisor, image, remove: () => createDeleteImage(host)({ imageId: IMAGE }) };
}

async function overlay(path: string, base: string): Promise<string> {
  await makeDirectory(join(path, '..'));
  await createOverlay({ path, base, baseFormat: base.endsWith('.qcow2') ? 'qcow2' : 'raw' });
  return path;
}

await test('an image that nobody uses is removed, and again', async (t) => {
  const { host, remove } = await world(t);
  await remove();
  assert.ok(!(await exists(host.layout.image(IMAGE))));
  await remove();
});

await test('f20: an image stays while a disk of an instance stands on it', async (t) => {
  const { host, image, remove } = await world(t);
  await overlay(join(host.layout.generation(randomUUID(), 4), 'vda.qcow2'), image);
  await refused('InUse', remove());
  assert.ok(await exists(image));
});

await test('f20: or while a move goes on from a member that names it by its id alone', async (t) => {
  const { host, image, remove } = await world(t);
  for (const folder of [host.layout.move(randomUUID()), host.layout.stage(randomUUID())]) {
    const member = await overlay(join(folder, 'disk-vda.qcow2'), image);
    await rebaseUnsafe({ path: member, backing: IMAGE, backingFormat: 'raw' });
    await refused('InUse', remove());
    await rename(member, join(folder, 'done'));
  }
  await remove();
});

await test('f20: or while any domain’s disk stands on it, through whatever lies between', async (t) => {
  const { host, hypervisor, image, remove } = await world(t);
  const between = await overlay(join(host.layout.root, 'elsewhere', 'between.qcow2'), image);
  const disk = await overlay(join(host.layout.root, 'elsewhere', 'top.qcow2'), between);
  const instanceId = randomUUID();
  await hypervisor.define(
    newDomainXml({
      ...{ instanceId, name: 'stranger', memoryBytes: 2 ** 28, vcpus: 1, architecture: 'x86_64', domainType: 'qemu' },
      ...{
        machines: ['pc-q35-7.2'],
        emulator: '/usr/bin/qemu-system-x86_64',
        mac: '52:54:00:77:00:05',
        tap: 'vf0123456789ab',
      },
      ...{ disk, serialLog: join(host.layout.root, 'serial.log') },
    }),
  );
  await refused('InUse', remove());
  await hypervisor.undefine(instanceId);
  await remove();
});

await test('a deletion that died half way is ended, unless a disk has come to stand on the image', async (t) => {
  const { host, image, remove } = await world(t);
  const condemned = join(host.layout.images, `.deleting-${IMAGE}`);
  await overlay(join(host.layout.generation(randomUUID(), 1), 'vda.qcow2'), image);
  await rename(host.layout.image(IMAGE), condemned);
  await refused('InUse', remove());
  assert.ok(await exists(image), 'it is in its place again');

  await rename(host.layout.instances, join(host.layout.root, 'gone'));
  await mkdir(host.layout.instances);
  await rename(host.layout.image(IMAGE), condemned);
  await remove();
  assert.ok(!(await exists(condemned)));
});
