/** `vmferry images`: base disk images, known by the SHA-256 of their content. */
import { randomUUID } from 'node:crypto';
import type { Command } from 'commander';
import { VmferryError } from '../../workflows/failures.ts';
import type { Image, InstanceSpec } from '../../workflows/contract.ts';
import type { Api } from '../api.ts';
import type { ImageRow } from '../catalog-queries.ts';
import { follow } from '../follow.ts';
import { formatBytes, formatCapacity, formatTime, parseBytes, parseWhole } from '../format.ts';
import { section } from '../output.ts';
import type { Column, Section } from '../output.ts';
import { chooseHost, findHost } from '../resolve.ts';
import type { Session } from '../session.ts';

const columns: Column<ImageRow>[] = [
  { title: 'id', value: ({ id }) => id.slice(0, 12) },
  { title: 'name', value: ({ name }) => name },
  { title: 'format', value: ({ format }) => format },
  { title: 'size', value: ({ bytes }) => formatBytes(bytes), align: 'right' },
  { title: 'disk', value: ({ virtualBytes }) => formatCapacity(virtualBytes), align: 'right' },
  { title: 'hosts', value: ({ hosts }) => hosts.join(' ') },
  { title: 'added', value: ({ addedAt }) => formatTime(addedAt) },
];

export const imagesSection = (rows: ImageRow[]): Section => section({ kind: 'image', title: 'images', rows, columns });

interface Sources {
  host?: string;
  kernel?: string;
  initrd?: string;
  cmdline?: string;
}

interface AddOptions extends Sources {
  name?: string;
}

interface SpawnOptions extends Sources {
  /** Of the instance, not of an image that is added on the way. */
  name?: string;
  memory: string;
  vcpus: string;
  domainType: string;
}

const DOMAIN_TYPES: readonly string[] = ['auto', 'kvm', 'qemu'] satisfies InstanceSpec['domainType'][];
const isDomainType = (text: string): text is InstanceSpec['domainType'] => DOMAIN_TYPES.includes(text);

export function addImagesCommands(program: Command, session: Session): void {
  const images = program.command('images').description('Manage base disk images');
  const reading = (command: Command): Command =>
    command
      .option('--host <host>', 'host that reads the files (default: the only host of the pool)')
      .option('--kernel <path>', 'kernel to boot with, on that host')
      .option('--initrd <path>', 'initial ramdisk for the kernel, on that host')
      .option('--cmdline <text>', 'command line for the kernel');

  reading(images.command('add'))
    .argument('<path>', 'disk image (qcow2 or raw), an absolute path on the host')
    .description('Add a base image from a file on a host')
    .option('--name <name>', 'name for listings (default: that of the file)')
    .addHelpText(
      'after',
      '\nExample:\n  vmferry images add /srv/guest.qcow2 --host alpha --kernel /srv/vmlinuz --initrd /srv/initrd.img --cmdline "console=ttyS0 root=/dev/vda"',
    )
    .action(async (path: string, options: AddOptions) => {
      const image = await addImage(session, path, options, options.name);
      session.output.answer(`Image ${image.id} created`, image);
    });

  images
    .command('list')
    .description('List the base images and the hosts that hold them')
    .addHelpText('after', '\nExample:\n  vmferry images list --output json')
    .action(async () => {
      const catalog = await (await session.api()).catalog();
      session.output.listing(imagesSection(await catalog.images()));
    });

  images
    .command('delete')
    .argument('<id>', 'image: id, its beginning, or name')
    .description('Delete a base image that no instance uses, on all hosts')
    .addHelpText('after', '\nExample:\n  vmferry images delete debian-12 --output json')
    .action(async (word: string) => {
      const api = await session.api();
      const image = await (await api.catalog()).findImage(word);
      await deleteImage(session, api, image);
      session.output.answer(`Image ${image.id} deleted`, { id: image.id });
    });

  images
    .command('pull')
    .argument('<id>', 'image: id, its beginning, or name')
    .argument('<host>', 'host that fetches it: name or fingerprint')
    .description('Let a host fetch an image from another')
    .addHelpText('after', '\nExample:\n  vmferry images pull debian-12 beta --output jsonl')
    .action(async (word: string, hostWord: string) => {
      const api = await session.api();
      const catalog = await api.catalog();
      const [image, host] = [await catalog.findImage(word), await findHost(catalog, hostWord)];
      const temporal = await api.temporal();
      const running = await temporal.start('pull', { kind: 'image', id: image.id, destination: host.id });
      const result = await follow(session, running, { title: `image ${image.name} → ${host.id}` });
      session.output.answer(`Image ${image.id} pulled to ${host.id}`, result);
    });

  reading(images.command('spawn'))
    .argument('<image>', 'image: id, its beginning, name, or the absolute path of a file, which is added first')
    .description('Start an instance from a base image')
    .option('--name <name>', 'name of the instance (default: made from the image’s)')
    .option('--memory <size>', 'RAM', '256MiB')
    .option('--vcpus <n>', 'virtual CPUs', '1')
    .option('--domain-type <type>', `${DOMAIN_TYPES.join(', ')}; auto lets the host choose`, 'auto')
    .addHelpText(
      'after',
      '\nExample:\n  vmferry images spawn debian-12 --host alpha --name counter --memory 512MiB --vcpus 2',
    )
    .action((word: string, options: SpawnOptions) => spawn(session, word, options));
}

function absolute(path: string, what: string): string {
  if (path.startsWith('/')) return path;
  throw new VmferryError('InvalidInput', `${what} ${JSON.stringify(path)} is not an absolute path on the host`);
}

async function addImage(session: Session, path: string, options: Sources, name?: string): Promise<Image> {
  absolute(path, 'The image');
  if (options.kernel !== undefined) absolute(options.kernel, 'The kernel');
  if (options.initrd !== undefined) absolute(options.initrd, 'The ramdisk');
  if (options.kernel === undefined && (options.initrd !== undefined || options.cmdline !== undefined)) {
    throw new VmferryError('InvalidInput', '--initrd and --cmdline need --kernel');
  }
  const api = await session.api();
  const host = await chooseHost(await api.catalog(), options.host);
  const temporal = await api.temporal();
  const running = await temporal.start('addImage', {
    host: host.id,
    path,
    ...(options.kernel === undefined ? {} : { kernelPath: options.kernel }),
    ...(options.initrd === undefined ? {} : { initrdPath: options.initrd }),
    ...(options.cmdline === undefined ? {} : { cmdline: options.cmdline }),
    ...(name === undefined ? {} : { name }),
  });
  return follow(session, running, { title: `image ${path} on ${host.id}` });
}

/** Used by `delete-all` too. */
export async function deleteImage(session: Session, api: Api, image: ImageRow): Promise<void> {
  const running = await (await api.temporal()).start('deleteImage', { imageId: image.id });
  await follow(session, running, { title: `deleting image ${image.name}` });
}

async function spawn(session: Session, word: string, options: SpawnOptions): Promise<void> {
  const { domainType } = options;
  if (!isDomainType(domainType)) {
    throw new VmferryError(
      'InvalidInput',
      `--domain-type takes ${DOMAIN_TYPES.join(', ')}, not ${JSON.stringify(domainType)}`,
    );
  }
  const memoryBytes = parseBytes(options.memory, '--memory');
  const vcpus = parseWhole(options.vcpus, '--vcpus', 1, 512);
  const api = await session.api();
  const catalog = await api.catalog();
  const fromFile = word.includes('/');
  if (!fromFile && [options.kernel, options.initrd, options.cmdline].some((option) => option !== undefined)) {
    throw new VmferryError('InvalidInput', '--kernel, --initrd and --cmdline belong to a file; an image has its own');
  }
  const host = await chooseHost(catalog, options.host);
  const image = fromFile ? await addImage(session, word, { ...options, host: host.id }) : await catalog.findImage(word);
  const instanceId = randomUUID();
  const name = options.name ?? defaultName(image.name, instanceId);
  const running = await (
    await api.temporal()
  ).start(
    'spawn',
    { instanceId, host: host.id, imageId: image.id, name, memoryBytes, vcpus, domainType },
    { instanceName: name },
  );
  const result = await follow(session, running, { title: `${name} on ${host.id}` });
  session.output.answer(`Instance ${result.instanceId} spawned with IP ${result.address.ip}`, { ...result, name });
}

/** The guest's DHCP entry carries the name, so it is made a DNS label. */
function defaultName(imageName: string, instanceId: string): string {
  const label = imageName
    .toLowerCase()
    .replace(/\.(qcow2|img|raw)$/, '')
    .replaceAll(/[^a-z0-9]+/g, '-')
    .replaceAll(/^-+|-+$/g, '');
  return `${label.slice(0, 40) || 'vm'}-${instanceId.slice(0, 4)}`;
}
