/** The short workflows' share of the story: one line in the Temporal UI, and the attributes to find them by. */
import { setCurrentDetails, upsertSearchAttributes } from '@temporalio/workflow';
import { searchAttributes, type HostId, type InstanceId } from './contract.ts';

/** `details` is Markdown. */
export function tell(
  details: string,
  found: { instance?: InstanceId; source?: HostId; destination?: HostId } = {},
): void {
  setCurrentDetails(details);
  const { instance, source, destination } = found;
  const attributes = [
    ...(instance === undefined ? [] : [{ key: searchAttributes.instance, value: instance }]),
    ...(source === undefined ? [] : [{ key: searchAttributes.source, value: source }]),
    ...(destination === undefined ? [] : [{ key: searchAttributes.destination, value: destination }]),
  ];
  if (attributes.length > 0) upsertSearchAttributes(attributes);
}
