import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { loadProfile, parseProfile, profilePath } from '../../client/profile.ts';
import type { ProfileChoice } from '../../client/profile.ts';
import { VmferryError } from '../../workflows/failures.ts';

const GOOD = `# comment
[profile.default]
address = "127.0.0.1:7233"

[profile.office]
address = "temporal.office:7233"
namespace = "vm"

[vmferry]
catalog = "postgres://reader@db/vmferry"
pool = "keys"
ui = "http://127.0.0.1:8233/"
`;

const parse = (text: string, choice: Partial<ProfileChoice> = {}) =>
  parseProfile('/p/profile.toml', text, { env: {}, ...choice });
const complaint = async (text: string, choice: Partial<ProfileChoice> = {}): Promise<string> => {
  try {
    await parse(text, choice);
  } catch (error) {
    assert.ok(error instanceof VmferryError);
    assert.equal(error.type, 'ProfileInvalid');
    return error.message;
  }
  return assert.fail('the profile was accepted');
};

describe('the profile', () => {
  it('says where everything is', async () => {
    const { text, ...profile } = await parse(GOOD);
    assert.equal(text, GOOD);
    assert.deepEqual(profile, {
      file: '/p/profile.toml',
      temporalProfile: 'default',
      temporal: { address: '127.0.0.1:7233', namespace: 'default' },
      catalog: 'postgres://reader@db/vmferry',
      pool: '/p/keys',
      ui: 'http://127.0.0.1:8233',
    });
  });

  it('has several tables for Temporal, chosen by option or environment', async () => {
    const office = { address: 'temporal.office:7233', namespace: 'vm' };
    assert.deepEqual((await parse(GOOD, { temporalProfile: 'office' })).temporal, office);
    assert.deepEqual((await parse(GOOD, { env: { TEMPORAL_PROFILE: 'office' } })).temporal, office);
  });

  it('gives way to Temporal’s own environment variables', async () => {
    const env = { TEMPORAL_ADDRESS: 'other:1', TEMPORAL_NAMESPACE: 'n' };
    assert.deepEqual((await parse(GOOD, { env })).temporal, { address: 'other:1', namespace: 'n' });
  });

  it('refuses an address in the environment that is none', async () => {
    assert.match(
      await complaint(GOOD, { env: { TEMPORAL_ADDRESS: 'localhost' } }),
      /^TEMPORAL_ADDRESS must be host:port/,
    );
  });

  it('names file, line and complaint where it is no TOML', async () => {
    assert.match(await complaint('[profile.default]\naddress = "127.0.0.1:7233\n'), /\/p\/profile\.toml, line 2: \S/);
    assert.match(await complaint('[profile.default]\n\naddress = yes please\n'), /line 3/);
  });

  it('names file, line and key where the content is wrong', async () => {
    assert.match(await complaint(GOOD.replace('"127.0.0.1:7233"', '7233')), /line 3: profile\.default\.address: /);
    assert.match(
      await complaint(GOOD.replace('127.0.0.1:7233', 'nowhere')),
      /line 3: profile\.default\.address: must be host:port/,
    );
    assert.match(await complaint(GOOD.replace('catalog', 'catalogue')), /line 10: there is no key vmferry\.catalogue/);
    assert.match(
      await complaint(GOOD.replace('postgres:', 'mysql:')),
      /line 10: vmferry\.catalog: must be a postgres:\/\/ URL/,
    );
    assert.match(await complaint('[profile.default]\nnamespace = "x"\n'), /line 1: profile\.default\.address/);
    assert.match(await complaint('[vmferry]\n'), /profile/);
    assert.match(
      await complaint('colour = "red"\n[profile.default]\naddress = "a:1"\n'),
      /line 1: there is no key colour/,
    );
  });

  it('says which tables there are when another is asked for', async () => {
    assert.match(
      await complaint(GOOD, { temporalProfile: 'home' }),
      /no \[profile\.home\] \(there is: default, office\)/,
    );
  });

  describe('as a file', () => {
    let folder = '';
    before(async () => {
      folder = await mkdtemp(join(tmpdir(), 'vmferry-profile-'));
      await writeFile(join(folder, 'good.toml'), GOOD);
    });
    after(() => rm(folder, { recursive: true }));

    it('is read from the option before the environment before the home folder', async () => {
      const file = join(folder, 'good.toml');
      assert.equal((await loadProfile({ file, env: { VMFERRY_PROFILE: '/elsewhere' } })).file, file);
      assert.equal((await loadProfile({ env: { VMFERRY_PROFILE: file } })).file, file);
      assert.equal(profilePath({ env: { HOME: '/home/x' } }), '/home/x/.config/vmferry/profile.toml');
      assert.equal(profilePath({ env: { HOME: '/home/x', XDG_CONFIG_HOME: '/etc/x' } }), '/etc/x/vmferry/profile.toml');
    });

    it('is named when it is not there or cannot be read', async () => {
      const choice = { env: {}, file: join(folder, 'none.toml') };
      await assert.rejects(loadProfile(choice), {
        type: 'ProfileInvalid',
        message: `There is no profile ${choice.file}`,
      });
      await assert.rejects(loadProfile({ env: {}, file: folder }), { message: `The profile ${folder} cannot be read` });
    });
  });
});
