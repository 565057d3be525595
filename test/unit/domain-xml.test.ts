import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import {
  checkForeignXml,
  describeDomain,
  newDomainXml,
  rebindDomain,
  refuseUnsupported,
  type DomainBinding,
  type NewDomain,
} from '../../activities/hypervisor/domain-xml.ts';
import { escapeXml } from '../../activities/hypervisor/xml.ts';
import { VmferryError, type FailureType } from '../../workflows/failures.ts';
import { assertGolden, readGolden } from '../support/golden.ts';

const ID = '00000000-0000-4000-8000-000000000006';
/** `virsh dumpxml --migratable` of a running instance, libvirt 9.0. */
const PRINTED = readGolden('printed-by-libvirt.xml');

const DISK_BOOT: NewDomain = {
  instanceId: ID,
  name: 'web',
  memoryBytes: 256 * 2 ** 20,
  vcpus: 2,
  architecture: 'x86_64',
  domainType: 'qemu',
  machines: [
    'pc-q35-2.12',
    'pc-q35-7.2',
    'pc-q35-4.0.1',
    'pc-q35-10.0',
    'q35',
    'pc-i440fx-11.0',
    'virt-7.2',
    'virt-8.0',
  ],
  emulator: '/usr/bin/qemu-system-x86_64',
  disk: '/state/g1/vda.qcow2',
  mac: '52:54:00:77:00:05',
  tap: 'vf0123456789ab',
  serialLog: '/state/g1/serial.log',
};
const SPEC: NewDomain = {
  ...DISK_BOOT,
  base: { path: '/state/images/base/disk.img', format: 'raw' },
  kernel: '/state/g1/kernel',
  initrd: '/state/g1/initrd',
  cmdline: 'console=ttyS0 init="/bin/a&b"',
};

const BINDING: DomainBinding = {
  disks: { vda: '/here/g2/vda.qcow2' },
  bases: { vda: { path: '/here/images/base/disk.img', format: 'qcow2' } },
  kernel: '/here/g2/kernel',
  initrd: '/here/g2/initrd',
  serialLog: '/here/g2/serial.log',
  emulator: '/opt/qemu/qemu-system-x86_64',
  tap: 'vfba9876543210',
};

const refused = (type: FailureType, text: RegExp) => (error: unknown) => {
  assert.ok(error instanceof VmferryError, String(error));
  assert.equal(error.type, type, error.message);
  assert.match(error.message, text);
  assert.ok(error.message.length < 2000);
  return true;
};
/** The printed XML with a change. */
const altered = (from: string | RegExp, to: string): string => {
  const xml = PRINTED.replace(from, to);
  assert.notEqual(xml, PRINTED, `nothing to replace: ${String(from)}`);
  return xml;
};
const withDevice = (device: string): string => altered('</devices>', `${device}</devices>`);

describe('a new domain', () => {
  test('has the newest versioned machine, explicit formats and a named CPU', () => {
    assertGolden('new-tcg.xml', newDomainXml(SPEC));
  });

  test('that boots from its disk under KVM leaves out what TCG could not continue', () => {
    assertGolden('new-kvm-disk-boot.xml', newDomainXml({ ...DISK_BOOT, domainType: 'kvm' }));
  });

  test('of ARM has a fixed interrupt controller', () => {
    assertGolden(
      'new-arm.xml',
      newDomainXml({ ...SPEC, architecture: 'aarch64', emulator: '/usr/bin/qemu-system-aarch64' }),
    );
  });

  test('can be taken in by every host', () => {
    for (const spec of [SPEC, { ...DISK_BOOT, domainType: 'kvm' as const }, { ...SPEC, architecture: 'aarch64' }]) {
      checkForeignXml(newDomainXml(spec));
      refuseUnsupported(newDomainXml(spec));
    }
  });

  test('is refused where it could not be moved, or would say something else than asked', () => {
    assert.throws(() => newDomainXml({ ...SPEC, machines: ['q35', 'pc'] }), refused('IncompatibleHost', /pc-q35-N/));
    assert.throws(() => newDomainXml({ ...SPEC, architecture: 's390x' }), refused('IncompatibleHost', /s390x/));
    assert.throws(
      () => newDomainXml({ ...SPEC, architecture: 'aarch64', domainType: 'kvm' }),
      refused('IncompatibleHost', /KVM guests of aarch64/),
    );
    assert.throws(() => newDomainXml({ ...DISK_BOOT, architecture: 'aarch64' }), refused('InvalidInput', /own kernel/));
    assert.throws(() => newDomainXml({ ...SPEC, name: '../x' }), refused('InvalidInput', /\/domain\/name/));
    assert.throws(() => newDomainXml({ ...SPEC, name: "a'/><x" }), refused('InvalidInput', /\/domain\/name/));
    assert.throws(() => newDomainXml({ ...SPEC, disk: 'relative' }), refused('InvalidInput', /source with file/));
    assert.throws(
      () => newDomainXml({ ...SPEC, mac: '01:00:5e:00:00:01' }),
      refused('InvalidInput', /mac with address/),
    );
    assert.throws(() => newDomainXml({ ...SPEC, memoryBytes: Number.NaN }), refused('InvalidInput', /memory/));
  });
});

describe('a domain that libvirt printed', () => {
  test('is described with what another host must offer', () => {
    const { requirements, ...rest } = describeDomain(PRINTED);
    const folder = `/var/lib/vmferry/instances/${ID}/g1`;
    assert.deepEqual(rest, {
      uuid: ID,
      name: 'web',
      memoryBytes: 256 * 2 ** 20,
      vcpus: 1,
      disks: [{ target: 'vda', path: `${folder}/vda.qcow2`, format: 'qcow2' }],
      mac: '52:54:00:77:00:05',
      tap: 'vf0123456789ab',
      kernel: `${folder}/kernel`,
      initrd: `${folder}/initrd`,
      cmdline: 'console=ttyS0 quiet',
      serialLog: `${folder}/serial.log`,
      emulator: '/usr/bin/qemu-system-x86_64',
    });
    assert.deepEqual(requirements, {
      architecture: 'x86_64',
      domainType: 'qemu',
      machine: 'pc-q35-7.2',
      cpu: "<cpu mode='custom' match='exact' check='partial'><model fallback='forbid'>Nehalem</model></cpu>",
      memoryBytes: 256 * 2 ** 20,
      vcpus: 1,
      devices: [
        'channel:virtio',
        'controller:pci:pcie-root',
        ...Array<string>(5).fill('controller:pci:pcie-root-port'),
        'controller:sata',
        'controller:virtio-serial',
        'disk:virtio',
        'interface:virtio',
        'rng:virtio',
        'serial:isa-serial',
      ],
    });
  });

  test('is bound to this host: all paths are ours, the machine is the same', () => {
    const bound = rebindDomain(PRINTED, BINDING);
    assertGolden('rebound.xml', bound);
    assert.deepEqual(describeDomain(bound).requirements, describeDomain(PRINTED).requirements);
    assert.equal(rebindDomain(bound, BINDING), bound);
  });

  test('loses what its host noted for itself', () => {
    const live = altered("<domain type='qemu'>", "<domain type='qemu' id='7'>")
      .replace('<os>', '<resource><partition>/machine</partition></resource><os>')
      .replace('</domain>', "<seclabel type='none' model='apparmor'/><seclabel type='dynamic' model='dac'/></domain>")
      .replace("<source network='guests'/>", `<source network='guests' portid='${ID}' bridge='guests'/>`)
      .replace(
        "<target type='virtio' name",
        "<source mode='bind' path='/etc/shadow'/><target type='virtio' state='connected' name",
      )
      .replace("<memballoon model='none'/>", "<memballoon model='none'/><audio id='1' type='none'/>")
      .replace("bus='virtio'/>", "bus='virtio'/><alias name='virtio-disk0'/>");
    const bound = rebindDomain(live, BINDING);
    assert.doesNotMatch(bound, /shadow|seclabel|resource|portid|alias|id="7"|connected/);
    assert.match(bound, /<source network="guests"\/>/);
  });

  test('is not bound when the package lacks one of its files', () => {
    assert.throws(() => rebindDomain(PRINTED, { ...BINDING, disks: {} }), refused('DomainXmlRefused', /disk vda/));
    const { disks, serialLog, emulator, tap } = BINDING;
    assert.throws(
      () => rebindDomain(PRINTED, { disks, serialLog, emulator, tap }),
      refused('DomainXmlRefused', /kernel/),
    );
  });

  test('may be given another domain type', () => {
    assert.equal(
      describeDomain(rebindDomain(PRINTED, { ...BINDING, domainType: 'kvm' })).requirements.domainType,
      'kvm',
    );
  });
});

describe('domain XML from elsewhere', () => {
  const HOSTILE: [what: string, xml: string, said: RegExp][] = [
    ['an external entity', `<!DOCTYPE domain [<!ENTITY x SYSTEM "file:///etc/shadow">]>${PRINTED}`, /document type/],
    ['a document of a megabyte', altered('</cmdline>', ` ${'x'.repeat(2 ** 20)}</cmdline>`), /longer than/],
    ['elements without end', altered('</domain>', ''), /not well-formed/],
    ['twenty thousand levels', `${'<a>'.repeat(2e4)}${'</a>'.repeat(2e4)}`, /is <a>/],
    ['another root', '<network/>', /is <network>/],
    [
      'QEMU arguments',
      altered(
        "<domain type='qemu'>",
        "<domain type='qemu' xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'>",
      ).replace('</domain>', "<q:commandline><q:arg value='-S'/></q:commandline></domain>"),
      /attribute xmlns:q/,
    ],
    [
      'QEMU arguments with a namespace of their own',
      altered('</domain>', "<commandline xmlns='http://libvirt.org/schemas/domain/qemu/1.0'/></domain>"),
      /commandline/,
    ],
    [
      'an inclusion',
      altered('</domain>', "<include xmlns='http://www.w3.org/2001/XInclude' href='/etc/shadow'/></domain>"),
      /include/,
    ],
    ['a processing instruction', altered('</domain>', '<?xml-stylesheet href="x"?></domain>'), /instruction/],
    ['another emulator path', altered('<emulator>/usr', '<emulator>/tmp/../usr'), /emulator/],
    ['a device of the host', withDevice("<hostdev mode='subsystem' type='pci'/>"), /devices\/hostdev/],
    [
      'a shared folder',
      withDevice("<filesystem type='mount'><source dir='/'/><target dir='root'/></filesystem>"),
      /devices\/filesystem/,
    ],
    ['a display', withDevice("<graphics type='vnc' listen='0.0.0.0'/>"), /devices\/graphics/],
    [
      'a socket of the host',
      altered(/<channel type='unix'>/, "<channel type='unix'><source mode='connect' path='/run/docker.sock'/>"),
      /mode "connect"/,
    ],
    [
      'a second channel',
      withDevice("<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"),
      /a second/,
    ],
    ['another channel', altered('org.qemu.guest_agent.0', 'com.redhat.spice.0'), /channel\/target with name/],
    ['a serial port on the network', altered("<serial type='file'>", "<serial type='tcp'>"), /serial with type "tcp"/],
    [
      'a block device of the host',
      altered("<disk type='file'", "<disk type='block'"),
      /disk with type "block" \(vda\)/,
    ],
    ['a CD-ROM', altered("device='disk'", "device='cdrom'"), /disk with device "cdrom"/],
    [
      'a raw disk, in which a header could hide',
      altered("type='qcow2' cache", "type='raw' cache"),
      /driver with type "raw"/,
    ],
    ['a shared disk', altered("<target dev='vda'", "<shareable/><target dev='vda'"), /shareable/],
    [
      'a disk twice',
      altered(
        '</disk>',
        "</disk><disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/x'/><target dev='vda' bus='virtio'/></disk>",
      ),
      /disk vda twice/,
    ],
    [
      'a second source of one disk',
      altered("<target dev='vda'", "<source file='/etc/shadow'/><target dev='vda'"),
      /a second .*source/,
    ],
    [
      'a label on a disk’s file',
      altered(/(<source file='[^']*vda.qcow2')\/>/, "$1><seclabel model='dac' relabel='no'/></source>"),
      /source\/seclabel/,
    ],
    ['a loader', altered('<kernel>', '<loader>/etc/shadow</loader><kernel>'), /os\/loader/],
    ['a path that climbs', altered(/<kernel>[^<]*/, '<kernel>/var/lib/../../etc/shadow'), /os\/kernel/],
    ['a machine without a version', altered('pc-q35-7.2', 'q35'), /machine "q35"/],
    ['a CPU that nobody can compare', altered("cpu mode='custom'", "cpu mode='host-passthrough'"), /host-passthrough/],
    ['another network', altered("network='guests'", "network='default'"), /network "default"/],
    [
      'a bridge of the host',
      altered("<interface type='network'>", "<interface type='bridge'>"),
      /interface with type "bridge"/,
    ],
    ['a tap that the rules do not bind', altered('vf0123456789ab', 'vnet0'), /dev "vnet0"/],
    ['a second interface', withDevice("<interface type='network'><source network='guests'/></interface>"), /a second/],
    ['a random source of its own', altered('/dev/urandom', '/dev/mem'), /rng\/backend with "\/dev\/mem"/],
    ['a balloon', altered("memballoon model='none'", "memballoon model='virtio'"), /memballoon/],
    ['no balloon element, so that libvirt adds one', altered("<memballoon model='none'/>", ''), /no memory balloon/],
    ['no machine type', altered(/<type[^>]*>hvm<\/type>/, "<type arch='x86_64'>hvm</type>"), /no machine type/],
    ['no format of a disk', altered(/<driver name[^>]*>/, ''), /no driver of a disk/],
    ['memory in units of its own', altered("<memory unit='KiB'>", "<memory unit='TiB'>"), /memory with unit/],
    ['text between elements', altered('<devices>', '<devices>x'), /devices with text/],
    ['a crash dump', altered('<on_crash>destroy', '<on_crash>coredump-restart'), /on_crash/],
    ['a name that is a path', altered('>web<', '>../../etc<'), /domain\/name/],
    ['a name from Object’s prototype', altered('</devices>', '<constructor/></devices>'), /devices\/constructor/],
    [
      'a controller from Object’s prototype',
      altered("type='sata'", "type='toString'"),
      /controller with type "toString"/,
    ],
  ];
  for (const [what, xml, said] of HOSTILE) {
    test(`f36: is refused with ${what}`, () => {
      assert.throws(() => checkForeignXml(xml), refused('DomainXmlRefused', said));
      assert.throws(() => rebindDomain(xml, BINDING), refused('DomainXmlRefused', said));
      assert.throws(() => refuseUnsupported(xml), refused('UnsupportedDevice', said));
    });
  }

  test('whatever stands in it, is refused or bound to paths of ours alone', () => {
    const places = [...PRINTED.matchAll(/'[^'\n]*'|>[^<\s][^<]*</g)].map(
      ({ index, 0: { length } }) => [index + 1, index + length - 1] as const,
    );
    const ours = new Set([...Object.values(BINDING.disks), '/here/images/base/disk.img', '/dev/urandom']);
    for (const path of [BINDING.kernel, BINDING.initrd, BINDING.serialLog, BINDING.emulator]) ours.add(path ?? '');
    const value = fc.oneof(
      fc.constantFrom('/etc/shadow', '/here/../etc/shadow', 'file', 'block', 'unix', 'none', 'host'),
      fc.string(),
    );
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.constantFrom(...places), value), { minLength: 1, maxLength: 3 }), (changes) => {
        const ordered = changes.toSorted(([[a]], [[b]]) => b - a);
        const xml = ordered.reduce(
          (text, [[from, to], put]) => text.slice(0, from) + escapeXml(put) + text.slice(to),
          PRINTED,
        );
        let bound: string;
        try {
          bound = rebindDomain(xml, BINDING);
        } catch (error) {
          return refused('DomainXmlRefused', /./)(error);
        }
        for (const [, path = ''] of bound.replace(/<cmdline>[^<]*/, '').matchAll(/(?:="|>)(\/[^"<>]*)["<]/g)) {
          assert.ok(ours.has(path), path);
        }
        return true;
      }),
      { numRuns: 150 },
    );
  });

  test('loses metadata of others, however deep', () => {
    const deep = `${'<a>'.repeat(2e4)}${'</a>'.repeat(2e4)}`;
    assert.equal(rebindDomain(altered('</metadata>', `${deep}</metadata>`), BINDING), rebindDomain(PRINTED, BINDING));
  });

  test('is accepted as libvirt prints it', () => {
    checkForeignXml(PRINTED);
    refuseUnsupported(PRINTED);
  });
});
