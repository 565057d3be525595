/**
 * What lies in the state directory and is neither a record nor finished work: half-written files, what was being deleted, the
 * folders of moves and packages under way. A folder under way is what its move goes on from; whether that move still exists
 * the catalog knows, not this host.
 */
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { finding, type Finding } from '../workflows/findings.ts';
import type { HostContext } from './host-context.ts';
import { CONDEMNED } from './records/condemned.ts';
import { isOrphan } from './records/durable.ts';
import { moveId } from './trust/statements.ts';

/** A deletion that goes on longer than this is none; younger ones are left alone while steps run. */
const DELETION_MS = 60_000;

/** @param alone no step of this worker runs yet, so nothing here is being worked on by it */
export async function leftoversOf(host: HostContext, alone: boolean): Promise<Finding[]> {
  return [...(await unfinishedFiles(host, alone)), ...(await foldersUnderWay(host))];
}

async function unfinishedFiles(host: HostContext, alone: boolean): Promise<Finding[]> {
  const findings: Finding[] = [];
  const temporary = (name: string): boolean => /^\.(tmp|adding|deleting)-/.test(name);
  for await (const { folder, name } of entriesUnder(host.layout.root, temporary)) {
    const path = join(folder, name);
    const about = { host: host.name, subject: `file ${path}`, path };
    const orphan = await isOrphan(name);
    if (orphan === true) {
      findings.push(
        finding('halfWritten', {
          ...about,
          found: 'it was being written by a process that has ended',
          expected: 'nothing of it',
        }),
      );
    } else if (orphan === null && /^\.(tmp|adding)-/.test(name)) {
      findings.push(
        finding('unknownLeftover', {
          ...about,
          found: 'it was being written, and does not say by whom',
          expected: 'nothing of it',
        }),
      );
    } else if (name.startsWith(CONDEMNED) && (alone || (await unchangedFor(path, DELETION_MS)))) {
      const id = name.slice(CONDEMNED.length);
      findings.push(
        finding('halfWritten', {
          ...about,
          ...(folder === host.layout.images && { imageId: id }),
          ...(folder === host.layout.packages && { packageId: id }),
          found: 'its deletion stopped half way',
          expected: 'nothing of it',
        }),
      );
    }
  }
  return findings;
}

async function unchangedFor(path: string, millis: number): Promise<boolean> {
  const stats = await unlessGone(stat(path));
  return stats !== null && Date.now() - stats.ctimeMs > millis;
}

/** All that lies beneath a folder, without what lies in those that `opaque` names. What steps take away meanwhile is not there. */
async function* entriesUnder(
  folder: string,
  opaque: (name: string) => boolean = () => false,
): AsyncGenerator<{ folder: string; name: string; isFile: boolean }> {
  for (const entry of (await unlessGone(readdir(folder, { withFileTypes: true }))) ?? []) {
    yield { folder, name: entry.name, isFile: entry.isFile() };
    if (entry.isDirectory() && !opaque(entry.name)) yield* entriesUnder(join(folder, entry.name), opaque);
  }
}

async function unlessGone<T>(looked: Promise<T>): Promise<T | null> {
  try {
    return await looked;
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return null;
    throw error;
  }
}

const SUFFIXES = { packages: '.partial', images: '.incoming' } as const;

async function foldersUnderWay(host: HostContext): Promise<Finding[]> {
  const { layout } = host;
  const found: Finding[] = [];
  for (const name of await namesIn(layout.moves)) {
    found.push(await underWay(host, 'what a move takes from here', layout.move(name), { moveId: name }));
  }
  for (const name of await namesIn(layout.staging)) {
    const what = 'a package that was opened here, the guest’s memory in clear';
    found.push(await underWay(host, what, layout.stage(name), { moveId: name }));
  }
  for (const name of await namesIn(layout.allIncoming)) {
    found.push(await underWay(host, 'a package on its way here', layout.incoming(name), { packageId: name }));
  }
  for (const name of await namesIn(layout.packages)) {
    if (!name.endsWith(SUFFIXES.packages)) continue;
    const packageId = name.slice(0, -SUFFIXES.packages.length);
    found.push(await underWay(host, 'a package that is being sealed', join(layout.packages, name), { packageId }));
  }
  for (const name of await namesIn(layout.images)) {
    if (!name.endsWith(SUFFIXES.images)) continue;
    const imageId = name.slice(0, -SUFFIXES.images.length);
    found.push(await underWay(host, 'an image on its way here', join(layout.images, name), { imageId }));
  }
  return found;
}

async function underWay(
  host: HostContext,
  what: string,
  path: string,
  whose: Pick<Finding, 'moveId' | 'packageId' | 'imageId'>,
): Promise<Finding> {
  const { bytes, changedAt } = await measure(path);
  const { moveId: move } = whose;
  // A name that no move can have was not made by one.
  const type = move !== undefined && !moveId.safeParse(move).success ? 'unknownLeftover' : 'moveFolderLeft';
  return finding(type, {
    ...{ host: host.name, subject: `folder ${path}`, path, bytes, ...whose },
    found: `${what}: ${bytes} bytes, last written ${new Date(changedAt).toISOString()}`,
    expected: 'gone when whoever made it has ended',
    mend: null,
  });
}

async function measure(folder: string): Promise<{ bytes: number; changedAt: number }> {
  let changedAt = (await unlessGone(stat(folder)))?.mtimeMs ?? Date.now();
  let bytes = 0;
  for await (const entry of entriesUnder(folder)) {
    const stats = entry.isFile ? await unlessGone(stat(join(entry.folder, entry.name))) : null;
    bytes += stats?.size ?? 0;
    changedAt = Math.max(changedAt, stats?.mtimeMs ?? 0);
  }
  return { bytes, changedAt };
}

async function namesIn(folder: string): Promise<string[]> {
  const names = (await unlessGone(readdir(folder))) ?? [];
  return names.filter((name) => !name.startsWith('.')).sort();
}
