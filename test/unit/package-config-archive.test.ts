import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { readdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import test, { type TestContext } from 'node:test';
import fc from 'fast-check';
import { pack, type Header } from 'tar-stream';
import { extractConfig } from '../../activities/package/config-archive.ts';
import type { Member } from '../../activities/package/format.ts';
import { packConfig } from '../../activities/package/pack.ts';
import { VmferryError } from '../../workflows/failures.ts';
import { temporary } from '../support/pool-hosts.ts';
import { refused } from '../support/refusals.ts';
import { unwatched } from '../support/sample-package.ts';

const FILES = { 'libvirt.xml': Buffer.from('<domain/>'), kernel: randomBytes(1500), initrd: randomBytes(512) } as const;
type Name = keyof typeof FILES;
/** As the library's types lack pax records. */
type HeaderLike = Partial<Header> & { pax?: Record<string, string> };

const listed = (...names: Name[]): Member[] =>
  names.map((name) => ({
    name,
    bytes: FILES[name].length,
    sha256: createHash('sha256').update(FILES[name]).digest('hex'),
  }));

const entry = (name: Name, changes: HeaderLike = {}): [HeaderLike, Buffer] => [{ name, ...changes }, FILES[name]];

async function tar(...entries: [HeaderLike, Buffer?][]): Promise<Buffer> {
  const archive = pack();
  for (const [header, data] of entries) {
    const complete = { name: '', ...header, size: data?.length ?? 0 };
    if (data) archive.entry(complete, data);
    else archive.entry(complete);
  }
  archive.finalize();
  return buffer(archive);
}

async function extracted(t: TestContext, archive: Buffer, members: Member[]): Promise<string> {
  const directory = await temporary(t);
  const path = join(await temporary(t), 'config.tar');
  await writeFile(path, archive);
  await extractConfig(path, members, directory);
  return directory;
}

await test('the archive that packing writes is read back member by member', async (t) => {
  const from = await temporary(t);
  const members = (Object.keys(FILES) as Name[]).map((name) => ({ name, path: join(from, name) }));
  for (const { name, path } of members) await writeFile(path, FILES[name]);
  const folder = join(from, 'packed');
  await packConfig({ members, folder, level: 1, work: unwatched() });
  const target = await extracted(
    t,
    await readFile(join(folder, 'config.tar')),
    listed('libvirt.xml', 'kernel', 'initrd'),
  );
  assert.deepEqual((await readdir(target)).sort(), ['initrd', 'kernel', 'libvirt.xml']);
  for (const { name } of members) assert.deepEqual(await readFile(join(target, name)), FILES[name]);
});

await test('f30: anything but the listed members, in order, as plain files of the listed size, is refused', async (t) => {
  const long = 'a'.repeat(150);
  const none = Buffer.alloc(0);
  const whole = await tar(entry('libvirt.xml'), entry('kernel'));
  const hostile: Record<string, Buffer> = {
    'a path that climbs': await tar(entry('libvirt.xml'), entry('kernel', { name: '../kernel' })),
    'a path that climbs further on': await tar(entry('libvirt.xml'), entry('kernel', { name: 'x/../../kernel' })),
    'an absolute path': await tar(entry('libvirt.xml'), entry('kernel', { name: '/etc/passwd' })),
    'a path with a folder': await tar(entry('libvirt.xml'), entry('kernel', { name: './kernel' })),
    'a symbolic link': await tar(entry('libvirt.xml'), [{ name: 'kernel', type: 'symlink', linkname: '/etc/passwd' }]),
    'a hard link': await tar(entry('libvirt.xml'), [{ name: 'kernel', type: 'link', linkname: 'libvirt.xml' }]),
    'a file that names a link': await tar(entry('libvirt.xml'), entry('kernel', { linkname: '/etc/passwd' })),
    'a character device': await tar(entry('libvirt.xml'), [{ name: 'kernel', type: 'character-device' }]),
    'a block device': await tar(entry('libvirt.xml'), [{ name: 'kernel', type: 'block-device' }]),
    'a FIFO': await tar(entry('libvirt.xml'), [{ name: 'kernel', type: 'fifo' }]),
    'a folder': await tar(entry('libvirt.xml'), [{ name: 'kernel', type: 'directory' }]),
    'a contiguous file': await tar(entry('libvirt.xml'), entry('kernel', { type: 'contiguous-file' })),
    'a member twice': await tar(entry('libvirt.xml'), entry('kernel'), entry('kernel')),
    'a member twice, before the other': await tar(entry('libvirt.xml'), entry('libvirt.xml'), entry('kernel')),
    'a member too many': await tar(entry('libvirt.xml'), entry('kernel'), entry('initrd')),
    'an empty member too many': await tar(entry('libvirt.xml'), entry('kernel'), [{ name: 'initrd' }, none]),
    'a member too few': await tar(entry('libvirt.xml')),
    'members in another order': await tar(entry('kernel'), entry('libvirt.xml')),
    'a member that is too long': await tar(entry('libvirt.xml'), [{ name: 'kernel' }, randomBytes(1501)]),
    'a member that is too short': await tar(entry('libvirt.xml'), [{ name: 'kernel' }, randomBytes(1499)]),
    'a member with other bytes': await tar(entry('libvirt.xml'), [{ name: 'kernel' }, randomBytes(1500)]),
    'a pax record before a member': await tar(entry('libvirt.xml'), entry('kernel', { pax: { path: '../kernel' } })),
    'a long name': await tar(entry('libvirt.xml'), entry('kernel', { name: `${long}/${long}` })),
    'nothing at all': none,
    'no end': whole.subarray(0, whole.length - 1024),
    'half an end': whole.subarray(0, whole.length - 512),
    'data after the end': Buffer.concat([whole, Buffer.from('more')]),
    'another archive after the end': Buffer.concat([whole, whole]),
    'zeros without end': Buffer.concat([whole, Buffer.alloc(1024 * 1024)]),
    'no tar at all': randomBytes(4096),
  };
  for (const [name, archive] of Object.entries(hostile)) {
    await t.test(name, async (inner) => {
      await refused('ForbiddenMember', extracted(inner, archive, listed('libvirt.xml', 'kernel')));
    });
  }
  await extracted(t, whole, listed('libvirt.xml', 'kernel'));
});

await test('f30: a name that hides more behind a NUL is refused', async (t) => {
  const archive = await tar(entry('libvirt.xml'));
  archive.write('/../x', 'libvirt.xml'.length + 1, 'latin1');
  await refused('ForbiddenMember', extracted(t, archive, listed('libvirt.xml')));
});

await test('f30: nothing is written when the archive is not in order, however late that shows', async (t) => {
  const directory = await temporary(t);
  const path = join(await temporary(t), 'config.tar');
  await writeFile(path, await tar(entry('libvirt.xml'), entry('kernel'), entry('initrd')));
  await refused('ForbiddenMember', extractConfig(path, listed('libvirt.xml', 'kernel'), directory));
  assert.deepEqual(await readdir(directory), []);
});

await test('f30: an archive that is itself a link is refused', async (t) => {
  const directory = await temporary(t);
  await writeFile(join(directory, 'real.tar'), await tar(entry('libvirt.xml')));
  await symlink(join(directory, 'real.tar'), join(directory, 'config.tar'));
  await refused('ForbiddenMember', extractConfig(join(directory, 'config.tar'), listed('libvirt.xml'), directory));
});

await test('f30: whatever byte of an archive changes, it is refused or gives the same files', async (t) => {
  const archive = await tar(entry('libvirt.xml'), entry('kernel'));
  const members = listed('libvirt.xml', 'kernel');
  const directory = await temporary(t);
  const path = join(await temporary(t), 'config.tar');
  await fc.assert(
    fc.asyncProperty(fc.nat(archive.length - 1), fc.integer({ min: 1, max: 255 }), async (position, change) => {
      const altered = Buffer.from(archive);
      altered[position] = (altered[position] ?? 0) ^ change;
      await writeFile(path, altered);
      try {
        await extractConfig(path, members, directory);
      } catch (error) {
        assert.ok(error instanceof VmferryError && error.type === 'ForbiddenMember', String(error));
        return;
      }
      for (const { name } of members) assert.deepEqual(await readFile(join(directory, name)), FILES[name]);
    }),
    { numRuns: 300 },
  );
});
