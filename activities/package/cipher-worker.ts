/**
 * The thread in which segments are encrypted, decrypted and hashed. OpenPGP.js computes on the thread that calls it, and
 * 8 MiB of AES would keep heartbeats and progress waiting. Started by cipher.ts.
 */
import { createHash } from 'node:crypto';
import { parentPort, workerData } from 'node:worker_threads';
import { createMessage, decrypt, encrypt, readMessage } from 'openpgp';
import { PROFILE } from '../trust/openpgp-profile.ts';
import type { CipherAnswer, CipherJob } from './cipher.ts';
import { isSealed } from './seipd.ts';

// All three fields: without the third OpenPGP.js writes a packet of version 1, with no error.
const sessionKeys = { data: workerData as Uint8Array, algorithm: 'aes256', aeadAlgorithm: 'gcm' } as const;

async function seal(data: Uint8Array): Promise<Uint8Array<ArrayBuffer>> {
  // No date: a literal packet has room for one, and it would tell the reader nothing.
  const message = await createMessage({ binary: data, date: new Date(0) });
  const sealed = (await encrypt({ message, sessionKey: sessionKeys, format: 'binary', config: PROFILE })) as Uint8Array;
  if (!isSealed(sealed)) throw new Error('OpenPGP.js wrote something other than one SEIPDv2 packet');
  return owned(sealed);
}

async function open(data: Uint8Array): Promise<Uint8Array<ArrayBuffer>> {
  const message = await readMessage({ binaryMessage: data, config: PROFILE });
  const result: { data: unknown } = await decrypt({ message, sessionKeys, format: 'binary', config: PROFILE });
  return owned(result.data as Uint8Array);
}

/** Bytes in memory that may be given away whole. */
function owned(data: Uint8Array): Uint8Array<ArrayBuffer> {
  const whole = data.buffer instanceof ArrayBuffer && data.byteLength === data.buffer.byteLength;
  return whole ? (data as Uint8Array<ArrayBuffer>) : new Uint8Array(data);
}

const digest = (data: Uint8Array): string => createHash('sha256').update(data).digest('hex');

async function answer(job: CipherJob): Promise<CipherAnswer> {
  const { id, kind, data } = job;
  try {
    if (kind === 'seal') {
      const sealed = await seal(data);
      return { id, data: sealed, sha256: digest(sealed) };
    }
    const sha256 = digest(data);
    // Nothing is given to the decoder whose digest is not the one that was signed.
    if (kind === 'open' && sha256 !== job.sha256) return { id, sha256 };
    if (!isSealed(data)) return { id, sha256, failure: new Error('it is not one SEIPDv2 packet with AES-256-GCM') };
    return { id, data: await open(data), sha256 };
  } catch (failure) {
    return { id, sha256: '', failure };
  }
}

// One after another: OpenPGP.js copies a segment several times over while it works on it.
let last: Promise<unknown> = Promise.resolve();
parentPort?.on('message', (job: CipherJob) => {
  last = last
    .then(() => answer(job))
    .then((result) => parentPort?.postMessage(result, result.data ? [result.data.buffer] : []));
});
