/**
 * The guards that are taken away, one at a time, each as an exact replacement of text. What is replaced must be there exactly
 * once: a mutation that does not fit the code any more is no proof, and is refused as stale.
 */
export interface Edit {
  /** From the root of the project. */
  file: string;
  from: string;
  to: string;
}

export interface Mutation {
  /** What is taken away. */
  guard: string;
  edits: readonly Edit[];
}

export const MUTATIONS: readonly Mutation[] = [
  {
    guard: 'the release check: a destination lets its copy run whatever it is shown',
    edits: [
      {
        file: 'activities/resume-instance.ts',
        from: 'if (fence === undefined) await host.ledger.takeOver({ instanceId, generation, packageId, release, source });',
        to: `if (fence === undefined)
          await host.ledger
            .takeOver({ instanceId, generation, packageId, release, source })
            .catch(() => undefined);`,
      },
    ],
  },
  {
    guard: 'the receipt check: a source releases to whoever it is told to',
    edits: [
      {
        file: 'activities/trust/ledger.ts',
        from: "if (input.receipt === undefined) {\n        throw new VmferryError(\n          'ReceiptMissing'",
        to: "if (input.destination === undefined) {\n        throw new VmferryError(\n          'ReceiptMissing'",
      },
      {
        file: 'activities/trust/ledger.ts',
        from: `        input.receipt,
        { ...input, to: to.name, toFingerprint: to.fingerprint },
        key,
      );`,
        to: `        input.receipt as string,
        { ...input, to: to.name, toFingerprint: to.fingerprint },
        key,
      ).catch(() => ({ digest: '0'.repeat(64) }));`,
      },
    ],
  },
  {
    guard: 'the suspend before the save: libvirt stops the guest itself',
    edits: [
      {
        file: 'activities/save-instance.ts',
        from: "    await hypervisor.suspend(move.instanceId);\n    await passed('suspended');\n",
        to: "    await passed('suspended');\n",
      },
    ],
  },
  {
    guard: 'the fresh copy of the overlay: QEMU works on the disk that was opened from the package',
    edits: [
      {
        file: 'activities/restore-copy.ts',
        from: "import { readdir, rm } from 'node:fs/promises';",
        to: "import { link, readdir, rm } from 'node:fs/promises';",
      },
      {
        file: 'activities/restore-copy.ts',
        from: '    await copyFile({ from: staged, to: copy, work });',
        to: '    await link(staged, copy);',
      },
    ],
  },
  {
    guard: 'the digest check: a segment is taken as it comes',
    edits: [
      {
        file: 'activities/package/verify.ts',
        from: '  if (found.bytes === expected.bytes && found.sha256 === expected.sha256) return;\n',
        to: '  if (found.bytes >= 0) return;\n',
      },
    ],
  },
  {
    guard: 'the fsync and rename of records: they are written in their place, and left to the cache',
    edits: [
      {
        file: 'activities/records/durable.ts',
        from: `  const temporary = await writeTemporary(path, data, options);
  try {
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
  await syncDirectory(dirname(path));
}`,
        to: `  await rm(path, { force: true });
  const file = await open(path, 'wx', options.mode ?? 0o644);
  try {
    await file.writeFile(data);
  } finally {
    await file.close();
  }
}`,
      },
      {
        file: 'activities/records/durable.ts',
        from: '      await file.writeFile(data);\n      await file.sync();\n',
        to: '      await file.writeFile(data);\n',
      },
      {
        file: 'activities/records/durable.ts',
        from: '    await rm(temporary, { force: true });\n    await syncDirectory(dirname(path));\n',
        to: '    await rm(temporary, { force: true });\n',
      },
    ],
  },
  {
    guard: 'the look before clearing up whether the instance would be continued from it',
    edits: [
      {
        file: 'activities/settle-move.ts',
        from: 'const needed = await neededOf(host, input);',
        to: 'const needed = null as Needed | null;',
      },
    ],
  },
  {
    guard: 'the look before taking back whether the generation ever ran here',
    edits: [{ file: 'activities/return-instance.ts', from: '        await requireRunBefore(host, move);\n', to: '' }],
  },
  {
    guard: 'the generation by which a folder is known: what has brought an instance is taken for what it was saved in',
    edits: [
      { file: 'activities/move-folder.ts', from: ' && one.generation === other.generation;', to: ';' },
      {
        file: 'activities/return-instance.ts',
        from: '(await isRewritten(host, move, staged.folder))',
        to: "(await exists(join(staged.folder, 'local.xml')))",
      },
    ],
  },
  {
    guard: 'the look before a restore whether the XML was rewritten for this host',
    edits: [
      {
        file: 'activities/restore-instance.ts',
        from: '  if (!(await isRewritten(host, move, folder))) {\n',
        to: '  if (folder === host.layout.root && !(await isRewritten(host, move, folder))) {\n',
      },
    ],
  },
  {
    guard: 'the digest of a disk that is restored once more after the release',
    edits: [
      {
        file: 'activities/restore-copy.ts',
        from: '    if (disk.sha256 !== undefined && digest !== disk.sha256) {\n',
        to: "    if (host.name === '' && digest !== disk.sha256) {\n",
      },
    ],
  },
];
