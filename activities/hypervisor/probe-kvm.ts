/** Whether KVM runs guests, found out by running one: device node, modules and libvirt's capabilities may all say yes without. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { VmferryError } from '../../workflows/failures.ts';
import { run } from '../exec/run.ts';
import { exists } from '../records/durable.ts';

/** probe64.asm, assembled. */
const BOOT_SECTOR = Buffer.from(
  '6gV8AAD6McCO2I7AjtC8AHy/ABC5ACD886vHBgAQAyDHBgAgAzDHBgAwgwAPIOBmDSAGAAAPIuBmuAAQAAAPIthmuYAAAMAPMg0AAQ8w' +
    'DwEWDn0PIMAk+2YNAwAAgA8iwOpmfAgAMcCO2I7AjtC8AHwAAMcEJQBCAADvfAgAZscEJQRCAAAAjg8BHCUUfQAAsBHmILAR5qCwIOYh' +
    'sCjmobAE5iGwAuahsAHmIbAB5qGw/uYhsP/mobA05kOwnOZAsC7mQA9XwGYPdsn7Zg/6wfSDPCUefQAACnLxZg9+wDsEJR59AACwEHMC' +
    'sBHm9PRQ/wQlHn0AALAg5iBYSM8AAAAAAAAAAAAAAAAAmiAADwD+fAAADwIAQA==',
  'base64',
);
/** A floppy's size: AHCI does not boot from a disk of one sector. */
const DISK_BYTES = 1474560;
const PASSED = 33;
/** TCG takes 0.3 s. An accelerator that cannot go on stops the guest but not QEMU. */
const TIMEOUT_MS = 10_000;

/** Does this emulator of x86_64 run 64-bit ring 0 code under the accelerator? Takes up to ten seconds to say no. */
export async function probeAccelerator(emulator: string, accelerator: 'kvm' | 'tcg'): Promise<boolean> {
  const folder = await mkdtemp(join(tmpdir(), 'vmferry-probe-'));
  try {
    const disk = Buffer.alloc(DISK_BYTES);
    BOOT_SECTOR.copy(disk);
    disk.writeUInt16LE(0xaa55, 510);
    const path = join(folder, 'probe.img');
    await writeFile(path, disk);
    // prettier-ignore
    const { exitCode } = await run(emulator, [
      '-accel', accelerator, '-machine', 'q35', '-cpu', 'Nehalem', '-m', '16',
      '-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot',
      '-drive', `file=${path},format=raw,if=ide,snapshot=on`,
      '-device', 'isa-debug-exit,iobase=0xf4,iosize=4',
    ], { timeout: TIMEOUT_MS, okExitCodes: [PASSED] });
    return exitCode === PASSED;
  } catch (error) {
    // Refused at the start, aborted, or stood still: each is the answer.
    if (error instanceof VmferryError && error.type === 'CommandFailed') return false;
    throw error;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** KVM as hosts have it, not as a nested pagetable-virtual machine pretends it. */
export async function probeKvm(emulator: string): Promise<boolean> {
  if (!(await exists('/dev/kvm'))) return false;
  // KVM without hardware support, known to hang kernels without an error; spares ten seconds.
  if (await exists('/sys/module/kvm_pvm')) return false;
  return probeAccelerator(emulator, 'kvm');
}
