import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { newDomainXml } from '../../activities/hypervisor/domain-xml.ts';
import { saveFileState } from '../../activities/hypervisor/save-file.ts';
import { hypervisorContract } from '../contracts/hypervisor.ts';
import { FakeHypervisor } from '../fakes/hypervisor.ts';

async function newDomain(folder: string): Promise<{ instanceId: string; xml: string }> {
  const instanceId = randomUUID();
  const disk = join(folder, `${instanceId}.qcow2`);
  await writeFile(disk, '');
  const xml = newDomainXml({
    instanceId,
    name: `guest-${instanceId.slice(0, 8)}`,
    memoryBytes: 256 * 2 ** 20,
    vcpus: 1,
    architecture: 'x86_64',
    domainType: 'qemu',
    machines: ['pc-q35-7.2'],
    emulator: '/usr/bin/qemu-system-x86_64',
    disk,
    mac: '52:54:00:77:00:05',
    tap: 'vf0123456789ab',
    serialLog: join(folder, 'serial.log'),
  });
  return { instanceId, xml };
}

hypervisorContract('the fake', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'vmferry-fake-'));
  const fullFolder = join(folder, 'full');
  const hypervisor = new FakeHypervisor({ fullFolder });
  return {
    hypervisor,
    folder,
    fullFolder,
    newDomain: async () => (await newDomain(folder)).xml,
    warmUp: () => Promise.resolve(),
    killLibvirtd: () => Promise.resolve(hypervisor.killLibvirtd()),
    startLibvirtd: () => Promise.resolve(hypervisor.startLibvirtd()),
    orphan: (id) => Promise.resolve(hypervisor.orphan(id)),
    close: () => rm(folder, { recursive: true }),
  };
});

test('The fake has libvirt’s trap: a guest that ran when libvirtd died in its save runs again, beside a complete file', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'vmferry-fake-'));
  try {
    const hypervisor = new FakeHypervisor({ saveMillis: 1, killMillis: 60_000 });
    const { instanceId, xml } = await newDomain(folder);
    await hypervisor.define(xml);
    await hypervisor.start(instanceId);
    const path = join(folder, 'save');
    const { finished } = hypervisor.save(instanceId, path);
    while ((await saveFileState(path)) !== 'complete');
    hypervisor.killLibvirtd();
    await assert.rejects(finished);
    hypervisor.startLibvirtd();
    assert.equal((await hypervisor.find(instanceId))?.state, 'running');
    assert.equal(await saveFileState(path), 'complete');
  } finally {
    await rm(folder, { recursive: true });
  }
});

test('The fake loses transient domains and all processes with the host’s power', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'vmferry-fake-'));
  try {
    const hypervisor = new FakeHypervisor();
    const { instanceId, xml } = await newDomain(folder);
    await hypervisor.define(xml);
    await hypervisor.start(instanceId);
    hypervisor.setRam(instanceId, 'token');
    await hypervisor.suspend(instanceId);
    await hypervisor.save(instanceId, join(folder, 'save')).finished;
    await hypervisor.undefine(instanceId);
    await hypervisor.restorePaused(join(folder, 'save'));
    assert.equal(hypervisor.ramOf(instanceId), 'token');
    hypervisor.powerLoss();
    assert.equal(await hypervisor.find(instanceId), null);
  } finally {
    await rm(folder, { recursive: true });
  }
});
