/**
 * The old way of moving a running VM, as a careful person does it: virsh save, zip, gpg to the recipient, HTTPS copy,
 * gpg -d, unzip, edit, restore. Each step timed. Both hosts hold the base image and everybody's key already.
 */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import type { Testbed } from '../../infra/testbed/testbed.ts';

/** A directory that both hosts have, each its own. */
const FOLDER = '/var/lib/by-hand';
const GPG = ['--homedir', `${FOLDER}/gnupg`, '--batch', '-q'];

export interface ByHand {
  stepSeconds: Record<string, number>;
  /** Of the file that is copied. */
  packageBytes: number;
}

/** What is done once, before the clock starts: keys, certificates, the XML, the address at the destination. */
export async function prepareByHand(
  testbed: Testbed,
  from: string,
  to: string,
  instance: string,
  ip: string,
  mac: string,
): Promise<void> {
  for (const host of [from, to]) {
    await mkdir(testbed.outside(host, FOLDER), { mode: 0o755 }); // QEMU's user passes through
    await mkdir(testbed.outside(host, `${FOLDER}/gnupg`), { mode: 0o700 });
  }
  await testbed.exec(to, ['gpg', ...GPG, '--passphrase', '', '--quick-gen-key', to, 'default', 'default', 'never']);
  const { stdout: key } = await testbed.exec(to, ['gpg', ...GPG, '--armor', '--export', to]);
  await testbed.exec(from, ['gpg', ...GPG, '--import'], { input: key });
  const { stdout: xml } = await testbed.exec(from, ['virsh', '-q', 'dumpxml', '--inactive', instance]);
  await writeFile(testbed.outside(from, `${FOLDER}/libvirt.xml`), xml);
  const entry = `<host mac='${mac}' name='by-hand' ip='${ip}'/>`;
  await testbed.exec(to, ['virsh', '-q', 'net-update', 'guests', 'add', 'ip-dhcp-host', entry, '--live', '--config']);
  await testbed.exec(from, [
    'openssl',
    ...['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '1', '-subj', `/CN=${from}`],
    ...['-keyout', `${FOLDER}/tls.key`, '-out', `${FOLDER}/tls.crt`],
  ]);
}

/** @param base path of the base image, the same on both hosts */
export async function moveByHand(
  testbed: Testbed,
  from: string,
  to: string,
  instance: string,
  base: string,
): Promise<ByHand> {
  const stepSeconds: Record<string, number> = {};
  const step = async (name: string, host: string, script: string): Promise<string> => {
    const begun = performance.now();
    const { stdout } = await testbed.exec(host, ['bash', '-euo', 'pipefail', '-c', `cd ${FOLDER}; ${script}`]);
    stepSeconds[name] = (performance.now() - begun) / 1000;
    return stdout;
  };
  const xml = await readFile(testbed.outside(from, `${FOLDER}/libvirt.xml`), 'utf8');
  const file = (pattern: RegExp): string => {
    const found = pattern.exec(xml)?.[1];
    if (found === undefined) throw new Error(`the domain XML has nothing like ${pattern.source}`);
    return found;
  };
  const disk = file(/<source file='([^']+vda\.qcow2)'/);
  const kernel = file(/<kernel>([^<]+)</);
  const initrd = file(/<initrd>([^<]+)</);
  const log = file(/<source path='([^']+)'/);

  await step('save', from, `virsh -q save ${instance} snapshot`);
  await step('rebase', from, `cp ${disk} disk.qcow2; qemu-img rebase -u -F qcow2 -b base.qcow2 disk.qcow2`);
  await step(
    'zip',
    from,
    `cp ${kernel} kernel; cp ${initrd} initrd; zip -q -6 vm.zip disk.qcow2 snapshot kernel initrd libvirt.xml`,
  );
  await step(
    'encrypt',
    from,
    `gpg ${GPG.join(' ')} --trust-model always -z 0 --cipher-algo AES256 -r ${to} -o vm.gpg -e vm.zip`,
  );
  const packageBytes = Number(await step('size', from, 'stat -c %s vm.gpg'));
  delete stepSeconds['size'];
  const server = await serveFile(testbed, from);
  try {
    const fetch = join(import.meta.dirname, 'https-file.ts');
    await step('copy', to, `${process.execPath} ${fetch} get https://${from}:7444/ vm.gpg`);
  } finally {
    server.kill();
    await once(server, 'exit');
  }
  await step('decrypt', to, `gpg ${GPG.join(' ')} -o vm.zip -d vm.gpg`);
  await step('unzip', to, 'unzip -q vm.zip');
  const edited = xml
    .replaceAll(disk, `${FOLDER}/disk.qcow2`)
    .replaceAll(kernel, `${FOLDER}/kernel`)
    .replaceAll(initrd, `${FOLDER}/initrd`)
    .replaceAll(log, `${FOLDER}/serial.log`)
    .replace(/<target dev='vf[0-9a-f]+'\/>/, "<target dev='byhand0'/>")
    .replace(/<backingStore type='file'[\s\S]*?<\/backingStore>/, '');
  await writeFile(testbed.outside(to, `${FOLDER}/edited.xml`), edited);
  await step(
    'edit',
    to,
    `qemu-img rebase -u -F qcow2 -b ${base} disk.qcow2; virsh -q save-image-define snapshot edited.xml`,
  );
  await step('restore', to, 'virsh -q restore snapshot');
  return { stepSeconds, packageBytes };
}

/** Where the guest's console goes on after the move. */
export const serialLogByHand = `${FOLDER}/serial.log`;

/** Ends what was started, so that nothing outlives the testbed’s own processes. */
export async function endByHand(testbed: Testbed, host: string): Promise<void> {
  await testbed.exec(host, ['gpgconf', '--homedir', `${FOLDER}/gnupg`, '--kill', 'all']);
}

async function serveFile(testbed: Testbed, host: string): Promise<ReturnType<typeof spawn>> {
  const script = join(import.meta.dirname, 'https-file.ts');
  const command = [
    process.execPath,
    script,
    'serve',
    `${FOLDER}/vm.gpg`,
    `${FOLDER}/tls.key`,
    `${FOLDER}/tls.crt`,
    '7444',
  ];
  const [program, ...args] = testbed.enter(host, command as [string, ...string[]]);
  const server = spawn(program, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  await once(server.stdout, 'data');
  return server;
}
