import { defineConfig } from 'vitest/config';

const source = { conditions: ['@relevo/source'] };

export default defineConfig({
  resolve: source,
  ssr: { resolve: { ...source, externalConditions: ['@relevo/source'] } },
  test: {
    include: ['packages/*/test/**/*.test.ts', 'test/**/*.test.ts'],
    testTimeout: 30_000,
    hookTimeout: 60_000,
    pool: 'forks',
    maxWorkers: 2,
  },
});
