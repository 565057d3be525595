/**
 * How each workflow is started: its id, which object it is about, and the words that head its history. One table, so
 * that two commands can never disagree about what excludes what.
 */
import { createHash } from 'node:crypto';
import { searchAttributes, workflowId } from '../workflows/contract.ts';
import type { HostId } from '../workflows/contract.ts';
import type { InputOf, Story, WorkflowName } from './api.ts';

/** Those that the search attributes of the same name tell. */
export interface About {
  instance?: string;
  source?: HostId;
  destination?: HostId;
}

interface Start<Input> {
  id(input: Input): string;
  /** What the history's list shows; at most 200 bytes. */
  summary(input: Input, story: Story): string;
  about(input: Input, story: Story): About;
  /** Two requests under one id are the same if they agree in these too. */
  same?: readonly (keyof About)[];
  /** Milliseconds after which a question that nobody answers is given up; work is never given up by time. */
  timeout?: number;
}

const name = (story: Story, id: string): string => story.instanceName ?? id.slice(0, 8);
const from = (story: Story): { source?: HostId } => (story.source === undefined ? {} : { source: story.source });

/** Repeating a request that names no id of its own finds the one that runs, by what it asks for. */
const digest = (input: object): string => createHash('sha256').update(JSON.stringify(input)).digest('hex').slice(0, 16);

export const STARTS: { readonly [K in WorkflowName]: Start<InputOf<K>> } = {
  migrate: {
    id: ({ instanceId }) => workflowId.instance(instanceId),
    summary: ({ instanceId, destination }, story) =>
      `Move ${name(story, instanceId)}${story.source === undefined ? '' : ` from ${story.source}`} to ${destination}`,
    about: ({ instanceId, destination }, story) => ({ instance: instanceId, destination, ...from(story) }),
    same: ['destination'],
  },
  save: {
    id: ({ instanceId }) => workflowId.instance(instanceId),
    summary: ({ instanceId }, story) =>
      `Save ${name(story, instanceId)}${story.source === undefined ? '' : ` on ${story.source}`}`,
    about: ({ instanceId }, story) => ({ instance: instanceId, ...from(story) }),
  },
  restore: {
    id: ({ instanceId }) => workflowId.instance(instanceId),
    summary: ({ instanceId, destination }, story) =>
      `Restore ${name(story, instanceId)}${destination === undefined ? '' : ` on ${destination}`}`,
    about: ({ instanceId, destination }, story) => ({
      instance: instanceId,
      ...(destination === undefined ? {} : { destination }),
      ...from(story),
    }),
    same: ['destination'],
  },
  start: {
    id: ({ instanceId }) => workflowId.instance(instanceId),
    summary: ({ instanceId }, story) => `Start ${name(story, instanceId)}`,
    about: ({ instanceId }, story) => ({ instance: instanceId, ...from(story) }),
  },
  deleteInstance: {
    id: ({ instanceId }) => workflowId.instance(instanceId),
    summary: ({ instanceId }, story) => `Delete ${name(story, instanceId)}`,
    about: ({ instanceId }, story) => ({ instance: instanceId, ...from(story) }),
  },
  spawn: {
    id: ({ instanceId }) => workflowId.spawn(instanceId),
    summary: ({ name: called, host }) => `Spawn ${called} on ${host}`,
    about: ({ instanceId, host }) => ({ instance: instanceId, destination: host }),
  },
  addImage: {
    id: (input) => workflowId.image(input.host, digest(input)),
    summary: ({ host, path }) => `Add image ${path} of ${host}`.slice(0, 200),
    about: ({ host }) => ({ source: host }),
  },
  deleteImage: {
    id: ({ imageId }) => workflowId.imageDelete(imageId),
    summary: ({ imageId }) => `Delete image ${imageId.slice(0, 12)}`,
    about: () => ({}),
  },
  pull: {
    id: ({ id, destination }) => workflowId.pull(id, destination),
    summary: ({ kind, id, destination }) => `Pull ${kind} ${id.slice(0, 12)} to ${destination}`,
    about: ({ destination }) => ({ destination }),
  },
  deletePackage: {
    id: ({ packageId }) => workflowId.package(packageId),
    summary: ({ packageId }) => `Delete package ${packageId.slice(0, 8)}`,
    about: () => ({}),
  },
  verifyPackage: {
    id: ({ packageId }) => workflowId.package(packageId),
    summary: ({ packageId, host }) => `Verify package ${packageId.slice(0, 8)} on ${host}`,
    about: ({ host }) => ({ source: host }),
    same: ['source'],
  },
  describeNode: {
    id: ({ host }) => workflowId.nodeQuestion(host),
    summary: ({ host }) => `Ask ${host} who it is`,
    about: ({ host }) => ({ source: host }),
    timeout: 30_000,
  },
  inspect: {
    id: ({ mend }) => workflowId.inspection(mend),
    summary: ({ mend }) => (mend ? 'Compare hosts and catalog, and mend' : 'Compare hosts and catalog'),
    about: () => ({}),
  },
  addNode: {
    id: ({ host }) => workflowId.node(host),
    summary: ({ host }) => `Add host ${host} to the pool`,
    about: ({ host }) => ({ source: host }),
  },
};

/** The table's keys of the search attributes. */
export const ATTRIBUTES = {
  instance: searchAttributes.instance,
  source: searchAttributes.source,
  destination: searchAttributes.destination,
} as const;
