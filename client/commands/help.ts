/** What every help ends with, and `vmferry help [COMMAND…]`. */
import type { Command } from 'commander';
import { EXIT, VmferryError } from '../../workflows/failures.ts';
import type { Session } from '../session.ts';

const MEANINGS: Record<keyof typeof EXIT, string> = {
  ok: 'done',
  failure: 'failed; the message says how',
  usage: 'the command, its arguments or the profile are wrong',
  notFound: 'no such instance, image, package, move, host or file',
  conflict: 'busy, in use, or decided already',
  unreachable: 'Temporal, the catalog or a host does not answer',
  refused: 'refused before anything was touched: no space, not compatible',
  untrusted: 'a signature, a fingerprint or the right to run is missing or wrong',
  damaged: 'an image or a package is not what its digests say',
  returned: 'the move failed and the instance runs at its source again',
  parked: 'the move waits for your decision',
  abandoned: 'the move was given up and the instance is saved at its source',
  interrupted: 'interrupted; what was started goes on',
};

/** Printed at the end of every help. */
export function helpFooter(): string {
  const codes = Object.entries(EXIT).map(
    ([name, code]) => `  ${String(code).padStart(3)}  ${MEANINGS[name as keyof typeof EXIT]}`,
  );
  return [
    '',
    'Environment:',
    '  VMFERRY_PROFILE    as --profile',
    '  VMFERRY_OUTPUT     as --output',
    '  TEMPORAL_PROFILE   as --temporal-profile',
    '  TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, …  go before what the profile says',
    '  VMFERRY_DEBUG      set to 1 to see the stacks of errors',
    '',
    'Exit codes:',
    ...codes,
    '',
  ].join('\n');
}

const PROFILE_FORM = `The profile is a TOML file. The tables [profile.NAME] have the form of Temporal's own tools.

  [profile.default]
  address = "127.0.0.1:7233"        # of the Temporal server
  namespace = "default"
  # tls, api_key, grpc_meta: as in Temporal's client configuration

  [vmferry]
  catalog = "postgres://reader@db.example/vmferry"   # a role that may only read
  pool = "/home/operator/pool"      # pool.key and pool.pub; needed by \`nodes add\` only
  ui = "http://127.0.0.1:8233"      # Temporal's web interface; shown, not used

It is read from --profile, else VMFERRY_PROFILE, else \${XDG_CONFIG_HOME:-~/.config}/vmferry/profile.toml.`;

export function addHelpCommand(program: Command, session: Session): void {
  program.helpCommand(false);
  program
    .command('help')
    .argument('[command...]', 'such as: nodes add; or profile')
    .description('Show what a command does and takes')
    .addHelpText('after', '\nExample:\n  vmferry help instances migrate')
    .action((words: string[]) => {
      if (words.length === 1 && words[0] === 'profile') {
        session.output.answer(PROFILE_FORM, { help: PROFILE_FORM });
        return;
      }
      let command = program;
      for (const [index, word] of words.entries()) {
        const next = command.commands.find((one) => one.name() === word || one.aliases().includes(word));
        if (next === undefined) {
          throw new VmferryError(
            'InvalidInput',
            `There is no command ${JSON.stringify(words.slice(0, index + 1).join(' '))}${nearest(word, command)}`,
          );
        }
        command = next;
      }
      command.outputHelp();
    });
}

/** ` (did you mean …?)` when a sibling is spelled almost so. */
function nearest(word: string, parent: Command): string {
  const near = parent.commands
    .map((one) => ({ name: one.name(), distance: editDistance(word, one.name()) }))
    .sort((a, b) => a.distance - b.distance)[0];
  return near !== undefined && near.distance <= Math.max(1, word.length * 0.4) ? ` (did you mean ${near.name}?)` : '';
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const change = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(change, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}
