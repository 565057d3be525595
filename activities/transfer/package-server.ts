/**
 * Serves sealed packages and images to certified peers: files only, by range, nothing else. A package is given to the
 * hosts that an envelope of it names; an image to any host of the pool.
 */
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { createServer, type Server } from 'node:https';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import type { TLSSocket } from 'node:tls';
import type { HostRecord } from '../../workflows/contract.ts';
import { VmferryError } from '../../workflows/failures.ts';
import { envelopeName, segmentName } from '../package/format.ts';
import { exists } from '../records/durable.ts';
import type { Layout } from '../records/layout.ts';
import type { HostKeys } from '../trust/keys.ts';
import type { PoolTrust } from '../trust/pool.ts';
import { RECORD_HEADER, samePem } from './endpoint.ts';

interface Options {
  layout: Layout;
  keys: HostKeys;
  pool: PoolTrust;
  /** Told of every request that ends in an error; never of what was in it. */
  onError: (request: string, error: unknown) => void;
}

const UUID = '[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}';
const ENVELOPE = new RegExp(`^/v1/packages/(${UUID})/envelope$`);
const SEGMENT = new RegExp(`^/v1/packages/(${UUID})/segments/([a-z][a-z0-9-]{0,31})/([0-9]{1,6})$`);
const IMAGE = /^\/v1\/images\/([0-9a-f]{64})\/(disk\.img|kernel|initrd)$/;

export function createPackageServer(options: Options): Server {
  const { keys } = options;
  const server = createServer(
    // Self-signed certificates are pinned per record, so a certificate authority has nothing to say here.
    {
      key: keys.tls.key,
      cert: keys.tls.cert,
      requestCert: true,
      rejectUnauthorized: false,
      minVersion: 'TLSv1.3',
      maxHeaderSize: 64 * 1024,
    },
    (request, response) => {
      serve(options, request, response).catch((error: unknown) => {
        options.onError(`${request.method} ${request.url}`, error);
        if (response.headersSent) response.destroy();
        else response.writeHead(error instanceof VmferryError ? statusOf(error) : 500).end();
      });
    },
  );
  server.requestTimeout = 30_000;
  return server;
}

const statusOf = (error: VmferryError): number => (error.type === 'HostNotCertified' ? 403 : 404);

async function serve(options: Options, request: IncomingMessage, response: ServerResponse): Promise<void> {
  if (request.method !== 'GET') {
    response.writeHead(405).end();
    return;
  }
  const reader = await identify(options.pool, request);
  await sendFile(request, response, await locate(options.layout, reader, request.url ?? ''));
}

/** The caller's record, certified and matching the connection's certificate. */
async function identify(pool: PoolTrust, request: IncomingMessage): Promise<HostRecord> {
  const header = request.headers[RECORD_HEADER];
  const certificate = (request.socket as TLSSocket).getPeerCertificate();
  if (typeof header !== 'string' || !certificate.raw) {
    throw new VmferryError('HostNotCertified', 'the caller shows no record or no certificate');
  }
  const record = await pool.verifyHost(Buffer.from(header, 'base64').toString('utf8'));
  if (!samePem(record.tlsCertificate, certificate.raw)) {
    throw new VmferryError(
      'HostNotCertified',
      `the caller shows the record of ${record.name}, but not its certificate`,
    );
  }
  return record;
}

/** The file behind a path. The patterns leave no way out of the folders. */
async function locate(layout: Layout, reader: HostRecord, url: string): Promise<string> {
  const image = IMAGE.exec(url);
  if (image?.[1] && image[2]) return join(layout.image(image[1]), image[2]);
  const [, packageId, stream, index] = SEGMENT.exec(url) ?? ENVELOPE.exec(url) ?? [];
  if (packageId !== undefined) {
    const envelope = join(layout.package(packageId), envelopeName(reader.fingerprint));
    if (await exists(envelope)) {
      return stream === undefined ? envelope : join(layout.package(packageId), stream, segmentName(Number(index)));
    }
  }
  throw new VmferryError('PackageNotFound', `nothing for ${reader.name} at ${url}`);
}

async function sendFile(request: IncomingMessage, response: ServerResponse, file: string): Promise<void> {
  const { size } = await stat(file).catch((error: unknown) => {
    throw new VmferryError('PackageNotFound', `no file ${file}`, { cause: error });
  });
  const from = Number(/^bytes=([0-9]{1,15})-$/.exec(request.headers.range ?? '')?.[1] ?? 0);
  if (from > size) {
    response.writeHead(416, { 'content-range': `bytes */${size}` }).end();
    return;
  }
  response.writeHead(from > 0 ? 206 : 200, {
    'content-length': size - from,
    'content-type': 'application/octet-stream',
    ...(from > 0 && { 'content-range': `bytes ${from}-${size - 1}/${size}` }),
  });
  if (from === size) response.end();
  else await pipeline(createReadStream(file, { start: from }), response);
}
