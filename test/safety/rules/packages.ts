/** Invariant 3, packages: once sealed, envelopes may be added, and nothing else ever changes. Invariant 5: they stay. */
import type { History, SealedPackage, Violation } from '../history.ts';
import { isEnvelope } from './copies.ts';
import { tookUnsynced } from './excuses.ts';
import { when } from './view.ts';

/** @param mine ids of the packages to judge; null: all */
export function sealedPackages(history: History, mine: ReadonlyMap<string, string> | null): Violation[] {
  return history.packages
    .filter(({ id }) => mine === null || mine.has(id))
    .flatMap((sealed) => [...altered(history, sealed, mine), ...lost(history, sealed, mine)]);
}

function altered(
  history: History,
  { host, id, changes }: SealedPackage,
  mine: ReadonlyMap<string, string> | null,
): Violation[] {
  return changes
    .filter(({ file, what }) => !(isEnvelope(file) && (what === 'added' || /\.partial$|^\.tmp-/.test(file))))
    .map(({ at, file, what }) => ({
      invariant: 3,
      instance: mine?.get(id) ?? null,
      hosts: [host],
      at,
      text: `package ${id} on ${host} is not what was sealed: ${file} was ${said[what]} at ${when(history, at)}`,
    }));
}

const said = {
  added: 'added',
  written: 'written to',
  removed: 'removed',
  'digest differs': 'found with another digest',
} as const;

/** It has its name before that is durable; until then nobody is told of it. */
const UNTOLD_MS = 5_000;

function lost(
  history: History,
  { host, id, appeared, gone }: SealedPackage,
  mine: ReadonlyMap<string, string> | null,
): Violation[] {
  const asked = history.disturbances.some(({ kind, ids }) => kind === 'operator-deleted' && ids?.includes(id) === true);
  if (!gone || asked) return [];
  const powerLoss = tookUnsynced(history, host, gone);
  if (powerLoss && appeared.by >= powerLoss.at - UNTOLD_MS) return [];
  return [
    {
      invariant: 5,
      instance: mine?.get(id) ?? null,
      hosts: [host],
      at: gone.by,
      text: `package ${id} was removed from ${host} by ${when(history, gone.by)}, though nobody had asked for it`,
    },
  ];
}
