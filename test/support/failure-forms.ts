/**
 * Every way in which the code says no, read from the code itself: type and message of each VmferryError and each failure of
 * a workflow. The variable parts of a message are written `…`.
 */
import { readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import ts from 'typescript';

const ROOT = join(import.meta.dirname, '../..');

export interface FailureForm {
  type: string;
  /** What the user reads, with `…` for what varies. */
  message: string;
  /** From the root of the repository. */
  file: string;
}

/** What these files and all that they import, within the repository, may say. */
export function failureForms(entries: readonly string[]): FailureForm[] {
  const found: FailureForm[] = [];
  const seen = new Set<string>();
  const open = entries.map((entry) => join(ROOT, entry));
  for (let path; (path = open.pop()) !== undefined;) {
    if (seen.has(path)) continue;
    seen.add(path);
    const source = parse(path);
    walk(source, (node) => {
      if (ts.isImportDeclaration(node) && node.importClause?.phaseModifier !== ts.SyntaxKind.TypeKeyword) {
        const { text } = node.moduleSpecifier as ts.StringLiteral;
        if (text.startsWith('.')) open.push(join(dirname(path), text));
      }
      const file = relative(ROOT, path);
      for (const form of formsOf(node, source)) found.push({ ...form, file });
    });
  }
  return found;
}

/** Every text that these files can say, in whatever way. For what a user sees that is no failure. */
export function texts(files: readonly string[]): string[] {
  const found: string[] = [];
  for (const file of files) {
    const source = parse(join(ROOT, file));
    walk(source, (node) => {
      if (ts.isStringLiteralLike(node) || ts.isTemplateExpression(node)) found.push(...textsOf(node, source));
    });
  }
  return found;
}

function parse(path: string): ts.SourceFile {
  return ts.createSourceFile(path, readFileSync(path, 'utf8'), ts.ScriptTarget.Latest, true);
}

function walk(node: ts.Node, visit: (node: ts.Node) => void): void {
  visit(node);
  ts.forEachChild(node, (child) => walk(child, visit));
}

/** Functions that make a failure of a type and a message, in workflows and in the client. */
const MAKERS = ['failure', 'explained'];

/** `new VmferryError(type, message)`, and what the functions above are called with. */
function formsOf(node: ts.Node, source: ts.SourceFile): { type: string; message: string }[] {
  if (!ts.isNewExpression(node) && !ts.isCallExpression(node)) return [];
  if (!ts.isIdentifier(node.expression)) return [];
  const name = node.expression.text;
  if (!(ts.isNewExpression(node) ? ['VmferryError'] : MAKERS).includes(name)) return [];
  const [type, message] = node.arguments ?? [];
  if (!type || !message || !ts.isStringLiteral(type)) return [];
  return textsOf(message, source).map((text) => ({ type: type.text, message: text }));
}

/** What an expression may be as text; what cannot be seen from here is `…`. */
function textsOf(node: ts.Expression, source: ts.SourceFile): string[] {
  return [...new Set(alternatives(node, source).map((text) => text.replaceAll(/…+/g, '…')))];
}

function alternatives(node: ts.Expression, source: ts.SourceFile): string[] {
  if (ts.isStringLiteralLike(node)) return [node.text];
  if (ts.isTemplateExpression(node)) {
    // What is put in is looked at too where it is a choice of words.
    return node.templateSpans.reduce(
      (heads, { expression, literal }) => {
        const words = ts.isConditionalExpression(expression) ? alternatives(expression, source) : ['…'];
        return heads.flatMap((head) => words.map((word) => head + word + literal.text));
      },
      [node.head.text],
    );
  }
  if (ts.isConditionalExpression(node)) {
    return [...alternatives(node.whenTrue, source), ...alternatives(node.whenFalse, source)];
  }
  if (ts.isBinaryExpression(node) && node.operatorToken.kind === ts.SyntaxKind.PlusToken) {
    const right = alternatives(node.right, source);
    return alternatives(node.left, source).flatMap((left) => right.map((text) => left + text));
  }
  if (ts.isIdentifier(node)) {
    const found: string[] = [];
    walk(source, (other) => {
      if (!ts.isVariableDeclaration(other) || !other.initializer || !ts.isIdentifier(other.name)) return;
      if (other.name.text === node.text) found.push(...alternatives(other.initializer, source));
    });
    if (found.length > 0) return found;
  }
  return ['…'];
}
