import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import test from 'node:test';
import { OriginRecord } from '../../activities/package/format.ts';
import { Link } from '../../activities/trust/statements.ts';

await test('the examples in docs/package-format.md are records of this version', async () => {
  const text = await readFile(new URL('../../docs/package-format.md', import.meta.url), 'utf8');
  const [origin, statement, ...more] = [...text.matchAll(/^```json\n([\s\S]+?)^```$/gm)].map(
    ([, json = '']) => JSON.parse(json) as unknown,
  );
  assert.equal(more.length, 0);
  const record = OriginRecord.parse(origin);
  const link = Link.parse(statement);
  assert.equal(link.instanceId, record.instanceId);
  assert.equal(link.type === 'spawn' && link.signerFingerprint, record.sourceFingerprint);
});
