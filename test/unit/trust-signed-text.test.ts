import assert from 'node:assert/strict';
import test from 'node:test';
import { deflateSync } from 'node:zlib';
import fc from 'fast-check';
import { armor, createCleartextMessage, createMessage, enums, generateKey, sign, type PrivateKey } from 'openpgp';
import { z } from 'zod';
import { PROFILE } from '../../activities/trust/openpgp-profile.ts';
import { digestOf, readUnverified, signText, verifyText } from '../../activities/trust/signed-text.ts';
import { refused } from '../support/refusals.ts';
import { VmferryError } from '../../workflows/failures.ts';

const Payload = z.strictObject({ word: z.string(), number: z.int() });
const payload = { word: 'Fähre', number: 7 };
const bytes = new TextEncoder().encode(JSON.stringify(payload));

async function newKey(date = new Date()): Promise<PrivateKey> {
  const userIDs = [{ name: 'test' }];
  return (await generateKey({ type: 'curve25519', userIDs, format: 'object', date, config: PROFILE })).privateKey;
}
const key = await newKey();

await test('signed text gives back its payload, its text and a digest that does not depend on the signature', async () => {
  const first = await signText(payload, key);
  const second = await signText(payload, key);
  assert.notEqual(first, second);
  const verified = await verifyText(first, key.toPublic(), Payload);
  assert.deepEqual(verified.payload, payload);
  assert.equal(verified.text, JSON.stringify(payload));
  assert.equal(verified.digest, (await verifyText(second, key.toPublic(), Payload)).digest);
  assert.equal(verified.digest, await digestOf(first));
  assert.deepEqual(await readUnverified(first, Payload), payload);
});

await test('a changed character is refused, or is one that changes nothing', async () => {
  const signed = await signText(payload, key);
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=-\n ';
  const change = fc.tuple(fc.nat(signed.length - 1), fc.constantFrom(...alphabet));
  await fc.assert(
    fc.asyncProperty(change, async ([position, character]) => {
      const altered = signed.slice(0, position) + character + signed.slice(position + 1);
      try {
        assert.deepEqual((await verifyText(altered, key.toPublic(), Payload)).payload, payload);
      } catch (error) {
        assert.ok(error instanceof VmferryError && error.type === 'SignatureInvalid', String(error));
      }
    }),
    { numRuns: 150 },
  );
});

await test('the signature of another key is refused', async () => {
  await refused('SignatureInvalid', verifyText(await signText(payload, await newKey()), key.toPublic(), Payload));
});

await test('a payload that does not fit its schema is refused, however well it is signed', async () => {
  await refused('SignatureInvalid', verifyText(await signText({ ...payload, more: 1 }, key), key.toPublic(), Payload));
  await refused('SignatureInvalid', verifyText(await signText(payload, key), key.toPublic(), z.strictObject({})));
});

await test('any other form of message is refused', async (t) => {
  const message = await createMessage({ binary: bytes });
  const options = { signingKeys: key, config: PROFILE };
  const other = await newKey();
  const forms: Record<string, string> = {
    'not signed': message.armor(),
    'signed twice': (await sign({ message, ...options, signingKeys: [key, key] })) as string,
    'signed by two': (await sign({ message, ...options, signingKeys: [other, key] })) as string,
    cleartext: await sign({ message: await createCleartextMessage({ text: JSON.stringify(payload) }), ...options }),
    detached: (await sign({ message, ...options, detached: true })) as string,
    'not UTF-8': (await sign({
      message: await createMessage({ binary: Uint8Array.of(34, 0xff, 34) }),
      ...options,
    })) as string,
    'not JSON': (await sign({ message: await createMessage({ binary: Uint8Array.of(123) }), ...options })) as string,
    'not OpenPGP': 'hello',
    empty: '',
    compressed: compress((await sign({ message, ...options, format: 'binary' })) as Uint8Array),
  };
  for (const [name, form] of Object.entries(forms)) {
    await t.test(name, () => refused('SignatureInvalid', verifyText(form, key.toPublic(), Payload)));
  }
});

/** One compressed-data packet around others, which OpenPGP.js has no option to write around a signed message. */
function compress(packets: Uint8Array): string {
  const body = Buffer.concat([Buffer.of(enums.compression.zlib), deflateSync(packets)]);
  const header = Buffer.from([0xc0 | enums.packet.compressedData, 0xff, 0, 0, 0, 0]);
  header.writeUInt32BE(body.length, 2);
  return armor(enums.armor.message, Buffer.concat([header, body]));
}

await test('no clock decides: neither one that is years ahead nor one that has never been set', async (t) => {
  const signed: string[] = [];
  t.mock.timers.enable({ apis: ['Date'], now: Date.now() });
  for (const year of [1970, 2100]) {
    t.mock.timers.setTime(Date.UTC(year, 0, 1));
    signed.push(await signText(payload, key));
  }
  for (const year of [1970, 2100]) {
    t.mock.timers.setTime(Date.UTC(year, 0, 1));
    for (const text of signed) await verifyText(text, key.toPublic(), Payload);
  }
});

await test('a key made by a clock that was set back since can still sign', async () => {
  const young = await newKey(new Date(Date.now() + 5 * 60 * 60_000));
  await verifyText(await signText(payload, young), young.toPublic(), Payload);
});

await test('an oversized text is refused unread', async () => {
  await refused('SignatureInvalid', verifyText('x'.repeat(70_000), key.toPublic(), Payload));
  const long = await signText({ word: 'x'.repeat(100_000), number: 1 }, key);
  await refused('SignatureInvalid', readUnverified(long, Payload));
  await verifyText(long, key.toPublic(), Payload, 200_000);
});
