/**
 * Invariants 4 and 5, at the end: what is settled is finished, on its owner alone, and has left nothing behind. How an
 * instance should be found is the campaign's word: see `Expectation`.
 */
import type { History, HostState, QemuLife, Thing, Violation } from '../history.ts';
import { consoleLost, strikes } from './excuses.ts';
import type { Tenure, View } from './view.ts';

/** A guest that runs shows it at least so often: its vCPUs by using time, itself by telling a count. */
const RUNS_MS = 3_000;
const TELLS_MS = 10_000;

const HALF_MADE = /(^|\/)\.(tmp|adding)-|\.partial(\/|$)|\.part$/;

type Report = (invariant: 4 | 5, hosts: string[], text: string) => void;

export function endState(view: View): Violation[] {
  const { history, instance } = view;
  const found: Violation[] = [];
  const report: Report = (invariant, hosts, text) =>
    found.push({ invariant, instance: instance.id, hosts, at: history.to, text: `${instance.name}: ${text}` });
  if (instance.expected === 'moving') return found;

  const owners = view.tenures.filter(({ until }) => until === null);
  const living = view.lives.filter(({ ended }) => ended === null);
  if (instance.expected === 'deleted') nothingLeft(living, report);
  else {
    const [owner, ...others] = owners;
    if (!owner || others.length > 0) {
      report(
        4,
        owners.map(({ host }) => host),
        `${owner ? 'several hosts own' : 'no host owns'} it at the end`,
      );
    } else if (instance.expected === 'running') runsOnOwner(view, owner, living, report);
    else
      for (const { host } of living)
        report(4, [host], `a QEMU process is left on ${host}, though it should be stopped`);
  }
  unfinished(view, report);
  leftovers(view, new Set(owners.map(({ host }) => host)), living, report);
  return found;
}

/** Of the pool as a whole, once nothing moves any more: nothing that no record knows. */
export function unknownThings(history: History, views: readonly View[]): Violation[] {
  const moves = new Set(views.flatMap((view) => [...view.moves]));
  const packages = new Set(views.flatMap((view) => [...view.packages.keys()]));
  const instances = new Set(views.map(({ instance }) => instance.id));
  const planted = new Set(history.bystanders.map(({ host, path }) => `${host} ${path}`));
  const violation = (host: string, text: string, invariant: 4 | 5 = 5): Violation => ({
    ...{ invariant, instance: null, hosts: [host], at: history.to },
    text,
  });
  return history.final.flatMap((state) => {
    const { host, files } = state;
    const halfMade = files.filter((file) => HALF_MADE.test(file) && !views.some((view) => belongsTo(view, file)));
    const top = topLevel(state).filter(({ path }) => !planted.has(`${host} ${path}`) && !HALF_MADE.test(path));
    const unknown = top.filter(({ folder, id }) => {
      if (folder === 'moves' || folder === 'staging') return !moves.has(id);
      if (folder === 'incoming' || folder === 'packages') return !packages.has(id.replace(/\.partial$/, ''));
      return (folder === 'instances' || folder === 'network') && !instances.has(id.replace(/\.json$/, ''));
    });
    const strange = (state.domains ?? []).filter(
      ({ uuid }) =>
        !instances.has(uuid) && !history.bystanders.some(({ host: on, what }) => on === host && what.includes(uuid)),
    );
    return [
      ...halfMade
        .filter((file) => !planted.has(`${host} ${topOf(file)}`))
        .map((path) => violation(host, `${host} keeps ${path}, which was never finished`, 4)),
      ...unknown.map(({ path }) => violation(host, `${host} keeps ${path}, which no record knows`)),
      ...strange.map(({ name, uuid }) =>
        violation(host, `libvirt on ${host} knows domain ${name} (${uuid}), which nobody made`),
      ),
    ];
  });
}

/** Things of others: of people, and images, which no move may remove. */
export function bystanders(history: History): Violation[] {
  const violation = (host: string, text: string): Violation => ({
    ...{ invariant: 5, instance: null, hosts: [host], at: history.to },
    text,
  });
  const harmed = history.bystanders
    .filter(({ before, after }) => before !== after)
    .map(({ host, what, after }) =>
      violation(host, `${what}, on ${host}, ${after === null ? 'is gone' : 'was changed'}`),
    );
  const deleted = (id: string): boolean =>
    history.disturbances.some(({ kind, ids }) => kind === 'operator-deleted' && ids?.includes(id) === true);
  const images = history.things
    .filter(({ path, gone }) => gone && /^images\/[0-9a-f]{64}$/.test(path) && !deleted(path.slice('images/'.length)))
    .map(({ host, path }) => violation(host, `${path}, on ${host}, is gone, though nobody had asked for it`));
  return [...harmed, ...images];
}

function runsOnOwner(view: View, { host }: Tenure, living: QemuLife[], report: Report): void {
  const { history, instance, lives, consoles } = view;
  for (const life of living.filter((other) => other.host !== host)) {
    report(5, [life.host], `a QEMU process (${life.pid}) is left on ${life.host}; ${host} owns it`);
  }
  const own = living.filter((life) => life.host === host);
  if (own.length > 1) report(4, [host], `${own.length} QEMU processes are left on ${host}`);
  const [life] = own;
  if (!life) {
    const last = lives
      .filter(({ ended }) => ended)
      .sort((a, b) => (a.ended?.by ?? 0) - (b.ended?.by ?? 0))
      .at(-1);
    const struck = last && history.disturbances.some((one) => strikes(one, last));
    if (!struck) report(4, [host], `it does not run on ${host}, its owner, though nothing had ended it`);
    return;
  }
  const state = history.final.find((one) => one.host === host);
  const at = state?.at ?? history.to;
  if ((life.runs.at(-1)?.by ?? 0) < at - RUNS_MS) report(4, [host], `its vCPUs on ${host} stand still`);
  const told = consoles.filter((log) => log.host === host).flatMap(({ spans }) => spans.map(({ lastAt }) => lastAt));
  const mute = Math.max(0, ...told) < at - TELLS_MS;
  if (mute && !consoleLost(history, [life], Math.max(life.began.after, ...told), at)) {
    report(4, [host], `it tells nothing any more on ${host}`);
  }
  const domain = state?.domains?.find(({ uuid }) => uuid === instance.id);
  if (state?.domains && !domain?.running) report(4, [host], `libvirt on ${host} does not know that it runs`);
  if (domain && !domain.persistent) report(4, [host], `libvirt on ${host} would forget it when it stops`);
}

function nothingLeft(living: QemuLife[], report: Report): void {
  for (const { host } of living) report(5, [host], `a QEMU process is left on ${host}, though it was deleted`);
}

/** Halves of what takes two steps. */
function unfinished(view: View, report: Report): void {
  const { history, instance } = view;
  for (const { host, files } of history.final) {
    for (const path of files.filter((file) => HALF_MADE.test(file) && belongsTo(view, file))) {
      report(4, [host], `${host} keeps ${path}, which was never finished`);
    }
  }
  for (const { host, path, content } of view.records) {
    if (content !== null && typeof content === 'object' && 'unreadable' in content) {
      report(4, [host], `the record ${path} on ${host} cannot be read`);
    }
  }
  const ledger = history.ledger.filter((entry) => entry.instance === instance.id && entry.gone === null);
  for (const { host, generation, decision } of ledger) {
    const next = ledger.some(
      (entry) => entry.kind === 'owned' && entry.host === host && entry.generation === generation + 1,
    );
    if (decision === 'return' && !next) {
      report(4, [host], `${host} took it back as generation ${generation + 1} and did not write down that it owns it`);
    }
  }
}

/** What a settled instance may have: a working copy and network entries on its owner, packages and small records anywhere. */
function leftovers(view: View, owners: ReadonlySet<string>, living: QemuLife[], report: Report): void {
  const { history, instance } = view;
  const running = instance.expected === 'running';
  for (const state of history.final) {
    const { host, domains, dhcp, rules } = state;
    const owns = owners.has(host);
    const inUse = living.find((life) => life.host === host)?.generation ?? null;
    for (const { path, folder, id } of topLevel(state)) {
      if (!belongsTo(view, path) || HALF_MADE.test(path)) continue;
      if (folder === 'moves' || folder === 'staging' || folder === 'incoming')
        report(5, [host], `${host} keeps ${path}`);
      if (folder === 'network' && !owns) report(5, [host], `${host} still admits it to its network: ${path}`);
      if (folder === 'network' && id !== `${instance.id}.json`) report(5, [host], `${host} keeps ${path}`);
    }
    for (const path of state.files) {
      const generation = new RegExp(`^instances/${instance.id}/g(\\d+)/$`).exec(path)?.[1];
      if (generation === undefined) continue;
      if (!owns) report(5, [host], `${host} keeps the working copy ${path}`);
      else if (inUse !== null && Number(generation) !== inUse) {
        report(5, [host], `${host} keeps the working copy ${path} beside that of generation ${inUse}, which runs`);
      }
    }
    if (owns) {
      if (running && !state.files.includes(`network/${instance.id}.json`)) {
        report(4, [host], `${host} has no record of its address`);
      }
      if (running && dhcp && !dhcp.some(({ ip }) => ip === instance.ip))
        report(4, [host], `${host} lacks its DHCP entry`);
      if (running && rules && !rules.includes(instance.id)) report(4, [host], `the rules on ${host} do not admit it`);
      continue;
    }
    if (domains?.some(({ uuid }) => uuid === instance.id)) report(5, [host], `libvirt on ${host} still knows it`);
    if (dhcp?.some(({ ip }) => ip === instance.ip)) report(5, [host], `${host} keeps its DHCP entry`);
    if (rules?.includes(instance.id)) report(5, [host], `the rules on ${host} still admit it`);
  }
  for (const { host, path } of deletedInUse(view)) {
    report(5, [host], `${path} on ${host} was removed while QEMU used it`);
  }
}

/** Disks that went away long before the process that had them open. */
function deletedInUse(view: View): Thing[] {
  return view.things.filter(({ host, path, appeared, gone }) => {
    const generation = Number(/\/g(\d+)\/[^/]+\.qcow2$/.exec(path)?.[1]);
    return view.lives.some(
      (life) =>
        life.host === host &&
        life.generation === generation &&
        gone !== null &&
        life.began.after >= appeared.after &&
        life.began.by <= gone.after &&
        life.runs.some((run) => run.last > gone.by),
    );
  });
}

function belongsTo({ instance, moves, packages }: View, path: string): boolean {
  const [top, name = ''] = path.split('/');
  if (top === 'instances') return name === instance.id;
  if (top === 'network') return name.includes(instance.id);
  if (top === 'moves' || top === 'staging') return moves.has(name);
  return packages.has(name.replace(/\.partial$/, ''));
}

const topOf = (path: string): string => path.split('/').slice(0, 2).join('/');

/** Folders and files directly below moves/, staging/ and so on. */
function topLevel({ files }: HostState): { path: string; folder: string; id: string }[] {
  return files.flatMap((file) => {
    const [, folder, id] = /^([^/]+)\/([^/]+)\/?$/.exec(file) ?? [];
    return folder === undefined || id === undefined || folder === 'images' || folder === 'keys'
      ? []
      : [{ path: `${folder}/${id}`, folder, id }];
  });
}
