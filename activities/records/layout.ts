/**
 * Where a host keeps its files. One place decides every name, so that clean-up can tell what a move made: whatever a
 * move makes lies under a folder that carries the move's, the package's or the instance's id.
 *
 *   keys/                         host key pair, TLS key and certificate, pool public key, own certified record
 *   images/<image>/               disk.img, kernel, initrd, image.json
 *   instances/<instance>/ledger/  ownership records (activities/trust/ledger-book.ts); never deleted
 *   instances/<instance>/*.json   what this host did about it last: reserved, given up, saved, resumed; never deleted
 *   instances/<instance>/g<n>/    disks, kernel, initrd, serial.log of generation n: what QEMU has open
 *   network/<instance>.json       addresses admitted to the guest network
 *   moves/<move>/                 source: save.json, snapshot, disk-<target>.qcow2, packed/<stream>/…
 *   packages/<package>/           sealed, immutable
 *   incoming/<package>/           a package on its way here
 *   staging/<move>/               destination: opened members; same file names as moves/<move>/
 */
import { join } from 'node:path';
import type { HostId, ImageId, InstanceId, MoveId, PackageId } from '../../workflows/contract.ts';

export class Layout {
  readonly root: string;

  /** How messages name the host whose files these are. */
  readonly here: string;

  constructor(root: string, host?: HostId) {
    this.root = root;
    this.here = host === undefined ? 'this host' : `host ${host}`;
  }

  get keys(): string {
    return join(this.root, 'keys');
  }
  get images(): string {
    return join(this.root, 'images');
  }
  image(id: ImageId): string {
    return join(this.root, 'images', id);
  }
  imageDisk(id: ImageId): string {
    return join(this.image(id), 'disk.img');
  }
  get instances(): string {
    return join(this.root, 'instances');
  }
  instance(id: InstanceId): string {
    return join(this.instances, id);
  }
  ledger(id: InstanceId): string {
    return join(this.instance(id), 'ledger');
  }
  generation(id: InstanceId, generation: number): string {
    return join(this.instance(id), `g${generation}`);
  }
  get network(): string {
    return join(this.root, 'network');
  }
  get moves(): string {
    return join(this.root, 'moves');
  }
  move(id: MoveId): string {
    return join(this.moves, id);
  }
  get packages(): string {
    return join(this.root, 'packages');
  }
  package(id: PackageId): string {
    return join(this.packages, id);
  }
  get allIncoming(): string {
    return join(this.root, 'incoming');
  }
  incoming(id: PackageId): string {
    return join(this.allIncoming, id);
  }
  get staging(): string {
    return join(this.root, 'staging');
  }
  stage(id: MoveId): string {
    return join(this.staging, id);
  }
}

/** File names shared by moves/<move>/ and staging/<move>/. */
export const MEMBER = {
  snapshot: 'snapshot',
  domainXml: 'libvirt.xml',
  kernel: 'kernel',
  initrd: 'initrd',
  disk: (target: string): string => `disk-${target}.qcow2`,
} as const;
