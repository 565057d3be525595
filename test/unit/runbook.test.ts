/**
 * docs/runbook.md is held to the code: whatever can park a move or keep it waiting has a section whose heading is the text
 * that the user sees, and every command that a section names exists, with the options that it is given.
 */
import assert from 'node:assert/strict';
import { existsSync, globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { isFailureType, type FailureType } from '../../workflows/failures.ts';
import { FINDINGS } from '../../workflows/findings.ts';
import { command } from '../fakes/client-api.ts';
import { failureForms, texts } from '../support/failure-forms.ts';

const ROOT = join(import.meta.dirname, '../..');
const PAGE = readFileSync(join(ROOT, 'docs/runbook.md'), 'utf8');

/** What a step uses without importing it: ports that are given to it. */
const ADAPTERS = [
  'activities/trust/ledger.ts',
  'activities/trust/pool.ts',
  'activities/hypervisor/libvirt-hypervisor.ts',
  'activities/network/libvirt-guest-network.ts',
];

/** Types that a move’s steps could throw by what they import, and that never keep a move: with the reason. */
const NEVER_KEEPS: Partial<Record<FailureType, string>> = {
  FileNotFound: 'thrown while a pool key is made, on the operator’s machine',
  InstanceRunning: 'refused before a move is opened',
  PoolMismatch: 'a host worker that has it does not start',
};

interface Heading {
  /** Null for what is no failure. */
  type: FailureType | null;
  /** With `…` for what varies. */
  text: string;
  body: string;
}

function headingsOf(page: string): Heading[] {
  return page
    .split(/^### /m)
    .slice(1)
    .map((section) => {
      const [head = '', ...rest] = section.split('\n');
      const [, type = '', text = ''] = /^([A-Z][A-Za-z]+): (.*)$/.exec(head) ?? [];
      const body = rest.join('\n').split(/^#/m)[0] ?? '';
      return isFailureType(type) ? { type, text, body } : { type: null, text: head, body };
    });
}

/** Does the heading say what the code says, with more or fewer of its variable parts filled in? */
function says(heading: string, form: string): boolean {
  const literal = (text: string): string => text.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&');
  return new RegExp(`^${form.split('…').map(literal).join('.+')}$`, 's').test(heading);
}

/** The files of the steps that workflows of moves call on a host. */
function stepFiles(): string[] {
  const source = globSync('workflows/{move/*,migrate,save,restore}.ts', { cwd: ROOT })
    .map((file) => readFileSync(join(ROOT, file), 'utf8'))
    .join('\n');
  const called = [...source.matchAll(/\b(?:host|source|destination|at|asked)\.([a-z][A-Za-z]+)\(/g)].map(
    ([, name = '']) => `activities/${name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}.ts`,
  );
  return [...new Set(called.map((file) => file.replace(/preflight-(source|destination)/, 'preflight')))]
    .filter((file) => existsSync(join(ROOT, file)))
    .sort();
}

describe('the runbook', () => {
  const headings = headingsOf(PAGE);
  const forms = failureForms([...stepFiles(), ...ADAPTERS, 'activities/catalog/moves.ts', 'workflows/failing.ts']);
  const others = failureForms([
    ...globSync('{workflows,client}/**/*.ts', { cwd: ROOT }),
    'activities/trust/fences.ts', // signed with where the client runs
  ]);
  const spoken = texts(globSync('{workflows,client}/**/*.ts', { cwd: ROOT }));

  test('knows the steps of a move', () => {
    const steps = stepFiles();
    for (const step of [
      'save-instance',
      'transfer-package',
      'restore-instance',
      'release-instance',
      'return-instance',
    ]) {
      assert.ok(steps.includes(`activities/${step}.ts`), `${step} is none of ${steps.join(', ')}`);
    }
  });

  test('has a section for every failure that can keep a move', () => {
    const types = new Set(forms.map(({ type }) => type));
    const told = new Set(headings.map(({ type }) => type as string));
    const missing = [...types].filter((type) => !told.has(type) && !(type in NEVER_KEEPS));
    assert.deepEqual(missing, []);
    const idle = Object.keys(NEVER_KEEPS).filter((type) => !types.has(type) || told.has(type));
    assert.deepEqual(idle, [], 'these need no exception');
  });

  test('heads its sections by what the user sees', () => {
    for (const { type, text } of headings) {
      if (type === null) {
        if (text.includes('…'))
          assert.ok(
            spoken.some((one) => says(text, one)),
            `nobody says “${text}”`,
          );
        continue;
      }
      const messages = [...forms, ...others].filter((form) => form.type === type).map(({ message }) => message);
      // A message that is made elsewhere may be any text that is said somewhere; of a type with no other, anything.
      const made = messages.includes('…') ? spoken : [];
      const literal = [...messages, ...made].filter((message) => message !== '…');
      const free = messages.every((message) => message === '…') && type === 'CommandFailed';
      assert.ok(free || literal.some((message) => says(text, message)), `nobody says “${type}: ${text}”`);
    }
  });

  test('tells of every finding of the doctor that needs a person', () => {
    const serious = Object.entries(FINDINGS).filter(([, { severity }]) => severity !== 'info');
    assert.deepEqual(
      [...PAGE.matchAll(/^\| `([A-Za-z]+)` +\|/gm)].map(([, name]) => name),
      serious.map(([name]) => name),
    );
  });

  test('has one section for each text, and each says what to do and what is safe', () => {
    const heads = headings.map(({ type, text }) => `${type}: ${text}`);
    assert.deepEqual(heads, [...new Set(heads)]);
    for (const chapter of PAGE.split(/^## /m)) {
      // Said once for a whole chapter where it is the same for all.
      const safe = /^In all of these/m.test(chapter.split(/^### /m)[0] ?? '');
      for (const { type, text, body } of headingsOf(chapter).filter((one) => one.type !== null)) {
        assert.match(body, /\*\*[Dd]o\*\*/, `${type}: ${text}`);
        assert.ok(safe || body.includes('**Safe now**'), `${type}: ${text} does not say what is safe now`);
      }
    }
  });

  test('names only commands and options that there are', async () => {
    const said = [...PAGE.matchAll(/`(?:[^`\n]* )?(vmferry [^`\n]+)`|^ *\$? ?(vmferry .+)$/gm)].map(
      ([, inline, block]) => inline ?? block ?? '',
    );
    assert.equal(said.length, PAGE.match(/`vmferry /g)?.length, 'no command is broken over lines');
    for (const line of new Set(said)) {
      const words = line.split(/\s+/).slice(1);
      const path = words.slice(0, words.findIndex((word) => !/^[a-z][a-z-]*$/.test(word)) >>> 0);
      const { exit, stdout } = await command(`help ${path.join(' ')}`);
      assert.equal(exit, 0, line);
      assert.ok(stdout.startsWith(`Usage: vmferry ${path.join(' ')}`), line);
      for (const option of line.match(/--[a-z-]+/g) ?? []) assert.ok(stdout.includes(option), `${line}: ${option}`);
    }
  });

  test('links to sections and files that there are', () => {
    const anchors = [...PAGE.matchAll(/^#+ (.*)$/gm)].map(([, text = '']) =>
      text
        .toLowerCase()
        .replaceAll(/[^\p{L}\p{N} -]/gu, '')
        .replaceAll(' ', '-'),
    );
    for (const [, target = ''] of PAGE.matchAll(/\]\(([^)]+)\)/g)) {
      if (target.startsWith('#')) assert.ok(anchors.includes(target.slice(1)), target);
      else assert.ok(existsSync(join(ROOT, 'docs', target.split('#')[0] ?? '')), target);
    }
  });
});
