import { defineConfig } from 'vitest/config';

const source = { conditions: ['@relevo/source'] };
const resolve = {
  resolve: source,
  ssr: { resolve: { ...source, externalConditions: ['@relevo/source'] } },
};

/** Minutes rather than seconds: real failovers and random faults at length, mutations. `npm run test:long`, not `npm test`. */
const LONG = '**/*.long.test.ts';

/** Those of containers need an engine and an image, and are none of `npm test`. */
export default defineConfig({
  test: {
    pool: 'forks',
    projects: [
      {
        ...resolve,
        test: {
          name: 'unit',
          include: ['packages/*/test/**/*.test.ts', 'test/*.test.ts'],
          exclude: [LONG],
          testTimeout: 120_000,
          hookTimeout: 120_000,
          maxWorkers: 2,
          // Half of the time of a small file is loading what the file before it has loaded.
          isolate: false,
        },
      },
      {
        ...resolve,
        test: {
          name: 'cluster',
          include: ['test/cluster/**/*.test.ts'],
          exclude: [LONG],
          testTimeout: 120_000,
          hookTimeout: 120_000,
          maxWorkers: 2,
        },
      },
      ...(
        [
          ['containers', ['test/containers/**/*.test.ts'], []],
          ['long', [LONG], ['**/node_modules/**']],
        ] as const
      ).map(([name, include, exclude]) => ({
        ...resolve,
        test: {
          name,
          include: [...include],
          exclude: [...exclude],
          testTimeout: 120_000,
          hookTimeout: 120_000,
          fileParallelism: false,
          maxWorkers: 1,
          sequence: { groupOrder: 1 },
        },
      })),
    ],
  },
});
