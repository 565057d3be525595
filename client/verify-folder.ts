/** Runs the offline check of a package in a folder of this machine, which needs the keys of a host. */
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import type { PackageFacts } from '../workflows/contract.ts';
import { isFailureType, VmferryError } from '../workflows/failures.ts';

/** A program of its own, since the client works where there is no host; beside it in the sources and in dist/ alike. */
const PROGRAM = fileURLToPath(new URL(`../workers/verify-folder${import.meta.url.slice(-3)}`, import.meta.url));

/** @param hostConfig of the host whose keys open the package; default /etc/vmferry/host.json */
export async function verifyFolder(folder: string, hostConfig?: string): Promise<PackageFacts> {
  const config = hostConfig === undefined ? [] : ['--config', hostConfig];
  const { stdout, stderr, exitCode } = await execa(process.execPath, [PROGRAM, ...config, folder], { reject: false });
  if (exitCode === 0) return JSON.parse(stdout) as PackageFacts;
  if (stdout === '') throw new VmferryError('Internal', `the check of ${folder} ended early: ${stderr.slice(-500)}`);
  const { type, message } = JSON.parse(stdout) as { type: string; message: string };
  throw new VmferryError(isFailureType(type) ? type : 'Internal', message);
}
