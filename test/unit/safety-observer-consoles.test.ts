/** What the observer makes of a console log that grows as logs of guests do. */
import assert from 'node:assert/strict';
import { appendFileSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, it } from 'node:test';
import { ConsoleObserver } from '../safety/observe/consoles.ts';

describe('the observer of consoles', () => {
  let folder: string;
  let path: string;
  let observer: ConsoleObserver;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'vmferry-consoles-'));
    path = join(folder, 'serial.log');
    writeFileSync(path, '');
    observer = new ConsoleObserver();
    observer.add('alpha', 'guest', 1, path);
  });
  afterEach(() => {
    observer.close();
    rmSync(folder, { recursive: true });
  });

  const line = (count: number): string => `ram=${count} disk=${count - 1} uptime=1.234 wall=1795681245913\r\n`;
  const prints = (text: string): void => {
    appendFileSync(path, text);
    observer.look();
  };
  const spans = (): string[][] =>
    observer.logs.map((log) => log.spans.map(({ from, to }) => (from === to ? `${from}` : `${from}-${to}`)));

  it('follows the counts, also of lines that come in pieces', () => {
    prints(line(1) + line(2).slice(0, 7));
    prints(line(2).slice(7) + line(3));
    assert.deepEqual(spans(), [['1-3']]);
  });

  it('takes out what the kernel says in the middle of a line', () => {
    prints(line(1).replace('disk', '[   99.123456] watchdog: late\ndisk') + line(2));
    assert.deepEqual(spans(), [['1-2']]);
  });

  it('sees the first count of a guest that boots again after it was killed in the middle of a line', () => {
    prints(line(1) + line(2) + line(3).slice(0, 9));
    prints(line(1) + line(2));
    assert.deepEqual(spans(), [['1-2', '1-2']]);
  });

  it('knows what is left of a log after a power loss, whose end may be zeros', () => {
    prints(line(1) + line(2) + line(3));
    observer.off('alpha');
    writeFileSync(path, line(1) + '\0'.repeat(100));
    observer.add('alpha', 'guest', 1, path);
    prints(line(1) + line(2));
    assert.deepEqual(spans(), [['1-3'], ['1-2']]);
  });

  it('begins again with a log that begins again', () => {
    prints(line(1) + line(2) + line(3));
    writeFileSync(path, line(1));
    observer.survey();
    assert.deepEqual(spans(), [['1-3'], ['1']]);
  });
});
