/** Writes one tar archive of regular files and ends. Started by pack.ts, which says why it is a thread. */
import { createWriteStream, statSync } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { workerData } from 'node:worker_threads';
import { TarArchive } from 'archiver';

const { path, members } = workerData as { path: string; members: { name: string; path: string }[] };

const archive = new TarArchive();
archive.on('warning', (warning) => {
  throw warning;
});
const written = pipeline(archive, createWriteStream(path, { flags: 'r+' }));
for (const member of members) {
  // With `stats` archiver streams the file; with `size` it would hold all of it in memory (archiver 8, November 2026).
  archive.file(member.path, { name: member.name, stats: statSync(member.path), date: new Date(0), mode: 0o600 });
}
await archive.finalize();
await written;
