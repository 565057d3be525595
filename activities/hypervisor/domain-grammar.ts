/**
 * What the domain XML of an instance may contain, as one allow-list. The destination checks what a package brings, and
 * the source checks with the same list what it is about to send: nothing is stopped that could not be taken in elsewhere.
 *
 * Whatever is not listed is refused, known or not: new device types, libvirt's `qemu:` extensions, host devices, shared
 * folders, sockets and files of the host. libvirt runs QEMU with what this text says.
 */
import type { Element } from 'slimdom';

type Check = (value: string) => boolean;

/** One element: its attributes, its children by name, its text. */
interface Rule {
  attributes?: Record<string, Check>;
  children?: Record<string, Child>;
  /** Without it the element holds white space only. */
  text?: Check;
  /** It is dropped before libvirt reads the XML, so its content does not matter. */
  opaque?: boolean;
}
interface Child {
  /** The rule depends on the value of an attribute, or is one for all. */
  rule: Rule | { attribute: string; rules: Record<string, Rule> };
  many: boolean;
}

/** Where a file path stands in the XML. */
export type PathUse = 'emulator' | 'disk' | 'base' | 'kernel' | 'initrd' | 'serial';

export interface GrammarOptions {
  /**
   * `incoming`: as libvirt printed it on some host, with that host's own labels and generated paths.
   * `outgoing`: what we hand to libvirt; those are gone.
   */
  direction: 'incoming' | 'outgoing';
  /** May this path stand here? Asked in addition to its form. */
  path?: (path: string, use: PathUse) => boolean;
}

/** The first thing in the element that is not allowed, in words for a person; null if there is none. */
export function findForbidden(domain: Element, options: GrammarOptions): string | null {
  return check(domain, { rule: domainRule(options), many: false }, '');
}

// ---- Values ----

const match =
  (pattern: RegExp): Check =>
  (value) =>
    pattern.test(value);
const one =
  (...values: string[]): Check =>
  (value) =>
    values.includes(value);

const number = match(/^\d{1,15}$/);
const hex = match(/^0x[0-9a-fA-F]{1,8}$/);
const word = match(/^[A-Za-z0-9][A-Za-z0-9._+-]{0,62}$/);
const uuid = match(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
const mac = match(/^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$/i);
const onOff = one('on', 'off');
const yesNo = one('yes', 'no');
const absolutePath: Check = (value) =>
  // eslint-disable-next-line no-control-regex
  value.length < 4096 && /^\/[^\u0000-\u001f]*$/.test(value) && !value.split('/').includes('..');
const kernelArguments: Check = (value) => value.length <= 4096;
/** Unversioned types (`q35`, `pc`) mean another machine on every QEMU. */
const machine = match(/^(pc-q35|pc-i440fx|virt)-\d{1,3}(\.\d{1,3}){1,2}$/);

// ---- Elements ----

const element = (rule: Rule): Child => ({ rule, many: false });
const many = (rule: Rule): Child => ({ rule, many: true });
const either = (attribute: string, rules: Record<string, Rule>): Child => ({ rule: { attribute, rules }, many: true });
const text = (value: Check, attributes: Record<string, Check> = {}): Child => element({ text: value, attributes });
const flag = (attributes: Record<string, Check> = {}): Child => element({ attributes });

function domainRule({ direction, path = () => true }: GrammarOptions): Rule {
  const incoming = direction === 'incoming';
  const file =
    (use: PathUse): Check =>
    (value) =>
      absolutePath(value) && path(value, use);
  /** What the other host's libvirt added for itself. */
  const fromHost = (children: Record<string, Child>): Record<string, Child> => (incoming ? children : {});
  const hostAttributes = (attributes: Record<string, Check>): Record<string, Check> => (incoming ? attributes : {});
  const alias = fromHost({ alias: flag({ name: match(/^[A-Za-z0-9_.-]{1,64}$/) }) });

  const address = either('type', {
    pci: { attributes: { type: one('pci'), domain: hex, bus: hex, slot: hex, function: hex, multifunction: onOff } },
    'virtio-serial': { attributes: { type: one('virtio-serial'), controller: number, bus: number, port: number } },
    'virtio-mmio': { attributes: { type: one('virtio-mmio') } },
    isa: { attributes: { type: one('isa'), iobase: hex, irq: hex } },
  });
  const placed = { ...alias, address };
  const source = (use: PathUse): Child => flag({ file: file(use), ...hostAttributes({ index: number }) });

  /** Bases may be layered; libvirt prints the end of the chain as an empty element. */
  const backingStore = (depth: number): Child =>
    element({
      attributes: { type: one('file'), ...hostAttributes({ index: number }) },
      children:
        depth === 0
          ? {}
          : {
              format: flag({ type: one('qcow2', 'raw') }),
              source: source('base'),
              backingStore: backingStore(depth - 1),
            },
    });

  const disk: Rule = {
    attributes: { type: one('file'), device: one('disk') },
    children: {
      driver: flag({
        name: one('qemu'),
        type: one('qcow2'),
        cache: one('none', 'writeback', 'writethrough', 'directsync'),
        io: one('native', 'threads', 'io_uring'),
        discard: one('unmap', 'ignore'),
        detect_zeroes: one('off', 'on', 'unmap'),
        error_policy: one('stop', 'report', 'enospace'),
      }),
      source: source('disk'),
      backingStore: backingStore(8),
      target: flag({ dev: match(/^vd[a-z]$/), bus: one('virtio') }),
      serial: text(word),
      boot: flag({ order: number }),
      ...placed,
    },
  };

  const controller = {
    usb: { attributes: { type: one('usb'), index: number, model: one('none') } },
    sata: { attributes: { type: one('sata'), index: number }, children: placed },
    ide: { attributes: { type: one('ide'), index: number }, children: placed },
    'virtio-serial': {
      attributes: { type: one('virtio-serial'), index: number, ports: number, vectors: number },
      children: placed,
    },
    pci: {
      attributes: {
        type: one('pci'),
        index: number,
        model: one('pcie-root', 'pcie-root-port', 'pcie-to-pci-bridge', 'pci-root', 'pci-bridge'),
      },
      children: {
        model: flag({ name: one('pcie-root-port', 'ioh3420', 'pcie-pci-bridge', 'pci-bridge') }),
        target: flag({ chassis: number, chassisNr: number, port: hex, hotplug: onOff }),
        ...placed,
      },
    },
  } satisfies Record<string, Rule>;

  const networkInterface: Rule = {
    attributes: { type: one('network') },
    children: {
      mac: flag({ address: mac }),
      source: flag({ network: one('guests'), ...hostAttributes({ portid: uuid, bridge: word }) }),
      target: flag({ dev: match(/^vf[0-9a-f]{12}$/) }),
      model: flag({ type: one('virtio') }),
      link: flag({ state: one('up', 'down') }),
      ...placed,
    },
  };

  const character = (types: string[]): Rule => ({
    attributes: { type: one('file') },
    children: {
      source: flag({ path: file('serial'), append: onOff }),
      target: element({
        attributes: { type: one(...types), port: number },
        children: { model: flag({ name: one('isa-serial', 'pl011') }) },
      }),
      ...placed,
    },
  });

  const channel: Rule = {
    attributes: { type: one('unix') },
    children: {
      ...fromHost({ source: flag({ mode: one('bind'), path: absolutePath }) }),
      target: flag({
        type: one('virtio'),
        name: one('org.qemu.guest_agent.0'),
        ...hostAttributes({ state: one('connected', 'disconnected') }),
      }),
      ...placed,
    },
  };

  const devices: Rule = {
    children: {
      emulator: text(file('emulator')),
      disk: many(disk),
      controller: either('type', controller),
      interface: element(networkInterface),
      serial: element(character(['isa-serial', 'system-serial'])),
      console: element(character(['serial'])),
      channel: element(channel),
      // What libvirt adds to every machine of its own accord.
      input: many({ attributes: { type: one('mouse', 'keyboard'), bus: one('ps2') }, children: alias }),
      audio: flag({ id: number, type: one('none') }),
      watchdog: element({
        attributes: { model: one('itco'), action: one('reset', 'none', 'poweroff') },
        children: alias,
      }),
      memballoon: flag({ model: one('none') }),
      rng: element({
        attributes: { model: one('virtio') },
        children: { backend: text(one('/dev/urandom'), { model: one('random') }), ...placed },
      }),
    },
  };

  const action = text(one('destroy', 'restart', 'preserve'));
  return {
    attributes: { type: one('qemu', 'kvm'), ...hostAttributes({ id: number }) },
    children: {
      name: text(word),
      uuid: text(uuid),
      metadata: element({ opaque: true }),
      memory: text(number, { unit: one('KiB') }),
      currentMemory: text(number, { unit: one('KiB') }),
      vcpu: text(match(/^\d{1,4}$/), { placement: one('static') }),
      ...fromHost({ resource: element({ opaque: true }), seclabel: many({ opaque: true }) }),
      os: element({
        children: {
          type: text(one('hvm'), { arch: one('x86_64', 'aarch64', 'armv7l'), machine }),
          kernel: text(file('kernel')),
          initrd: text(file('initrd')),
          cmdline: text(kernelArguments),
          boot: flag({ dev: one('hd') }),
        },
      }),
      features: element({
        children: {
          acpi: flag(),
          apic: flag(),
          pae: flag(),
          vmport: flag({ state: onOff }),
          gic: flag({ version: one('2', '3') }),
          ioapic: flag({ driver: one('qemu', 'kvm') }),
          kvm: element({ children: { hidden: flag({ state: onOff }) } }),
        },
      }),
      cpu: element({
        // host-model is expanded in a save file; maximum and host-passthrough do not tell what the guest saw.
        attributes: {
          mode: one('custom'),
          match: one('exact', 'minimum', 'strict'),
          check: one('none', 'partial', 'full'),
        },
        children: {
          model: text(word, { fallback: one('forbid', 'allow') }),
          vendor: text(word),
          topology: flag({ sockets: number, dies: number, clusters: number, cores: number, threads: number }),
          feature: many({
            attributes: { policy: one('force', 'require', 'optional', 'disable', 'forbid'), name: word },
          }),
        },
      }),
      clock: element({
        attributes: { offset: one('utc') },
        children: {
          timer: many({
            attributes: { name: word, present: yesNo, tickpolicy: one('delay', 'catchup', 'merge', 'discard') },
          }),
        },
      }),
      on_poweroff: action,
      on_reboot: action,
      on_crash: action,
      pm: element({
        children: { 'suspend-to-mem': flag({ enabled: yesNo }), 'suspend-to-disk': flag({ enabled: yesNo }) },
      }),
      devices: element(devices),
    },
  };
}

// ---- The check itself ----

const NODE = { element: 1, text: 3, cdata: 4, comment: 8 } as const;

function check(found: Element, child: Child, parentPath: string): string | null {
  const path = `${parentPath}/${found.nodeName}`;
  let rule: Rule;
  if ('rules' in child.rule) {
    const { attribute, rules } = child.rule;
    const value = found.getAttribute(attribute) ?? '';
    if (!Object.hasOwn(rules, value)) return `${path} with ${attribute} ${quote(value)}${which(found)}`;
    rule = rules[value]!;
  } else rule = child.rule;
  if (rule.opaque) return null;

  for (const attribute of found.attributes) {
    const allowed = attribute.namespaceURI === null && own(rule.attributes, attribute.localName);
    if (!allowed) return `${path} with attribute ${attribute.name}${which(found)}`;
    if (!allowed(attribute.value)) return `${path} with ${attribute.name} ${quote(attribute.value)}${which(found)}`;
  }
  const seen = new Set<string>();
  let content = '';
  for (const node of found.childNodes) {
    if (node.nodeType === NODE.comment) continue;
    if (node.nodeType === NODE.text || node.nodeType === NODE.cdata) {
      content += node.nodeValue ?? '';
      continue;
    }
    if (node.nodeType !== NODE.element) return `${path} with a ${node.nodeName} instruction`;
    const inner = node as Element;
    const allowed = inner.namespaceURI === null && own(rule.children, inner.localName);
    if (!allowed) return `${path}/${inner.nodeName}${which(inner)}`;
    // libvirt would take one of two, and we might look at the other.
    if (!allowed.many && seen.has(inner.localName)) return `a second ${path}/${inner.nodeName}`;
    seen.add(inner.localName);
    const forbidden = check(inner, allowed, path);
    if (forbidden !== null) return forbidden;
  }
  const trimmed = content.trim();
  return rule.text
    ? rule.text(trimmed)
      ? null
      : `${path} with ${quote(trimmed)}`
    : trimmed === ''
      ? null
      : `${path} with text`;
}

const own = <T>(record: Record<string, T> | undefined, key: string): T | undefined =>
  record && Object.hasOwn(record, key) ? record[key] : undefined;

const quote = (value: string): string => JSON.stringify(value.length > 80 ? `${value.slice(0, 80)}…` : value);

/** Tells one device from others of its kind. */
function which(found: Element): string {
  const target = found.children.find(({ localName }) => localName === 'target')?.getAttribute('dev');
  const type = found.getAttribute('type') ?? found.getAttribute('model');
  return target ? ` (${target.slice(0, 40)})` : type ? ` (${type.slice(0, 40)})` : '';
}
