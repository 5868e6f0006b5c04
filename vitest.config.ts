import { defineConfig } from 'vitest/config';

const source = { conditions: ['@relevo/source'] };
const resolve = {
  resolve: source,
  ssr: { resolve: { ...source, externalConditions: ['@relevo/source'] } },
};

/** Clusters of real processes come after the rest and one after the other: each takes both cores. */
export default defineConfig({
  test: {
    pool: 'forks',
    projects: [
      {
        ...resolve,
        test: {
          name: 'unit',
          include: ['packages/*/test/**/*.test.ts', 'test/*.test.ts'],
          testTimeout: 60_000,
          hookTimeout: 60_000,
          maxWorkers: 2,
          sequence: { groupOrder: 0 },
        },
      },
      {
        ...resolve,
        test: {
          name: 'cluster',
          include: ['test/cluster/**/*.test.ts'],
          testTimeout: 60_000,
          hookTimeout: 60_000,
          fileParallelism: false,
          maxWorkers: 1,
          sequence: { groupOrder: 1 },
        },
      },
    ],
  },
});
