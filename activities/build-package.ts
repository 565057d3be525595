/**
 * Step 6 [source]: members become streams, streams become compressed pieces, in `moves/<move>/packed/`.
 *
 * How it can die half way: pieces that are there and still decode to their source are kept by the next attempt.
 */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { HostActivities, MoveRef } from '../workflows/contract.ts';
import { VmferryError } from '../workflows/failures.ts';
import { withHeartbeat, type Work } from './heartbeat.ts';
import type { HostContext } from './host-context.ts';
import { passed } from './marks.ts';
import { requireOwned } from './ownership.ts';
import { diskStream, SNAPSHOT_STREAM } from './package/format.ts';
import { MEMBERS_FILE, Members } from './package/members.ts';
import { packConfig, packStream } from './package/pack.ts';
import { readJson } from './records/durable.ts';
import { MEMBER, type Layout } from './records/layout.ts';
import { withInstanceLock } from './records/lock.ts';

export function createBuildPackage(host: HostContext): HostActivities['buildPackage'] {
  return (input) =>
    withHeartbeat('buildPackage', (work) =>
      withInstanceLock(host.layout, input.instanceId, async () => {
        await requireOwned(host, input);
        return buildPackage(host.layout, input, work);
      }),
    );
}

async function buildPackage(
  layout: Layout,
  input: MoveRef & { compressionLevel: number },
  work: Work,
): Promise<{ plainBytes: number; packedBytes: number }> {
  const from = layout.move(input.moveId);
  const folder = packedFolder(layout, input);
  const level = input.compressionLevel;
  const { disks, members } = await readMembers(layout, input);
  const bulk = [
    { name: SNAPSHOT_STREAM, source: join(from, MEMBER.snapshot) },
    ...disks.map(({ target }) => ({ name: diskStream(target), source: join(from, MEMBER.disk(target)) })),
  ];
  const sizes = await Promise.all(bulk.map(async ({ source }) => (await stat(source)).size));
  const total = sizes.reduce((sum, bytes) => sum + bytes, 0);
  work.onProgress(0, total);

  const files = members.map((name) => ({ name, path: join(from, name) }));
  const config = await packConfig({
    members: files,
    folder,
    level,
    work: { signal: work.signal, onProgress: () => {} },
  });
  let { bytes: plainBytes, packedBytes } = config;
  for (const { name, source } of bulk) {
    const before = plainBytes - config.bytes;
    const progress: Work = { signal: work.signal, onProgress: (bytes) => work.onProgress(before + bytes, total) };
    const packed = await packStream({ name, source, folder, level, work: progress });
    plainBytes += packed.bytes;
    packedBytes += packed.packedBytes;
    await passed('packed');
  }
  return { plainBytes, packedBytes };
}

/** Where a move's streams are packed. */
export const packedFolder = (layout: Layout, move: MoveRef): string => join(layout.move(move.moveId), 'packed');

/** What rebaseOverlay collected. Throws InstanceNotRunning if it has not. */
export async function readMembers(layout: Layout, move: MoveRef): Promise<Members> {
  const members = await readJson(join(layout.move(move.moveId), MEMBERS_FILE), Members);
  if (members) return members;
  throw new VmferryError(
    'InstanceNotRunning',
    `move ${move.moveId} has saved nothing of instance ${move.instanceId} to pack`,
  );
}
