/** Sizes, times, fingerprints as people read and write them. */
import { VmferryError } from '../workflows/failures.ts';

const scale =
  (units: readonly string[], base: number) =>
  (bytes: number): string => {
    let power = 0;
    let value = bytes;
    for (; value >= base && power < units.length - 1; power++) value /= base;
    return `${power === 0 ? value.toFixed(0) : value.toFixed(1)} ${units[power] ?? ''}`;
  };

/** What is stored and sent, in powers of 1000 as the histories of moves and the rates of links have it: `40.0 MB`. */
export const formatBytes = scale(['B', 'kB', 'MB', 'GB', 'TB'], 1000);

/** What a guest sees, RAM and disks, in powers of 1024: `256.0 MiB`. */
export const formatCapacity = scale(['B', 'KiB', 'MiB', 'GiB', 'TiB'], 1024);

/**
 * Reads `256MiB`, `1.5G`, `1073741824`. Powers of 1024 throughout, as libvirt and QEMU have them.
 *
 * @throws VmferryError `InvalidInput`
 */
export function parseBytes(text: string, option: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*(?:([KMGT])(?:i?B)?|B)?$/i.exec(text.trim());
  const power = match?.[2] === undefined ? 0 : ' KMGT'.indexOf(match[2].toUpperCase());
  const bytes = Number(match?.[1]) * 1024 ** power;
  if (!Number.isSafeInteger(bytes) || bytes <= 0) {
    throw new VmferryError('InvalidInput', `${option} takes a size such as 256MiB, not ${JSON.stringify(text)}`);
  }
  return bytes;
}

/**
 * @throws VmferryError `InvalidInput`
 */
export function parseWhole(text: string, option: string, least: number, most: number): number {
  const value = /^\d+$/.test(text) ? Number(text) : NaN;
  if (!(value >= least && value <= most)) {
    throw new VmferryError(
      'InvalidInput',
      `${option} takes a whole number from ${least} to ${most}, not ${JSON.stringify(text)}`,
    );
  }
  return value;
}

const INTERVALS = { m: 60, h: 3600, d: 86_400 } as const;

/**
 * Reads `30m`, `12h`, `1d`. In seconds.
 *
 * @throws VmferryError `InvalidInput`
 */
export function parseInterval(text: string, option: string): number {
  const [, count = '', unit = ''] = /^([1-9]\d{0,3})([mhd])$/.exec(text) ?? [];
  if (unit in INTERVALS) return Number(count) * INTERVALS[unit as keyof typeof INTERVALS];
  throw new VmferryError('InvalidInput', `${option} takes a time such as 12h or 1d, not ${JSON.stringify(text)}`);
}

/** As `parseInterval` reads it: `12h`, `1d`. */
export function formatInterval(seconds: number): string {
  const [unit, size] =
    Object.entries(INTERVALS).findLast(([, length]) => seconds >= length && seconds % length === 0) ??
    (['s', 1] as const);
  return `${seconds / size}${unit}`;
}

/** `0.42 s`, `12.3 s`, `4 min 05 s`, `2 h 03 min`. */
export function formatSeconds(seconds: number): string {
  if (seconds < 10) return `${seconds.toFixed(2)} s`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const two = (value: number): string => String(value).padStart(2, '0');
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  return `${Math.floor(whole / 3600)} h ${two(Math.floor((whole % 3600) / 60))} min`;
}

/** Fingerprint in groups of four, eight to a line: what people compare by eye. */
export function formatFingerprint(fingerprint: string): string[] {
  const groups = fingerprint.match(/.{1,4}/g) ?? [];
  const lines: string[] = [];
  for (let at = 0; at < groups.length; at += 8) lines.push(groups.slice(at, at + 8).join(' '));
  return lines;
}

/** Without blanks, colons and case: how fingerprints are compared. */
export function plainFingerprint(text: string): string {
  return text.replaceAll(/[\s:]/g, '').toUpperCase();
}

/** The first eight characters of an id, which name it well enough in a table. */
export function short(id: string): string {
  return id.slice(0, 8);
}

/**
 * The beginning of a move's id. Temporal makes its ids from the time: eight characters would be shared by all moves of
 * one minute, thirteen by those of one millisecond.
 */
export function shortMove(id: string): string {
  return id.slice(0, 13);
}

/** Local date and time to the second. */
export function formatTime(time: string | number | Date): string {
  const date = new Date(time);
  const two = (value: number): string => String(value).padStart(2, '0');
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}
