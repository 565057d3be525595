/** The demo itself: what is done, and what is found out about it. */
import { join } from 'node:path';
import { execa } from 'execa';
import { setTimeout as sleep } from 'node:timers/promises';
import { Layout } from '../../activities/records/layout.ts';
import { workflowId, type MoveResult, type StepRecord } from '../../workflows/contract.ts';
import { VmferryError } from '../../workflows/failures.ts';
import { REPOSITORY } from '../testbed/host.ts';
import { Testbed, type GuestStatus } from '../testbed/testbed.ts';

const SOURCE = 'alpha';
const DESTINATION = 'beta';
export const RATE = '100mbit';

/** What the guest said of itself, and on which host. */
export interface Sighting {
  counter: number;
  token: string;
  bootId: string;
  host: string;
}

/** The last line of the jsonl form. Fields may be added later, never given another meaning. */
export interface Summary {
  type: 'summary';
  /** Everything that a move promises was seen to be so. */
  ok: boolean;
  instance: string;
  from: string;
  to: string;
  /** By step, in order. */
  stepSeconds: Record<string, number>;
  blackoutSeconds: number;
  totalSeconds: number;
  wireBytes: number;
  packageBytes: number;
  before: Sighting;
  after: Sighting;
  /** `ok`, or what is wrong with the guest's disk. */
  diskCheck: string;
  /** Hosts where libvirt runs the instance. */
  runningOn: string[];
  /** Hosts where libvirt knows it. */
  definedOn: string[];
  moveId: string;
  /** The move in the Temporal UI. */
  uiUrl: string;
}

export interface DemoOptions {
  /** Of the testbed. */
  directory: string;
  /** Tells a person what is being done. */
  say: (line: string) => void;
  /** Tells a program what happened. */
  emit: (event: object) => void;
  signal: AbortSignal;
}

export class Demo {
  readonly #options: DemoOptions;

  constructor(options: DemoOptions) {
    this.#options = options;
  }

  /** Moves a guest and answers what came of it; the testbed stays up. Throws VmferryError if it does not get that far. */
  async run(): Promise<Summary> {
    const { directory, say, signal } = this.#options;
    say(`Starting two hosts, ${SOURCE} and ${DESTINATION}, with Temporal and PostgreSQL, in ${directory}`);
    const log = (line: string): void => say(`  ${line}`);
    // A plain folder: on the hosts' own file systems fsync costs less than on a real disk, and the times would flatter.
    const testbed = await Testbed.up({ hosts: 2, directory, diskMib: 0, log, signal });

    const { disk, kernel, initrd, cmdline } = testbed.imagePaths;
    say(`Adding the guest’s base image on ${SOURCE}`);
    const boot = ['--kernel', kernel, '--initrd', initrd, '--cmdline', cmdline];
    const image = await this.#client<{ id: string }>(testbed, ['images', 'add', disk, '--host', SOURCE, ...boot]);

    say(`Spawning an instance on ${SOURCE}`);
    const spawned = await this.#client<{ instanceId: string; address: { ip: string } }>(testbed, [
      ...['images', 'spawn', image.id, '--host', SOURCE, '--name', 'counter'],
    ]);
    const { instanceId, address } = spawned;
    say(`Waiting for http://${address.ip}/ to answer`);
    await this.#answers(testbed, SOURCE, address.ip);

    say(`Shaping the hosts’ links to ${RATE.replace('mbit', ' Mbit/s')}`);
    for (const host of testbed.hosts) await testbed.rate(host, RATE);

    const before = await testbed.guestStatus(SOURCE, address.ip);
    const askedAt = performance.now();
    say(`Moving it to ${DESTINATION}; its counter is at ${before.counter}`);
    const move = await this.#client<MoveResult>(testbed, ['instances', 'migrate', instanceId, DESTINATION]);
    const after = await this.#answers(testbed, DESTINATION, address.ip);
    const passedSeconds = (performance.now() - askedAt) / 1000;

    say(`Asking the guest, libvirt and qemu-img`);
    const diskCheck = await this.#checkDisk(testbed, move);
    const places = await this.#places(testbed, instanceId);
    const same = before.token === after.token && before.bootId === after.bootId;
    const counted = after.counter - before.counter;
    // A tick is 100 ms of the guest's life, and it did not live while it was stopped.
    const plausible = counted > 0 && counted <= passedSeconds * 10 + 1;
    const alone = places.runningOn.join() === DESTINATION && places.definedOn.join() === DESTINATION;
    return {
      type: 'summary',
      ok: same && plausible && alone && diskCheck === 'ok',
      instance: instanceId,
      from: SOURCE,
      to: DESTINATION,
      stepSeconds: move.stepSeconds,
      blackoutSeconds: milliseconds(move.blackoutSeconds),
      totalSeconds: milliseconds(move.totalSeconds),
      wireBytes: move.wireBytes,
      packageBytes: move.packageBytes,
      before: sighting(before),
      after: sighting(after),
      diskCheck,
      ...places,
      moveId: move.moveId,
      uiUrl: `${testbed.uiUrl}/namespaces/default/workflows/${encodeURIComponent(workflowId.instance(instanceId))}/${move.moveId}/history`,
    };
  }

  /** Runs the command line as a user does, tells of the steps that end meanwhile, and answers its result. */
  async #client<T>(testbed: Testbed, command: string[]): Promise<T> {
    const { emit, say, signal } = this.#options;
    const args = [join(REPOSITORY, 'client/main.ts'), '--output', 'jsonl', ...command];
    const client = execa(process.execPath, args, {
      env: { VMFERRY_PROFILE: testbed.profilePath },
      stdin: 'ignore',
      cancelSignal: signal,
      reject: false,
    });
    let result: T | undefined;
    for await (const line of client) {
      const event = JSON.parse(line) as { type: string };
      emit(event);
      if (event.type === 'result') result = event as T;
      if (event.type === 'step') say(`  ${stepLine(event as unknown as StepRecord)}`);
    }
    const { exitCode, stderr } = await client;
    signal.throwIfAborted();
    if (exitCode !== 0 || result === undefined) {
      throw new VmferryError(
        'CommandFailed',
        `vmferry ${command.join(' ')} ended with exit code ${exitCode}: ${stderr}`,
      );
    }
    return result;
  }

  async #answers(testbed: Testbed, host: string, ip: string): Promise<GuestStatus & { host: string }> {
    for (const deadline = performance.now() + 60_000; ; await sleep(100)) {
      this.#options.signal.throwIfAborted();
      try {
        return await testbed.guestStatus(host, ip);
      } catch (error) {
        if (performance.now() > deadline) throw error;
      }
    }
  }

  /** The overlay by qemu-img, and the guest's own file by the guest. */
  async #checkDisk(testbed: Testbed, { instanceId, generation, destination, address }: MoveResult): Promise<string> {
    const overlay = join(new Layout('/var/lib/vmferry').generation(instanceId, generation), 'vda.qcow2');
    // The guest runs and writes: what QEMU has not yet written down shows as leaked clusters (exit code 3), never as errors.
    const check = ['qemu-img', 'check', '-U', '-f', 'qcow2', overlay] as const;
    const { exitCode, stdout, stderr } = await testbed.exec(destination, check, { okExitCodes: [0, 2, 3] });
    if (exitCode === 2) return `qemu-img: ${stdout || stderr}`;
    const { gaps, torn } = await testbed.guestDiskCheck(destination, address.ip);
    return gaps + torn === 0 ? 'ok' : `the guest’s file has ${gaps} gaps and ${torn} torn lines`;
  }

  async #places(testbed: Testbed, instance: string): Promise<Pick<Summary, 'runningOn' | 'definedOn'>> {
    const on = async (flag: string): Promise<string[]> => {
      const found: string[] = [];
      for (const host of testbed.hosts) {
        const { stdout } = await testbed.exec(host, ['virsh', '--quiet', 'list', '--uuid', flag]);
        if (stdout.split('\n').some((line) => line.trim() === instance)) found.push(host);
      }
      return found;
    };
    return { runningOn: await on('--state-running'), definedOn: await on('--all') };
  }
}

const sighting = ({ counter, token, bootId, host }: GuestStatus & { host: string }): Sighting => ({
  counter,
  token,
  bootId,
  host,
});

/** Seconds, to the millisecond. */
const milliseconds = (seconds: number): number => Math.round(seconds * 1000) / 1000;

function stepLine({ step, host, startedAt, endedAt = startedAt, summary = '' }: StepRecord): string {
  const seconds = ((endedAt - startedAt) / 1000).toFixed(2);
  return `${step.padEnd(16)}  ${host.padEnd(8)}  ${seconds.padStart(6)} s  ${summary}`.trimEnd();
}
