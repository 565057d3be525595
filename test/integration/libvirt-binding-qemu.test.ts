/** The libvirt binding on a real libvirtd of its own with QEMU guests. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual, promisify } from 'node:util';
import {
  AgentTimeout,
  CloseReason,
  Connection,
  CpuCompareResult,
  DomainSaveFlag,
  DomainState,
  DomainXmlFlag,
  ErrorCode,
  JobOperation,
  JobType,
  LifecycleEvent,
  LibvirtError,
  MonitorCommandFlag,
  NetworkSection,
  NetworkUpdateAffect,
  NetworkUpdateCommand,
  PausedReason,
  RunningReason,
  SharedConnection,
  SnapshotCreateFlag,
  StoppedDetail,
  isLibvirtError,
  withOwnConnection,
} from 'libvirt';
import type { JobStats, Lifecycle } from 'libvirt';
import { libvirtdMissing, startLibvirtd, writeTinyGuest } from '../support/libvirtd.ts';
import type { TestLibvirtd } from '../support/libvirtd.ts';

const skip = await libvirtdMissing();

describe('The libvirt binding on QEMU', { skip, timeout: 180_000 }, () => {
  const uuid = '6b1d2c3e-0000-4000-8000-000000000001';
  let libvirtd: TestLibvirtd;
  let connection: Connection;
  const seen: Lifecycle[] = [];

  before(async () => {
    libvirtd = await startLibvirtd();
    connection = await Connection.open(libvirtd.uri, { onLifecycle: (event) => seen.push(event) });
    await connection.domainDefine(await writeTinyGuest(libvirtd.directory, 'tiny', uuid));
  });
  after(async () => {
    await connection?.close();
    await libvirtd?.stop();
  });

  const own = <T>(use: (own: Connection) => Promise<T>): Promise<T> => withOwnConnection(libvirtd.uri, use);

  async function running(): Promise<void> {
    if (await connection.domainIsActive(uuid)) return;
    await own((c) => c.domainCreate(uuid));
    await until(async () => (await counter()) > 0);
  }

  /** A save into a pipe goes on for as long as nobody reads: QEMU fills the pipe's buffer and waits. */
  async function pipe(name: string): Promise<string> {
    const path = join(libvirtd.directory, name);
    await promisify(execFile)('mkfifo', [path]);
    return path;
  }

  /** What the guest counts in its memory. */
  async function counter(): Promise<number> {
    const reply = await connection.domainMonitorCommand(uuid, 'xp /1uw 0x101000', MonitorCommandFlag.HMP);
    return Number(/:\s+(\d+)/.exec(reply)?.[1]);
  }

  /** The first polls may come before the job, and before its figures. */
  async function jobBegun(): Promise<JobStats> {
    for (let attempt = 0; attempt < 200; attempt++) {
      const stats = await connection.domainJobStats(uuid);
      if (stats.type !== JobType.NONE && stats['memory_total']) return stats;
      await sleep(20);
    }
    assert.fail('no job began');
  }

  test('describes the host', async () => {
    assert.match(await connection.hostname(), /./);
    assert.ok((await connection.version()) > 7_000_000);
    assert.match(await connection.domainCapabilities({ type: 'qemu', arch: 'x86_64' }), /<domainCapabilities>/);
    const memory = await connection.nodeMemoryStats();
    assert.ok((memory['total'] ?? 0) > (memory['free'] ?? Infinity));
    const cpu = "<cpu mode='custom' match='exact'><model>qemu64</model></cpu>";
    const result = await connection.compareCPU(cpu, { type: 'qemu', arch: 'x86_64', machine: 'pc' });
    assert.equal(result, CpuCompareResult.SUPERSET);
  });

  test('suspends, saves, restores paused and resumes, and tells of each', async () => {
    await running();
    seen.length = 0;
    await connection.domainSuspend(uuid);
    assert.deepEqual(await connection.domainState(uuid), { state: DomainState.PAUSED, reason: PausedReason.USER });
    const counted = await counter();
    assert.ok(counted > 0);
    const file = join(libvirtd.directory, 'paused.save');
    await own((c) => c.domainSave(uuid, file));
    assert.equal((await readFile(file)).toString('latin1', 0, 16), 'LibvirtQemudSave');
    assert.match(await connection.saveImageXML(file), new RegExp(uuid));
    assert.equal(await connection.domainIsActive(uuid), false);

    await own((c) => c.domainRestore(file, null, DomainSaveFlag.PAUSED));
    assert.equal((await connection.domainState(uuid)).state, DomainState.PAUSED);
    assert.equal(await counter(), counted);
    await connection.domainResume(uuid);
    await until(async () => (await counter()) > counted);
    const state = { state: DomainState.RUNNING, reason: RunningReason.UNPAUSED };
    assert.deepEqual(await connection.domainState(uuid), state);
    const stopped = seen.find(({ event }) => event === LifecycleEvent.STOPPED);
    assert.equal(stopped?.detail, StoppedDetail.SAVED);
    assert.equal(seen.at(-1)?.event, LifecycleEvent.RESUMED);

    await own((c) => c.domainSaveParams(uuid, { file: `${file}2` }));
    await own((c) => c.domainRestoreParams({ file: `${file}2` }, DomainSaveFlag.RUNNING));
    assert.equal((await connection.domainState(uuid)).state, DomainState.RUNNING);
  });

  test('answers polls at once while a save is under way on its own connection', async () => {
    await running();
    const path = await pipe('slow');
    const saved = own((c) => c.domainSave(uuid, path));
    const reader = await open(path, 'r');
    const stats = await jobBegun();
    assert.equal(stats.type, JobType.UNBOUNDED);
    assert.equal(stats['operation'], JobOperation.SAVE);
    assert.ok(Number(stats['memory_total']) >= 64 * 1024 * 1024);
    for (let i = 0; i < 20; i++) {
      const begun = performance.now();
      await connection.domainJobStats(uuid);
      assert.ok(performance.now() - begun < 1000, 'a poll waited for the save');
      await sleep(25);
    }
    await reader.readFile();
    await saved; // libvirt opens the file once more at the end, to mark it as complete
    await reader.close();
    assert.equal(await connection.domainIsActive(uuid), false);
  });

  test('aborts a save from another connection, and the guest runs on', async () => {
    await running();
    const path = await pipe('aborted');
    const saved = own((c) => c.domainSave(uuid, path));
    const reader = await open(path, 'r');
    await jobBegun();
    const rejected = assert.rejects(saved, (error) => isLibvirtError(error, ErrorCode.OPERATION_ABORTED));
    await connection.domainAbortJob(uuid);
    await reader.readFile(); // libvirt waits for its helper, which waits for the pipe
    await rejected;
    await reader.close();
    assert.equal((await connection.domainState(uuid)).state, DomainState.RUNNING);
    await assert.rejects(connection.domainAbortJob(uuid), (error) =>
      isLibvirtError(error, ErrorCode.OPERATION_INVALID),
    );
  });

  test('saves live with a snapshot that halts, and takes a speed limit meanwhile', async () => {
    await running();
    const memory = join(libvirtd.directory, 'live.save');
    await connection.domainMigrateSetMaxSpeed(uuid, 100);
    const name = await own((c) =>
      c.domainSnapshotCreateXML(
        uuid,
        `<domainsnapshot><name>s1</name><memory snapshot='external' file='${memory}'/></domainsnapshot>`,
        SnapshotCreateFlag.NO_METADATA | SnapshotCreateFlag.LIVE | SnapshotCreateFlag.HALT,
      ),
    );
    assert.equal(name, 's1');
    assert.equal((await readFile(memory)).toString('latin1', 0, 16), 'LibvirtQemudSave');
    assert.equal((await connection.domainState(uuid)).state, DomainState.SHUTOFF);
  });

  test('talks to QEMU’s monitor, and says what is missing when there is no agent', async () => {
    await running();
    const status = await connection.domainMonitorCommand(uuid, '{"execute":"query-status"}');
    assert.match(status, /"status":"running"/);
    await assert.rejects(
      own((c) => c.domainAgentCommand(uuid, '{"execute":"guest-ping"}', AgentTimeout.NOWAIT)),
      (error) => isLibvirtError(error, ErrorCode.ARGUMENT_UNSUPPORTED),
    );
    await assert.rejects(
      own((c) => c.domainSetTime(uuid, 1_800_000_000, 5)),
      LibvirtError,
    );
    await assert.rejects(connection.domainUpdateDevice(uuid, '<interface type="none"/>'), LibvirtError);
    await connection.domainShutdown(uuid);
  });

  test('gives the XML that a migration needs', async () => {
    const flags = DomainXmlFlag.SECURE | DomainXmlFlag.INACTIVE | DomainXmlFlag.MIGRATABLE;
    assert.match(await connection.domainXML(uuid, flags), /<cpu mode='custom'/);
  });

  test('makes a network, changes it while it runs, and removes it', async () => {
    const { uuid: network } = await connection.networkDefine(`<network><name>guests</name>
      <bridge name='vfbind0' stp='off' delay='0'/>
      <ip address='10.78.0.1' netmask='255.255.255.0'><dhcp/></ip></network>`);
    await connection.networkCreate(network);
    assert.equal(await connection.networkIsActive(network), true);
    const host = "<host mac='52:54:00:78:00:05' ip='10.78.0.5'/>";
    const both = NetworkUpdateAffect.LIVE | NetworkUpdateAffect.CONFIG;
    const { ADD_LAST, DELETE } = NetworkUpdateCommand;
    const section = NetworkSection.IP_DHCP_HOST;
    await connection.networkUpdate(network, ADD_LAST, section, host, both);
    await assert.rejects(connection.networkUpdate(network, ADD_LAST, section, host, both), (error) =>
      isLibvirtError(error, ErrorCode.OPERATION_INVALID),
    );
    assert.match(await connection.networkXML(network), /10\.78\.0\.5/);
    await connection.networkUpdate(network, DELETE, section, host, both);
    assert.doesNotMatch(await connection.networkXML(network), /10\.78\.0\.5/);
    await connection.networkDestroy(network);
    await connection.networkUndefine(network);
    await assert.rejects(connection.networkByUUID(network), (error) => isLibvirtError(error, ErrorCode.NO_NETWORK));
  });

  test('reports a libvirtd that stops answering, within the keepalive', async () => {
    const closed: number[] = [];
    const impatient = await Connection.open(libvirtd.uri, {
      onClose: (reason) => closed.push(reason),
      keepalive: { interval: 1, count: 1 },
    });
    await libvirtd.signal('STOP');
    try {
      await assert.rejects(impatient.hostname(), (error) => isLibvirtError(error) && error.connectionLost);
      await until(() => closed.length > 0);
      assert.deepEqual(closed, [CloseReason.KEEPALIVE]);
      assert.equal(await impatient.isAlive(), false);
    } finally {
      await libvirtd.signal('CONT');
      await impatient.close();
    }
  });

  test('reports a killed libvirtd to listener and caller, and finds the guest again after its restart', async () => {
    await running();
    const closed: number[] = [];
    const shared = new SharedConnection(libvirtd.uri, { onClose: (reason) => closed.push(reason) });
    assert.equal((await shared.use((c) => c.domainState(uuid))).state, DomainState.RUNNING);
    const path = await pipe('killed');
    const saved = own((c) => c.domainSave(uuid, path));
    const reader = await open(path, 'r');
    await jobBegun();

    const lost = assert.rejects(saved, (error) => isLibvirtError(error) && error.connectionLost);
    await libvirtd.signal('KILL');
    await lost;
    await until(() => closed.length > 0);
    assert.deepEqual(closed, [CloseReason.EOF]);
    await assert.rejects(connection.hostname(), (error) => isLibvirtError(error) && error.connectionLost);
    await assert.rejects(
      shared.use((c) => c.hostname()),
      (error) => isLibvirtError(error) && error.connectionLost && error.call === 'open',
    );
    await reader.close();

    await libvirtd.restart();
    const state = { state: DomainState.RUNNING, reason: RunningReason.SAVE_CANCELED };
    await until(async () => isDeepStrictEqual(await shared.use((c) => c.domainState(uuid)), state));
    await shared.use((c) => c.domainSuspend(uuid));
    await shared.close();
  });
});

async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  for (let attempt = 0; !(await condition()); attempt++) {
    assert.ok(attempt < 200, 'waited 10 s in vain');
    await sleep(50);
  }
}
