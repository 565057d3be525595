/** Reading and changing XML text that may come from a stranger. */
import { parseXmlDocument, serializeToWellFormedString, type Document, type Element } from 'slimdom';
import { VmferryError, type FailureType } from '../../workflows/failures.ts';

/** libvirt's own domain XML has a few kilobytes; it accepts more than we ever want to look at. */
export const MAX_XML_BYTES = 1024 * 1024;

/**
 * Parses XML of our own or of a stranger. Throws `failure`, naming `what`, if it is too long, not well-formed, or has a
 * document type declaration: those define entities and default attributes, by which the text that was checked would not
 * be the text that libvirt reads. In well-formed XML a declaration starts with exactly the characters looked for.
 */
export function parseXml(text: string, what: string, failure: FailureType): Document {
  if (Buffer.byteLength(text) > MAX_XML_BYTES) {
    throw new VmferryError(failure, `${what} is longer than ${MAX_XML_BYTES} bytes`);
  }
  if (text.includes('<!DOCTYPE')) throw new VmferryError(failure, `${what} has a document type declaration`);
  try {
    return parseXmlDocument(text);
  } catch (error) {
    // Also a RangeError: elements nested so deeply that the parser's stack overflowed.
    throw new VmferryError(failure, `${what} is not well-formed XML`, { cause: error });
  }
}

/** The document element as text, without declaration or comments around it, ended by a line break as libvirt does. */
export function serializeXml(document: Document): string {
  return `${serializeToWellFormedString(rootOf(document))}\n`;
}

export function rootOf(document: Document): Element {
  const root = document.documentElement;
  if (!root) throw new TypeError('a parsed document has an element');
  return root;
}

/** Child elements of this name that are in no namespace, as all of libvirt's own are. */
export function childrenOf(parent: Element | null, name: string): Element[] {
  return (parent?.children ?? []).filter((child) => child.localName === name && child.namespaceURI === null);
}

/** The first child of this name, or null. */
export function childOf(parent: Element | null, name: string): Element | null {
  return childrenOf(parent, name)[0] ?? null;
}

/** The element at the end of a path of names, or null. */
export function elementAt(root: Element, ...names: string[]): Element | null {
  return names.reduce<Element | null>((element, name) => childOf(element, name), root);
}

/** Its text without white space around it; empty for null. */
export function textOf(element: Element | null): string {
  return (element?.textContent ?? '').trim();
}

/** Appends an element with attributes and returns it. */
export function append(parent: Element, name: string, attributes: Record<string, string> = {}, text?: string): Element {
  const document = parent.ownerDocument;
  if (!document) throw new TypeError('an element belongs to a document');
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.appendChild(document.createTextNode(text));
  parent.appendChild(element);
  return element;
}

/** Replaces all that is in the element by this text. */
export function setText(element: Element, text: string): void {
  element.textContent = text;
}

const ESCAPES: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&apos;' };

/** For text and attribute values in XML that is written as a template. */
export function escapeXml(value: string): string {
  return value.replace(/[&<>"']/g, (character) => ESCAPES[character]!);
}
