/** The plain HTTPS copy of the old way: `serve FILE KEY CERT PORT`, `get URL FILE`. */
import { createReadStream, createWriteStream, readFileSync, statSync } from 'node:fs';
import type { IncomingMessage } from 'node:http';
import { createServer, get } from 'node:https';
import { once } from 'node:events';
import { pipeline } from 'node:stream/promises';

const [verb, ...args] = process.argv.slice(2);
if (verb === 'serve') {
  const [file = '', key = '', cert = '', port = ''] = args;
  const server = createServer({ key: readFileSync(key), cert: readFileSync(cert) }, (_request, response) => {
    response.setHeader('content-length', statSync(file).size);
    void pipeline(createReadStream(file), response);
  });
  server.listen(Number(port), () => console.log('ready'));
  process.on('SIGTERM', () => process.exit());
} else {
  const [url = '', file = ''] = args;
  const [response] = (await once(get(url, { rejectUnauthorized: false }), 'response')) as [IncomingMessage];
  await pipeline(response, createWriteStream(file));
}
