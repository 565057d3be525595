import js from '@eslint/js';
import { importX } from 'eslint-plugin-import-x';
import tseslint from 'typescript-eslint';

/** Dependencies point one way: client → workflows ← activities ← workers. */
const forbid = (files, patterns, allow = []) => ({
  files,
  ignores: allow,
  rules: { 'no-restricted-imports': ['error', { patterns }] },
});
const group = (group, message) => ({ group, message });

export default tseslint.config(
  { ignores: ['dist', 'node_modules', '**/*.node'] },
  js.configs.recommended,
  ...tseslint.configs.recommendedTypeChecked,
  {
    plugins: { 'import-x': importX },
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      '@typescript-eslint/no-floating-promises': [
        'error',
        {
          allowForKnownSafeCalls: [
            { from: 'package', name: ['test', 'describe', 'it', 'suite'], package: 'node:test' },
          ],
        },
      ],
      '@typescript-eslint/consistent-type-imports': 'error',
      '@typescript-eslint/explicit-module-boundary-types': 'error',
      '@typescript-eslint/switch-exhaustiveness-check': ['error', { considerDefaultExhaustiveForUnions: true }],
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true }],
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_' }],
      'import-x/no-cycle': ['error', { maxDepth: 8 }],
      'no-console': 'error',
      eqeqeq: 'error',
    },
  },
  { files: ['**/*.js'], ...tseslint.configs.disableTypeChecked },
  forbid(
    ['workflows/**'],
    [
      group(
        ['node:*', 'execa', 'pg', 'libvirt', 'openpgp', 'zod', 'archiver'],
        'Workflow code is replayed: nothing that touches the world may be reachable from it.',
      ),
      group(
        ['**/activities/**', '**/workers/**', '**/client/**', '**/infra/**'],
        'Workflows know activities by the types in contract.ts only.',
      ),
      group(
        ['@temporalio/worker', '@temporalio/client', '@temporalio/activity'],
        'These belong to the other side of the sandbox.',
      ),
    ],
  ),
  forbid(
    ['client/**'],
    [
      // A regular expression, because a group cannot let one file out of a folder that it holds back.
      {
        regex: '/activities/(?!trust/(pool-key|fences)\\.ts$)|/workers/',
        message:
          'The client works through Temporal and the catalog from any machine; of the activities it shares only the operator’s pool key and fences.',
      },
      group(['libvirt'], 'The client runs where there is no libvirt.'),
    ],
  ),
  forbid(
    ['activities/*/**'],
    [group(['../*.ts', '!../heartbeat.ts', '**/workers/**', '**/client/**'], 'A mechanism knows nothing of steps.')],
  ),
  forbid(
    ['activities/*.ts'],
    [group(['**/workers/**', '**/client/**'], 'Steps are composed by workers, never the other way.')],
  ),
  { files: ['client/**', 'infra/**', 'test/**'], rules: { 'no-console': 'off' } },
);
