/**
 * Histories as JSON of the protobuf messages. The SDK's own conversion (`historyToJSON`) fails where npm installs protobufjs
 * more than once, as it does here (2026-11, @temporalio 1.24.0).
 */
import { readFile, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import proto from '@temporalio/proto';

/** How the recorded moves went. */
export const HISTORIES = ['moved', 'returned', 'fenced'] as const;
export type HistoryName = (typeof HISTORIES)[number];
export const isHistory = (name: string): name is HistoryName => (HISTORIES as readonly string[]).includes(name);

const { History } = proto.temporal.api.history.v1;
type History = proto.temporal.api.history.v1.IHistory;

const fileOf = (name: string): string => fileURLToPath(new URL(`${name}.json`, import.meta.url));

/** Answers the file's path. */
export async function writeHistory(name: string, history: History): Promise<string> {
  const object = History.toObject(History.fromObject(history), { longs: String, enums: String, bytes: String });
  // Paths of the machine that recorded tell nothing, and replay does not read them.
  const json = JSON.stringify(object, (key, value: unknown) => (key === 'stackTrace' ? '' : value), 1);
  await writeFile(fileOf(name), `${json}\n`);
  return fileOf(name);
}

export async function readHistory(name: string): Promise<History> {
  return History.fromObject(JSON.parse(await readFile(fileOf(name), 'utf8')) as Record<string, unknown>);
}
