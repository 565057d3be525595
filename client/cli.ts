/**
 * One run of the command line: words in, exit code out. Everything that it touches is injected, so that tests run
 * commands in process.
 */
import { readFileSync } from 'node:fs';
import type { Readable } from 'node:stream';
import { Command, CommanderError, Option } from 'commander';
import { EXIT, VmferryError } from '../workflows/failures.ts';
import type { Api } from './api.ts';
import { openApi } from './api.ts';
import { addDoctorCommand } from './commands/doctor.ts';
import { addHelpCommand, helpFooter } from './commands/help.ts';
import { addImagesCommands } from './commands/images.ts';
import { addInstancesCommands } from './commands/instances.ts';
import { addListCommands } from './commands/list.ts';
import { addMovesCommands } from './commands/moves.ts';
import { addNodesCommands } from './commands/nodes.ts';
import { addPackagesCommands } from './commands/packages.ts';
import { addPoolCommands } from './commands/pool.ts';
import { explain, Interrupted, trace } from './failure.ts';
import { FORMATS, Output } from './output.ts';
import type { Format, Sink } from './output.ts';
import { loadProfile } from './profile.ts';
import type { Environment, Profile } from './profile.ts';
import type { Clock, Session } from './session.ts';

export interface Surroundings {
  stdin: Readable & { isTTY?: boolean };
  stdout: Sink;
  stderr: Sink;
  env: Environment;
  clock: Clock;
  /** Aborts on Ctrl-C. */
  interrupt: AbortSignal;
  /** Default: Temporal and the catalog of the profile. */
  openApi?: (profile: Profile) => Api;
}

interface GlobalOptions {
  output?: string;
  profile?: string;
  temporalProfile?: string;
}

/** After Ctrl-C a command may say its last words for so many milliseconds. */
const LAST_WORDS_MS = 1_000;

/**
 * @param argv what follows the program's name
 * @returns the exit code
 */
export async function run(argv: string[], around: Surroundings): Promise<number> {
  const output = new Output({ format: wantedFormat(argv, around.env), stdout: around.stdout, stderr: around.stderr });
  let exit: number = EXIT.ok;
  let profile: Promise<Profile> | undefined;
  let api: Promise<Api> | undefined;
  const program = createProgram(around);
  const session: Session = {
    output,
    env: around.env,
    clock: around.clock,
    interrupt: around.interrupt,
    stdin: around.stdin,
    profile: () => {
      const { profile: file, temporalProfile } = program.opts<GlobalOptions>();
      return (profile ??= loadProfile({ file, temporalProfile, env: around.env }));
    },
    api: () => (api ??= session.profile().then(around.openApi ?? openApi)),
    exitWith: (code) => {
      exit = code;
    },
  };
  addCommands(program, session);
  const done = new AbortController();
  try {
    checkFormat(around.env['VMFERRY_OUTPUT']);
    await Promise.race([program.parseAsync(argv, { from: 'user' }), lastWords(around.interrupt, done.signal)]);
  } catch (error) {
    exit = report(error, output, around);
  } finally {
    done.abort();
    // What could not be opened was reported by the command that wanted it.
    await api?.then((open) => open.close()).catch(() => undefined);
  }
  return exit;
}

/** The program with its global options; commands that are added inherit how it writes and exits. */
function createProgram({ stdout, stderr, env }: Surroundings): Command {
  return new Command('vmferry')
    .description('Move running virtual machines between libvirt hosts')
    .version(version(), '--version', 'show the version')
    .helpOption('--help', 'show what a command does and takes')
    .addOption(
      new Option('--output <format>', 'form of the answer').choices(FORMATS).default(env['VMFERRY_OUTPUT'] || 'text'),
    )
    .option('--profile <file>', 'profile to use (default: ~/.config/vmferry/profile.toml); see `vmferry help profile`')
    .option('--temporal-profile <name>', 'table [profile.NAME] of the profile (default: default)')
    .exitOverride()
    .configureHelp({ showGlobalOptions: true })
    .configureOutput({
      writeOut: (text) => stdout.write(text),
      writeErr: (text) => stderr.write(text),
      // Told once, by `report`.
      outputError: () => undefined,
    })
    .addHelpText('afterAll', helpFooter());
}

function addCommands(program: Command, session: Session): void {
  addListCommands(program, session);
  addInstancesCommands(program, session);
  addImagesCommands(program, session);
  addPackagesCommands(program, session);
  addMovesCommands(program, session);
  addNodesCommands(program, session);
  addPoolCommands(program, session);
  addDoctorCommand(program, session);
  addHelpCommand(program, session);
}

/** Known before the words are parsed, because it decides how a mistake in them is reported. */
function wantedFormat(argv: string[], env: Environment): Format {
  const at = argv.findIndex((word) => word === '--output' || word.startsWith('--output='));
  const word = at === -1 ? env['VMFERRY_OUTPUT'] : (argv[at]?.split('=', 2)[1] ?? argv[at + 1]);
  return FORMATS.find((format) => format === word) ?? 'text';
}

/** The option's choices are checked by commander; the variable is ours. */
function checkFormat(variable: string | undefined): void {
  if (variable === undefined || variable === '' || FORMATS.some((format) => format === variable)) return;
  throw new VmferryError('InvalidInput', `VMFERRY_OUTPUT takes ${FORMATS.join(', ')}, not ${JSON.stringify(variable)}`);
}

/** Ends a command that does not end by itself when interrupted. */
function lastWords(interrupt: AbortSignal, done: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    const wait = (): void => {
      const timer = setTimeout(() => reject(new Interrupted('What was started goes on')), LAST_WORDS_MS);
      done.addEventListener('abort', () => clearTimeout(timer), { once: true });
    };
    if (interrupt.aborted) wait();
    else interrupt.addEventListener('abort', wait, { once: true, signal: done });
  });
}

/** Says what went wrong; the exit code. */
function report(error: unknown, output: Output, { stderr, env }: Surroundings): number {
  if (error instanceof CommanderError) {
    if (error.code === 'commander.helpDisplayed' || error.code === 'commander.version') return EXIT.ok;
    // A group without its command has printed its help.
    if (error.code === 'commander.help') return EXIT.usage;
    const message = error.message.replace(/^error: /, '');
    output.failure(explain(new VmferryError('InvalidInput', message.charAt(0).toUpperCase() + message.slice(1))));
    return EXIT.usage;
  }
  const explanation = explain(error);
  output.failure(explanation);
  if (env['VMFERRY_DEBUG']) stderr.write(`${trace(error)}\n`);
  return explanation.exit;
}

/** Of the package, which lies one folder up, or two in a build. */
function version(): string {
  for (const up of ['../package.json', '../../package.json']) {
    try {
      return (JSON.parse(readFileSync(new URL(up, import.meta.url), 'utf8')) as { version: string }).version;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    }
  }
  return 'unknown';
}
