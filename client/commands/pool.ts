/** `vmferry pool`: the operator's key, whose signature makes a host a member. The private part never leaves this machine. */
import type { Command } from 'commander';
import { VmferryError } from '../../workflows/failures.ts';
import { formatFingerprint } from '../format.ts';
import { fields } from '../output.ts';
import type { Profile } from '../profile.ts';
import type { Session } from '../session.ts';
import type { PoolKey } from '../../activities/trust/pool-key.ts';

export function addPoolCommands(program: Command, session: Session): void {
  const pool = program.command('pool').description('Make or show the key that certifies hosts');

  pool
    .command('init')
    .description('Make the pool key in the folder that the profile names')
    .addHelpText('after', '\nExample:\n  vmferry pool init --profile ./profile.toml')
    .action(async () => {
      const profile = await session.profile();
      const folder = poolFolder(profile);
      const { createPoolKey, loadPoolKey } = await import('../../activities/trust/pool-key.ts');
      if ((await loadPoolKey(folder)) !== null) {
        throw new VmferryError('AlreadyExists', `There is a pool key in ${folder} already`);
      }
      show(session, folder, await createPoolKey(folder), `Pool key created in ${folder}`);
      session.output.note(`Install ${folder}/pool.pub on every host, and keep ${folder}/pool.key to yourself.`);
    });

  pool
    .command('show')
    .description('Show the fingerprint of the pool key')
    .addHelpText('after', '\nExample:\n  vmferry pool show --output json')
    .action(async () => {
      const profile = await session.profile();
      const key = await requirePoolKey(profile);
      show(session, poolFolder(profile), key);
    });
}

function show(session: Session, folder: string, key: PoolKey, headline?: string): void {
  const [first, ...rest] = formatFingerprint(key.fingerprint);
  const text = fields([
    ['Fingerprint', first],
    ...rest.map((line): [string, string] => ['', line]),
    ['Public key', `${folder}/pool.pub`],
  ]).replaceAll(/^:/gm, ' ');
  session.output.answer(headline === undefined ? text : `${headline}\n${text}`, {
    fingerprint: key.fingerprint,
    publicKeyFile: `${folder}/pool.pub`,
  });
}

/** @throws VmferryError `PoolKeyMissing` if the profile names none */
export function poolFolder(profile: Profile): string {
  if (profile.pool !== null) return profile.pool;
  throw new VmferryError('PoolKeyMissing', `The profile ${profile.file} names no folder \`pool\` in [vmferry]`);
}

/**
 * The operator's key.
 *
 * @throws VmferryError `PoolKeyMissing`
 */
export async function requirePoolKey(profile: Profile): Promise<PoolKey> {
  const folder = poolFolder(profile);
  const { loadPoolKey } = await import('../../activities/trust/pool-key.ts');
  const key = await loadPoolKey(folder);
  if (key === null) throw new VmferryError('PoolKeyMissing', `There is no pool key in ${folder}`);
  return key;
}
