import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import fc from 'fast-check';
import { readSaveHeader, rewriteSaveHeader, saveFileState } from '../../activities/hypervisor/save-file.ts';
import { escapeXml } from '../../activities/hypervisor/xml.ts';
import { VmferryError } from '../../workflows/failures.ts';
import { fakeSaveFile } from '../fakes/save-file.ts';

const XML = '<domain><name>web</name></domain>\n';
const COOKIE =
  "<cookie>\n  <cpu mode='custom' match='exact' check='full'>\n    <model fallback='forbid'>Nehalem</model>\n" +
  "    <feature policy='require' name='hypervisor'/>\n  </cpu>\n  <slirpHelper/>\n</cookie>\n";
const RAM = 'RAM of the guest, which nobody may touch';

let folder: string;
let path: string;
let number = 0;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'vmferry-save-'));
});
after(() => rm(folder, { recursive: true }));

async function put(content: Uint8Array): Promise<void> {
  path = join(folder, `save-${++number}`);
  await writeFile(path, content);
}
const malformed = (text: RegExp) => (error: unknown) => {
  assert.ok(error instanceof VmferryError, String(error));
  assert.equal(error.type, 'SaveFileMalformed');
  assert.match(error.message, text);
  return true;
};
const digest = async (): Promise<string> =>
  createHash('sha256')
    .update(await readFile(path))
    .digest('hex');

describe('a save file', () => {
  test('is absent, partial or complete, by its first bytes', async () => {
    path = join(folder, 'none');
    assert.equal(await saveFileState(path), 'absent');
    await put(Buffer.alloc(0));
    assert.equal(await saveFileState(path), 'partial');
    await put(Buffer.from('LibvirtQ'));
    assert.equal(await saveFileState(path), 'partial');
    await put(fakeSaveFile({ xml: XML, ram: RAM, complete: false }));
    assert.equal(await saveFileState(path), 'partial');
    await put(fakeSaveFile({ xml: XML, ram: RAM }));
    assert.equal(await saveFileState(path), 'complete');
    await put(Buffer.from('QFI\xfb and so on and on', 'latin1'));
    await assert.rejects(saveFileState(path), malformed(/does not begin/));
  });

  test('tells its domain XML, cookie and state', async () => {
    await put(fakeSaveFile({ xml: XML, cookie: COOKIE, ram: RAM, wasRunning: true }));
    const { streamOffset, dataLength, ...header } = await readSaveHeader(path);
    assert.deepEqual(header, { xml: XML, cookie: COOKIE, wasRunning: true });
    assert.equal((await readFile(path)).toString('latin1', streamOffset, streamOffset + 4), 'QEVM');
    assert.equal(streamOffset, 92 + dataLength);
    await put(fakeSaveFile({ xml: XML, cookie: null, ram: RAM }));
    assert.equal((await readSaveHeader(path)).cookie, null);
  });

  test('is refused when cut off anywhere before its stream', async () => {
    const whole = fakeSaveFile({ xml: XML, cookie: COOKIE, ram: RAM, padding: 200 });
    const { length } = whole;
    await put(whole);
    const start = (await readSaveHeader(path)).streamOffset;
    for (const at of [0, 10, 50, 91, 92, 100, 300, start - 1, start, start + 3]) {
      await put(whole);
      await truncate(path, at);
      await assert.rejects(
        readSaveHeader(path),
        malformed(/ends within|does not begin|no QEMU stream/),
        `${at} of ${length}`,
      );
    }
  });

  test('is refused with a header that libvirt would not have written', async () => {
    const change = (edit: (file: Buffer) => void): Buffer => {
      const file = fakeSaveFile({ xml: XML, cookie: COOKIE, ram: RAM });
      edit(file);
      return file;
    };
    const cases: [RegExp, (file: Buffer) => void][] = [
      [/not complete/, (file) => file.write('LibvirtQemudPart', 'latin1')],
      [/version is 3/, (file) => file.writeUInt32LE(3, 16)],
      [/version is 33554432/, (file) => file.writeUInt32BE(2, 16)],
      [/compressed/, (file) => file.writeUInt32LE(1, 28)],
      [/claims 4294967295 bytes/, (file) => file.writeUInt32LE(0xffffffff, 20)],
      [/ends within its domain XML/, (file) => file.writeUInt32LE(1_000_000, 20)],
      [/no QEMU stream/, (file) => file.writeUInt32LE(1000, 20)],
      [/outside of its data/, (file) => file.writeUInt32LE(0x7fffffff, 32)],
      [/domain XML has no end/, (file) => file.writeUInt32LE(5, 32)],
      [/not UTF-8/, (file) => file.writeUInt8(0xff, 95)],
    ];
    for (const [said, edit] of cases) {
      await put(change(edit));
      await assert.rejects(readSaveHeader(path), malformed(said), String(said));
    }
  });
});

describe('a rewritten header', () => {
  test('f25: has the new XML and the same cookie, and not a byte of RAM has changed; what does not fit is refused', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.string({ unit: 'grapheme', maxLength: 3000 }).filter((text) => !hasControl(text)),
        fc.string({ unit: 'grapheme', maxLength: 3000 }).filter((text) => !hasControl(text)),
        fc.uint8Array({ minLength: 1, maxLength: 2000 }),
        fc.constantFrom(COOKIE, null),
        fc.integer({ min: 0, max: 6000 }),
        async (oldText, newText, ram, cookie, padding) => {
          const before = fakeSaveFile({ xml: xml(oldText), cookie, ram, padding });
          await put(before);
          const room = Buffer.byteLength(xml(oldText)) + padding;
          const fits = Buffer.byteLength(xml(newText)) <= room;
          if (!fits) {
            await assert.rejects(rewriteSaveHeader(path, xml(newText)), malformed(/does not fit/));
            assert.ok((await readFile(path)).equals(before), 'a refused rewrite changes nothing');
            return;
          }
          await rewriteSaveHeader(path, xml(newText));
          const after = await readFile(path);
          const { streamOffset, ...header } = await readSaveHeader(path);
          assert.equal(header.xml, xml(newText));
          assert.equal(header.cookie, cookie);
          assert.equal(after.length, before.length);
          assert.ok(after.subarray(streamOffset).equals(before.subarray(streamOffset)), 'RAM is as it was');
        },
      ),
      { numRuns: 100 },
    );
  });

  test('is the same however often it is written, also after a crash in the middle', async () => {
    await put(fakeSaveFile({ xml: XML, cookie: COOKIE, ram: RAM }));
    await rewriteSaveHeader(path, xml('first'));
    const first = await digest();
    await rewriteSaveHeader(path, xml('second, which is longer'));
    await rewriteSaveHeader(path, xml('first'));
    assert.equal(await digest(), first);
    // Half of a write of another header.
    const torn = await readFile(path);
    torn.fill(0x41, 20, 400);
    await writeFile(path, torn);
    await rewriteSaveHeader(path, xml('first'));
    assert.equal(await digest(), first);
  });

  test('is not written where the XML is none', async () => {
    await put(fakeSaveFile({ xml: XML, ram: RAM }));
    const before = await digest();
    for (const text of ['', '<domain>', '<!DOCTYPE domain []><domain/>', '<domain>\0</domain>']) {
      await assert.rejects(rewriteSaveHeader(path, text), malformed(/new domain XML/));
    }
    assert.equal(await digest(), before);
  });

  test('is not written beside a cookie that is not libvirt’s', async () => {
    for (const cookie of [
      '<cookie>',
      '<!DOCTYPE cookie [<!ENTITY x "y">]><cookie/>',
      '<other/>',
      '<cookie><commandline/></cookie>',
      "<cookie><cpu><model>EPYC</model><numa><cell id='0'/></numa></cpu></cookie>",
      "<cookie><q:args xmlns:q='x'/></cookie>",
    ]) {
      await put(fakeSaveFile({ xml: XML, cookie, ram: RAM }));
      await assert.rejects(rewriteSaveHeader(path, xml('new')), malformed(/cookie/), cookie);
    }
  });
});

const hasControl = (text: string): boolean => /[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]/u.test(text);
const xml = (text: string): string => `<domain><title>${escapeXml(text)}</title></domain>\n`;
