/** `vmferry list` and `vmferry delete-all`: instances and images together. */
import type { Command } from 'commander';
import { EXIT, VmferryError } from '../../workflows/failures.ts';
import { explain, Interrupted } from '../failure.ts';
import type { Explanation } from '../failure.ts';
import { confirm, declined } from '../session.ts';
import type { Session } from '../session.ts';
import { deleteImage, imagesSection } from './images.ts';
import { deleteInstance, instancesSection } from './instances.ts';
import { isStuck, stuckMovesSection } from './moves.ts';

/** Open moves that are looked through; an instance has at most one. */
const MOST_MOVES = 10_000;

export function addListCommands(program: Command, session: Session): void {
  program
    .command('list')
    .description('List instances and images, and the moves that wait for a host or a decision')
    .addHelpText('after', '\nExample:\n  vmferry list --output json')
    .action(async () => {
      const catalog = await (await session.api()).catalog();
      const [instances, images, open] = await Promise.all([
        catalog.instances(),
        catalog.images(),
        catalog.moves({ openOnly: true, limit: MOST_MOVES }),
      ]);
      const stuck = open.filter(isStuck);
      const sections = [instancesSection(instances), imagesSection(images)];
      session.output.listing(...sections, ...(stuck.length === 0 ? [] : [stuckMovesSection(stuck)]));
    });

  program
    .command('delete-all')
    .argument('[what]', 'images or instances (default: both)')
    .description('Delete all images and/or instances; asks first')
    .option('--yes', 'do not ask')
    .addHelpText('after', '\nExample:\n  vmferry delete-all instances --yes')
    .action((what: string | undefined, options: { yes?: boolean }) => deleteAll(session, what, options.yes === true));
}

interface Outcome {
  kind: 'instance' | 'image';
  id: string;
  name: string;
  failure: Explanation | null;
}

async function deleteAll(session: Session, what: string | undefined, sure: boolean): Promise<void> {
  if (what !== undefined && what !== 'images' && what !== 'instances') {
    throw new VmferryError('InvalidInput', `delete-all takes images or instances, not ${JSON.stringify(what)}`);
  }
  const api = await session.api();
  const catalog = await api.catalog();
  const instances = what === 'images' ? [] : await catalog.instances();
  const images = what === 'instances' ? [] : await catalog.images();
  if (instances.length + images.length > 0 && !sure) {
    session.output.ask([...instances, ...images].map(({ name, id }) => `  ${name} (${id})\n`).join(''));
    const counts = `${instances.length} instances and ${images.length} images`;
    if (!(await confirm(session, `Delete these ${counts} for ever?`))) throw declined();
  }
  const outcomes: Outcome[] = [];
  const attempt = async (
    kind: Outcome['kind'],
    { id, name }: { id: string; name: string },
    run: Promise<void>,
  ): Promise<void> => {
    try {
      await run;
      outcomes.push({ kind, id, name, failure: null });
    } catch (error) {
      if (error instanceof Interrupted) throw error;
      const failure = explain(error);
      session.output.note(`${name}: ${failure.message}`);
      outcomes.push({ kind, id, name, failure });
    }
  };
  // Instances first: an image that one of them uses cannot go.
  for (const instance of instances) await attempt('instance', instance, deleteInstance(session, api, instance));
  for (const image of images) await attempt('image', image, deleteImage(session, api, image));
  const count = (kind: Outcome['kind']): number =>
    outcomes.filter((one) => one.kind === kind && one.failure === null).length;
  const failed = outcomes.filter(({ failure }) => failure !== null);
  const left = failed.length === 0 ? '' : `; ${failed.length} left: ${failed.map(({ name }) => name).join(', ')}`;
  session.output.answer(`Deleted ${count('instance')} instances and ${count('image')} images${left}`, { outcomes });
  session.exitWith(failed[0]?.failure?.exit ?? EXIT.ok);
}
