/** libvirt's domain XML: made for a new instance, read, checked, and bound to this host. Pure functions on text. */
import type { Element } from 'slimdom';
import type { InstanceId, Requirements } from '../../workflows/contract.ts';
import { VmferryError, type FailureType } from '../../workflows/failures.ts';
import { findForbidden, type GrammarOptions, type PathUse } from './domain-grammar.ts';
import {
  append,
  childOf,
  childrenOf,
  elementAt,
  escapeXml,
  parseXml,
  rootOf,
  serializeXml,
  setText,
  textOf,
} from './xml.ts';

/** Of the metadata element by which a person sees in `virsh dumpxml` who manages a domain. */
export const METADATA_NAMESPACE = 'urn:vmferry:instance:1';

const AGENT_CHANNEL = 'org.qemu.guest_agent.0';

/** A base image that an overlay stands on. */
export interface Base {
  path: string;
  format: 'qcow2' | 'raw';
}

export interface NewDomain {
  instanceId: InstanceId;
  name: string;
  memoryBytes: number;
  vcpus: number;
  /** Of the host, as libvirt names it. */
  architecture: string;
  domainType: 'qemu' | 'kvm';
  /** What the host offers; the newest versioned one that fits is taken. */
  machines: readonly string[];
  emulator: string;
  /** Overlay, qcow2. */
  disk: string;
  /** With it libvirt need not look into the overlay to find its base. */
  base?: Base;
  /** Without a kernel the instance boots from its disk. */
  kernel?: string;
  initrd?: string;
  cmdline?: string;
  mac: string;
  tap: string;
  serialLog: string;
}

export interface DomainDescription {
  uuid: InstanceId;
  name: string;
  memoryBytes: number;
  vcpus: number;
  disks: { target: string; path: string; format: string }[];
  mac: string;
  tap?: string;
  kernel?: string;
  initrd?: string;
  cmdline?: string;
  serialLog?: string;
  emulator: string;
  /** All but the version of QEMU, which the XML does not tell. */
  requirements: Omit<Requirements, 'qemuVersion'>;
}

/** The files and devices of this host that an instance is to use. */
export interface DomainBinding {
  /** By target, for every disk of the XML. */
  disks: Record<string, string>;
  /** By target; a disk that is not listed gets what its own header says. */
  bases?: Record<string, Base>;
  kernel?: string;
  initrd?: string;
  serialLog: string;
  emulator: string;
  tap: string;
  domainType?: 'qemu' | 'kvm';
}

// ---- A new instance ----

/**
 * Throws `IncompatibleHost` if the host offers no machine type that can be moved, `InvalidInput` if the specification
 * does not make XML that every vmferry host would accept.
 */
export function newDomainXml(spec: NewDomain): string {
  const platform = PLATFORMS[spec.architecture];
  if (!platform) throw new VmferryError('IncompatibleHost', `instances of ${spec.architecture} cannot be made here`);
  const x86 = platform === PLATFORMS['x86_64'];
  if (!x86 && spec.domainType === 'kvm') {
    // KVM on ARM shows the guest the registers of the host's own core: no other host could continue it.
    throw new VmferryError(
      'IncompatibleHost',
      `KVM guests of ${spec.architecture} cannot be moved; use domain type qemu`,
    );
  }
  if (!x86 && spec.kernel === undefined) {
    throw new VmferryError('InvalidInput', `an instance of ${spec.architecture} needs an image with its own kernel`);
  }
  const text = (name: string, value: string | undefined): string =>
    value === undefined ? '' : `<${name}>${escapeXml(value)}</${name}>`;
  const { base } = spec;
  const xml = `<domain type='${spec.domainType}'>
  ${text('name', spec.name)}
  ${text('uuid', spec.instanceId)}
  <metadata><vmferry:instance xmlns:vmferry='${METADATA_NAMESPACE}' id='${escapeXml(spec.instanceId)}'/></metadata>
  <memory unit='KiB'>${Math.ceil(spec.memoryBytes / 1024)}</memory>
  <vcpu placement='static'>${spec.vcpus}</vcpu>
  <os>
    <type arch='${escapeXml(spec.architecture)}' machine='${chooseMachine(spec.machines, platform.machines)}'>hvm</type>
    ${text('kernel', spec.kernel)}${text('initrd', spec.initrd)}${text('cmdline', spec.kernel === undefined ? undefined : spec.cmdline)}
    <boot dev='hd'/>
  </os>
  ${platform.xml(spec.domainType)}
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <!-- A guest that crashed stays down and is seen, rather than crashing for ever. -->
  <on_crash>destroy</on_crash>
  ${x86 ? NO_SLEEP : ''}
  <devices>
    ${text('emulator', spec.emulator)}
    <disk type='file' device='disk'>
      <!-- writeback: the guest's flushes are honoured, and the copy made while it is stopped reads what is still in the
           host's cache. discard: what the guest deletes leaves the overlay and does not travel. -->
      <driver name='qemu' type='qcow2' cache='writeback' discard='unmap'/>
      <source file='${escapeXml(spec.disk)}'/>
      ${base ? `<backingStore type='file'><format type='${base.format}'/><source file='${escapeXml(base.path)}'/><backingStore/></backingStore>` : ''}
      <target dev='vda' bus='virtio'/>
    </disk>
    ${x86 ? "<controller type='usb' model='none'/>" : ''}
    <interface type='network'>
      <mac address='${escapeXml(spec.mac)}'/>
      <source network='guests'/>
      <target dev='${escapeXml(spec.tap)}'/>
      <model type='virtio'/>
    </interface>
    <serial type='file'><source path='${escapeXml(spec.serialLog)}' append='on'/></serial>
    <channel type='unix'><target type='virtio' name='${AGENT_CHANNEL}'/></channel>
    <!-- A balloon would change the guest's memory behind the back of what was promised to the destination. -->
    <memballoon model='none'/>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  </devices>
</domain>`;
  const document = parseXml(xml, `the domain XML of ${spec.name}`, 'InvalidInput');
  refuse(rootOf(document), { direction: 'outgoing' }, 'InvalidInput', `instance ${spec.name}`);
  return serializeXml(document);
}

/**
 * Nehalem is x86-64-v2, which current distributions ask for, TCG emulates it in full, and nearly every host offers it.
 * Measured under TCG it boots a small Linux as fast as qemu64; so does q35 compared with i440fx.
 *
 * Under KVM, what TCG does not have is left out from the first boot, so that the guest may continue without KVM: the
 * paravirtual clock, x2APIC, the interrupt controller inside the kernel.
 */
function x86Platform(domainType: 'qemu' | 'kvm'): string {
  const kvm = domainType === 'kvm';
  return `<features><acpi/><apic/>${kvm ? "<kvm><hidden state='on'/></kvm><ioapic driver='qemu'/>" : ''}</features>
  <cpu mode='custom' match='exact' check='partial'>
    <model fallback='forbid'>Nehalem</model>${kvm ? "<feature policy='disable' name='x2apic'/>" : ''}
  </cpu>
  <clock offset='utc'>${kvm ? "<timer name='kvmclock' present='no'/>" : ''}</clock>`;
}

/** Asleep a guest would be neither running nor paused, and could not be saved. */
const NO_SLEEP = "<pm><suspend-to-mem enabled='no'/><suspend-to-disk enabled='no'/></pm>";

/** The GIC's version is part of the state; left to libvirt it would be the host's choice. */
const armPlatform = (gic: 2 | 3, cpu: string) => (): string => `<features><gic version='${gic}'/></features>
  <cpu mode='custom' match='exact' check='partial'><model fallback='forbid'>${cpu}</model></cpu>
  <clock offset='utc'/>`;

const PLATFORMS: Partial<Record<string, { machines: string; xml: (domainType: 'qemu' | 'kvm') => string }>> = {
  x86_64: { machines: 'pc-q35-', xml: x86Platform },
  aarch64: { machines: 'virt-', xml: armPlatform(3, 'cortex-a57') },
  armv7l: { machines: 'virt-', xml: armPlatform(2, 'cortex-a15') },
};

/** The newest of the host's versioned machine types of this family. */
function chooseMachine(machines: readonly string[], family: string): string {
  const version = (machine: string): number[] => machine.slice(family.length).split('.').map(Number);
  const newest = machines
    .filter((machine) => machine.startsWith(family) && /^\d+(\.\d+)+$/.test(machine.slice(family.length)))
    .sort((a, b) => compareVersions(version(b), version(a)))[0];
  if (newest === undefined) {
    throw new VmferryError('IncompatibleHost', `the host offers no versioned machine type ${family}N`);
  }
  return newest;
}

function compareVersions(a: number[], b: number[]): number {
  const at = a.findIndex((part, index) => part !== (b[index] ?? 0));
  return at < 0 ? a.length - b.length : a[at]! - (b[at] ?? 0);
}

// ---- Reading ----

/** The files that are disks of a domain, whoever defined it. */
export function diskFiles(xml: string): string[] {
  const devices = childOf(parseDomain(xml, 'LibvirtFailed'), 'devices');
  return childrenOf(devices, 'disk').flatMap((disk) => childOf(disk, 'source')?.getAttribute('file') ?? []);
}

/** Throws `DomainXmlRefused` for text that is no domain XML. */
export function describeDomain(xml: string): DomainDescription {
  const domain = parseDomain(xml, 'DomainXmlRefused');
  const devices = childOf(domain, 'devices');
  const os = childOf(domain, 'os');
  const type = childOf(os, 'type');
  const nic = childOf(devices, 'interface');
  const optional = <K extends string>(key: K, value: string): { [key in K]?: string } =>
    (value === '' ? {} : { [key]: value }) as { [key in K]?: string };
  const memoryBytes = kibibytes(childOf(domain, 'memory'));
  const vcpus = Number(textOf(childOf(domain, 'vcpu')));
  const cpu = childOf(domain, 'cpu');
  return {
    uuid: textOf(childOf(domain, 'uuid')),
    name: textOf(childOf(domain, 'name')),
    memoryBytes,
    vcpus,
    disks: childrenOf(devices, 'disk').map((disk) => ({
      target: childOf(disk, 'target')?.getAttribute('dev') ?? '',
      path: childOf(disk, 'source')?.getAttribute('file') ?? '',
      format: childOf(disk, 'driver')?.getAttribute('type') ?? '',
    })),
    mac: childOf(nic, 'mac')?.getAttribute('address') ?? '',
    ...optional('tap', childOf(nic, 'target')?.getAttribute('dev') ?? ''),
    ...optional('kernel', textOf(childOf(os, 'kernel'))),
    ...optional('initrd', textOf(childOf(os, 'initrd'))),
    ...optional('cmdline', textOf(childOf(os, 'cmdline'))),
    ...optional('serialLog', elementAt(domain, 'devices', 'serial', 'source')?.getAttribute('path') ?? ''),
    emulator: textOf(childOf(devices, 'emulator')),
    requirements: {
      architecture: type?.getAttribute('arch') ?? '',
      domainType: domain.getAttribute('type') === 'kvm' ? 'kvm' : 'qemu',
      machine: type?.getAttribute('machine') ?? '',
      cpu: cpu ? describeCpu(cpu) : '',
      memoryBytes,
      vcpus,
      devices: (devices?.children ?? [])
        .map(describeDevice)
        .filter((device) => device !== null)
        .sort(),
    },
  };
}

/** The `<cpu>` element on one line, as `virConnectCompareHypervisorCPU` takes it. */
function describeCpu(cpu: Element): string {
  const attributes = (element: Element): string =>
    [...element.attributes].map(({ name, value }) => ` ${name}='${escapeXml(value)}'`).join('');
  const parts = cpu.children.map((child) => {
    const content = escapeXml(textOf(child));
    return `<${child.nodeName}${attributes(child)}${content ? `>${content}</${child.nodeName}>` : '/>'}`;
  });
  return `<cpu${attributes(cpu)}>${parts.join('')}</cpu>`;
}

/**
 * `kind:model` of a device that has state of its own in the save file. QEMU continues in silence when the destination
 * has a device more than the file, so the lists must be compared by us.
 */
function describeDevice(device: Element): string | null {
  const attribute = (name: string): string => device.getAttribute(name) ?? '';
  const inTarget = (name: string): string => childOf(device, 'target')?.getAttribute(name) ?? '';
  const model = attribute('model');
  const kind = device.localName;
  switch (kind) {
    case 'emulator':
    case 'console': // another view of the serial port
    case 'input': // PS/2: part of the machine type
    case 'audio':
      return null;
    case 'controller':
    case 'memballoon':
      if (model === 'none') return null;
      return [kind, attribute('type'), model].filter(Boolean).join(':');
    case 'disk':
      return `${kind}:${inTarget('bus')}`;
    case 'interface':
      return `${kind}:${childOf(device, 'model')?.getAttribute('type') ?? ''}`;
    case 'serial':
    case 'channel':
      return `${kind}:${inTarget('type')}`;
    default:
      return [kind, model || attribute('type')].filter(Boolean).join(':');
  }
}

function kibibytes(memory: Element | null): number {
  const unit = memory?.getAttribute('unit') ?? 'KiB';
  if (unit !== 'KiB')
    throw new VmferryError('DomainXmlRefused', `the domain XML gives its memory in ${unit} instead of KiB`);
  return Number(textOf(memory)) * 1024;
}

// ---- Checking ----

/** At the source, before anything is touched: throws `UnsupportedDevice` naming what could not be taken in elsewhere. */
export function refuseUnsupported(xml: string): void {
  const domain = parseDomain(xml, 'UnsupportedDevice');
  refuse(domain, { direction: 'incoming' }, 'UnsupportedDevice', `instance ${textOf(childOf(domain, 'name'))}`);
}

/** At the destination, of XML that came with a package: throws `DomainXmlRefused` naming what it may not ask for. */
export function checkForeignXml(xml: string): void {
  refuse(parseDomain(xml, 'DomainXmlRefused'), { direction: 'incoming' }, 'DomainXmlRefused', 'the domain XML');
}

function refuse(domain: Element, grammar: GrammarOptions, failure: FailureType, what: string): void {
  const forbidden = findForbidden(domain, grammar) ?? findMissing(domain) ?? findTwice(domain);
  if (forbidden !== null) {
    throw new VmferryError(failure, `${what} asks for what an instance may not have: ${forbidden}`);
  }
}

/** What libvirt would fill in by the habits of this host, and what every instance has. */
function findMissing(domain: Element): string | null {
  const devices = childOf(domain, 'devices');
  const required: [string, unknown][] = [
    ['name', childOf(domain, 'name')],
    ['uuid', childOf(domain, 'uuid')],
    ['memory', childOf(domain, 'memory')],
    ['vcpu', childOf(domain, 'vcpu')],
    ['cpu model', elementAt(domain, 'cpu', 'model')],
    ['architecture', elementAt(domain, 'os', 'type')?.hasAttribute('arch')],
    ['machine type', elementAt(domain, 'os', 'type')?.hasAttribute('machine')],
    ['emulator', childOf(devices, 'emulator')],
    ['disk', childOf(devices, 'disk')],
    ['network interface', childOf(devices, 'interface')],
    ['MAC address', elementAt(domain, 'devices', 'interface', 'mac')],
    ['memory balloon of model none', childOf(devices, 'memballoon')],
  ];
  for (const disk of childrenOf(devices, 'disk')) {
    for (const part of ['driver', 'source', 'target']) required.push([`${part} of a disk`, childOf(disk, part)]);
    required.push(['format of a disk', childOf(disk, 'driver')?.hasAttribute('type')]);
  }
  const missing = required.find(([, found]) => !found);
  return missing ? `no ${missing[0]}` : null;
}

function findTwice(domain: Element): string | null {
  const targets = childrenOf(childOf(domain, 'devices'), 'disk').map((disk) =>
    childOf(disk, 'target')?.getAttribute('dev'),
  );
  const twice = targets.find((target, index) => targets.indexOf(target) !== index);
  return twice === undefined ? null : `disk ${twice} twice`;
}

function parseDomain(xml: string, failure: FailureType): Element {
  const root = rootOf(parseXml(xml, 'the domain XML', failure));
  if (root.nodeName !== 'domain') throw new VmferryError(failure, `the domain XML is <${root.nodeName.slice(0, 80)}>`);
  return root;
}

// ---- Binding to this host ----

/**
 * The same machine with the files and devices of this host. The result holds no path but those of the binding, and
 * nothing that another host's libvirt noted for itself. Throws `DomainXmlRefused` if the XML asks for a file that the
 * binding does not have, or for anything that `checkForeignXml` refuses.
 */
export function rebindDomain(xml: string, binding: DomainBinding): string {
  checkForeignXml(xml);
  const document = parseXml(xml, 'the domain XML', 'DomainXmlRefused');
  const domain = rootOf(document);
  for (const edit of EDITS) edit(domain, binding);
  const ours: Record<PathUse, Set<string>> = {
    emulator: new Set([binding.emulator]),
    disk: new Set(Object.values(binding.disks)),
    base: new Set(Object.values(binding.bases ?? {}).map(({ path }) => path)),
    kernel: new Set(binding.kernel === undefined ? [] : [binding.kernel]),
    initrd: new Set(binding.initrd === undefined ? [] : [binding.initrd]),
    serial: new Set([binding.serialLog]),
  };
  refuse(
    domain,
    { direction: 'outgoing', path: (path, use) => ours[use].has(path) },
    'DomainXmlRefused',
    'the bound XML',
  );
  return serializeXml(document);
}

type Edit = (domain: Element, binding: DomainBinding) => void;

const EDITS: readonly Edit[] = [
  dropHostNotes,
  claimMetadata,
  bindDomainType,
  bindEmulator,
  bindDisks,
  bindBootFiles,
  bindInterface,
  bindSerialLog,
  bindChannel,
];

/** With the indentation before it. */
function remove(element: Element | null): void {
  const before = element?.previousSibling;
  if (before?.nodeType === before?.TEXT_NODE && before?.nodeValue?.trim() === '')
    before.parentNode?.removeChild(before);
  element?.parentNode?.removeChild(element);
}

/** Running id, cgroup, labels and aliases belong to the host that wrote them. */
function dropHostNotes(domain: Element): void {
  domain.removeAttribute('id');
  for (const name of ['resource', 'seclabel']) childrenOf(domain, name).forEach(remove);
  for (const device of childOf(domain, 'devices')?.children ?? []) childrenOf(device, 'alias').forEach(remove);
}

function claimMetadata(domain: Element): void {
  const metadata = childOf(domain, 'metadata') ?? append(domain, 'metadata');
  setText(metadata, '');
  const instance = domain.ownerDocument!.createElementNS(METADATA_NAMESPACE, 'vmferry:instance');
  instance.setAttribute('id', textOf(childOf(domain, 'uuid')));
  metadata.appendChild(instance);
}

function bindDomainType(domain: Element, { domainType }: DomainBinding): void {
  if (domainType !== undefined) domain.setAttribute('type', domainType);
}

function bindEmulator(domain: Element, { emulator }: DomainBinding): void {
  setText(elementAt(domain, 'devices', 'emulator')!, emulator);
}

/** The chain below an overlay is replaced as a whole: its paths are another host's. */
function bindDisks(domain: Element, { disks, bases }: DomainBinding): void {
  for (const disk of childrenOf(childOf(domain, 'devices'), 'disk')) {
    const target = childOf(disk, 'target')?.getAttribute('dev') ?? '';
    const path = Object.hasOwn(disks, target) ? disks[target] : undefined;
    if (path === undefined)
      throw new VmferryError('DomainXmlRefused', `the domain XML has disk ${target}, the package has not`);
    const source = childOf(disk, 'source')!;
    source.removeAttribute('index');
    source.setAttribute('file', path);
    remove(childOf(disk, 'backingStore'));
    const base = bases && Object.hasOwn(bases, target) ? bases[target] : undefined;
    if (!base) continue;
    const store = append(disk, 'backingStore', { type: 'file' });
    disk.insertBefore(store, source.nextSibling);
    append(store, 'format', { type: base.format });
    append(store, 'source', { file: base.path });
    append(store, 'backingStore');
  }
}

/** The running guest needs neither; a later reboot does, so a kernel that did not travel is refused. */
function bindBootFiles(domain: Element, binding: DomainBinding): void {
  for (const name of ['kernel', 'initrd'] as const) {
    const element = elementAt(domain, 'os', name);
    if (!element) continue;
    const path = binding[name];
    if (path === undefined)
      throw new VmferryError(
        'DomainXmlRefused',
        `the domain XML boots from an ${name === 'initrd' ? 'initrd' : 'own kernel'}, the package has none`,
      );
    setText(element, path);
  }
}

function bindInterface(domain: Element, { tap }: DomainBinding): void {
  const nic = elementAt(domain, 'devices', 'interface')!;
  const source = childOf(nic, 'source') ?? append(nic, 'source');
  for (const name of ['portid', 'bridge']) source.removeAttribute(name);
  source.setAttribute('network', 'guests');
  const target = childOf(nic, 'target') ?? append(nic, 'target');
  target.setAttribute('dev', tap);
}

function bindSerialLog(domain: Element, { serialLog }: DomainBinding): void {
  for (const name of ['serial', 'console']) {
    const source = elementAt(domain, 'devices', name, 'source');
    source?.setAttribute('path', serialLog);
    source?.setAttribute('append', 'on');
  }
}

/** libvirt makes a socket of its own name for it. */
function bindChannel(domain: Element): void {
  const channel = elementAt(domain, 'devices', 'channel');
  remove(childOf(channel, 'source'));
  childOf(channel, 'target')?.removeAttribute('state');
}
