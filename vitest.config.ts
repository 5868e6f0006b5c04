import { defineConfig } from 'vitest/config';

const source = { conditions: ['@relevo/source'] };
const resolve = {
  resolve: source,
  ssr: { resolve: { ...source, externalConditions: ['@relevo/source'] } },
};

/** Minutes rather than seconds: real failovers and random faults at length, mutations. `npm run test:long`, not `npm test`. */
const LONG = '**/*.long.test.ts';

/**
 * Clusters of real processes come after the rest and one after the other: each takes both cores. Those of
 * containers need an engine and an image, and are none of `npm test`.
 */
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
          testTimeout: 60_000,
          hookTimeout: 60_000,
          maxWorkers: 2,
          sequence: { groupOrder: 0 },
        },
      },
      ...(
        [
          ['cluster', ['test/cluster/**/*.test.ts'], [LONG]],
          ['containers', ['test/containers/**/*.test.ts'], []],
          ['long', [LONG], ['**/node_modules/**']],
        ] as const
      ).map(([name, include, exclude]) => ({
        ...resolve,
        test: {
          name,
          include: [...include],
          exclude: [...exclude],
          testTimeout: 60_000,
          hookTimeout: 60_000,
          fileParallelism: false,
          maxWorkers: 1,
          sequence: { groupOrder: 1 },
        },
      })),
    ],
  },
});
