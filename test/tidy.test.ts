/** The shape of the workspace (deploy/layers.json and style), held by rules, and the rules by breaking them. */
import { resolve } from 'node:path';
import { describe, expect, test } from 'vitest';
import { RULES, readWorkspace, type Files } from './tidy-rules.ts';

const files = readWorkspace(resolve(import.meta.dirname, '..'));

describe('the workspace keeps its shape', () => {
  for (const [name, rule] of Object.entries(RULES)) {
    test(words(name), () => {
      expect(rule(files)).toEqual([]);
    });
  }
});

/** For each rule, edits that break it and no more than that. */
const BREAKS: readonly (readonly [
  keyof typeof RULES,
  string,
  (files: Files) => [string, string],
])[] = [
  ['packagesAndLayersAgree', 'a package nobody named', () => ['packages/extra/package.json', '{}']],
  [
    'layersPointDown',
    'log uses broker',
    edit('deploy/layers.json', '"base", "record"] },\n    "raft"', '"broker"] },\n    "raft"'),
  ],
  [
    'layersPointDown',
    'raft uses rpc',
    edit(
      'deploy/layers.json',
      '"raft": { "floor": 2, "pure": true, "uses": ["base"]',
      '"raft": { "floor": 2, "pure": true, "uses": ["rpc"]',
    ),
  ],
  [
    'dependenciesAreTheLayers',
    'raft depends on rpc',
    edit('packages/raft/package.json', '"@relevo/base"', '"@relevo/rpc"'),
  ],
  [
    'referencesAreTheLayers',
    'raft refers to rpc',
    edit('packages/raft/tsconfig.json', '../base', '../rpc'),
  ],
  [
    'referencesAreTheLayers',
    'a package is not built',
    edit('tsconfig.json', 'packages/raft', 'packages/gone'),
  ],
  [
    'purePackagesSeeNoPlatform',
    'raft has Node types',
    edit('packages/raft/tsconfig.json', '"rootDir"', '"types": ["node"], "rootDir"'),
  ],
  [
    'lintKnowsThePurePackages',
    'raft is not restricted',
    edit('.oxlintrc.json', 'packages/raft/src/**', 'packages/raft2/src/**'),
  ],
  [
    'importsStayInTheLayers',
    'base imports log',
    source('base', "import { x } from '@relevo/log/x';"),
  ],
  [
    'importsStayInTheLayers',
    'base imports a type of log',
    source('base', "import type {\n  X,\n} from '@relevo/log/x';"),
  ],
  [
    'importsStayInTheLayers',
    'base loads log late',
    source('base', "const x = await import('@relevo/log/x');"),
  ],
  [
    'importsStayInTheLayers',
    'base passes log on',
    source('base', "export * from '@relevo/log/x';"),
  ],
  ['importsStayInTheLayers', 'base imports node:fs', source('base', "import 'node:fs';")],
  [
    'importsStayInTheLayers',
    'log reaches into record',
    source('log', "import { x } from '../../record/src/x.ts';"),
  ],
  ['importsStayInTheLayers', 'an import without .ts', source('log', "import { x } from './x';")],
  [
    'testsImportPackagesByName',
    'a test reaches over',
    () => ['packages/log/test/broken.test.ts', "import { x } from '../../record/src/x.ts';\n"],
  ],
  [
    'serverMeetsRuntimeInMain',
    'the node imports runtime',
    source('server', "import { x } from '@relevo/runtime/disk';"),
  ],
  ['topLevelIsKnown', 'a stray file', () => ['notes.md', 'notes']],
  ['packagesHaveReadmes', 'no README', () => ['packages/raft/README.md', '']],
  ['namesAreKebabCase', 'camel case', () => ['packages/log/src/partitionLog.ts', '']],
  ['filesAreShort', 'a long file', () => ['packages/log/src/long.ts', 'x;\n'.repeat(701)]],
  ['noWaysAroundTheCompiler', 'an ignored error', source('log', `// @ts${'-ignore'}`)],
  ['noWaysAroundTheCompiler', 'a default export', source('log', `export ${'default'} 1;`)],
];

describe('each rule can fail', () => {
  test.each(BREAKS)('%s: %s', (name, _, change) => {
    const [path, text] = change(files);
    const broken = new Map(files).set(path, text);
    const before = new Set(RULES[name]?.(files));
    const news = RULES[name]?.(broken).filter((violation) => !before.has(violation)) ?? [];
    expect(news).not.toEqual([]);
  });

  test('every rule has a break', () => {
    const broken = new Set(BREAKS.map(([name]) => name));
    expect(Object.keys(RULES).filter((name) => !broken.has(name))).toEqual([]);
  });
});

function edit(path: string, from: string, to: string) {
  return (all: Files): [string, string] => {
    const text = all.get(path) ?? '';
    expect(text).toContain(from);
    return [path, text.replace(from, to)];
  };
}

function source(name: string, text: string) {
  return (): [string, string] => [`packages/${name}/src/broken.ts`, `${text}\n`];
}

function words(name: string): string {
  return name.replaceAll(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);
}
