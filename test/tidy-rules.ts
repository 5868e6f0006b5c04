/**
 * The shape of the workspace as rules over its files. A rule returns what breaks it, in words; the
 * files come in as a map, so that a test can break each rule on purpose.
 */
import { readFileSync, readdirSync } from 'node:fs';
import { join, posix } from 'node:path';

/** Path from the root ('/'-separated) → text. */
export type Files = ReadonlyMap<string, string>;
export type Rule = (files: Files) => string[];

interface Layer {
  readonly floor: number | 'beside';
  readonly pure: boolean;
  readonly uses: readonly string[];
}

/** What may lie at the top; a new name there is a decision, not an accident. */
const TOP_LEVEL = new Set([
  ...['.ci', '.editorconfig', '.gitattributes', '.gitignore', '.npmrc', '.oxlintrc.json'],
  ...[
    '.dockerignore',
    'docker-compose.yml',
    '.prettierignore',
    '.prettierrc.json',
    'ARCHITECTURE.md',
    'LICENSE',
    'README.md',
  ],
  ...['deploy', 'docs', 'knip.json', 'package-lock.json', 'package.json', 'packages', 'proto'],
  ...['test', 'tsconfig.base.json', 'tsconfig.json', 'vitest.config.ts'],
]);
/** Not ours, or made by running: left out of all rules. */
const LEFT_OUT = new Set(['node_modules', 'dist', 'coverage', '.git', 'data']);

const LINES_MAX = 700;
/** Hand-written files that may be longer, each with its reason. */
const LONG_FILES: ReadonlyMap<string, string> = new Map();

export function readWorkspace(root: string): Files {
  const files = new Map<string, string>();
  const walk = (folder: string): void => {
    for (const entry of readdirSync(join(root, folder), { withFileTypes: true })) {
      const path = posix.join(folder, entry.name);
      if (LEFT_OUT.has(entry.name)) continue;
      if (entry.isDirectory()) walk(path);
      else if (/\.(ts|mjs|json|md|proto)$|^[^.]+$|^\.[^.]+(\.json)?$/.test(entry.name)) {
        files.set(path, readFileSync(join(root, path), 'utf8'));
      }
    }
  };
  walk('.');
  return files;
}

// ---------------------------------------------------------------------------------------- the rules

const packagesAndLayersAgree: Rule = (files) => {
  const named = Object.keys(layersOf(files)).toSorted();
  const present = [...files.keys()]
    .flatMap((path) => /^packages\/([^/]+)\/package\.json$/.exec(path)?.[1] ?? [])
    .toSorted();
  return [
    ...present.filter((name) => !named.includes(name)).map((name) => `${name}: not in layers.json`),
    ...named.filter((name) => !present.includes(name)).map((name) => `${name}: no such package`),
  ];
};

const layersPointDown: Rule = (files) => {
  const layers = layersOf(files);
  return Object.entries(layers).flatMap(([name, { floor, uses, pure }]) =>
    uses.flatMap((used) => {
      const below = layers[used];
      if (below === undefined) return [`${name} uses ${used}, which is not in layers.json`];
      const up = typeof floor === 'number' && typeof below.floor === 'number';
      return [
        ...(up && below.floor >= floor ? [`${name} uses ${used}, which is not below it`] : []),
        ...(pure && !below.pure ? [`${name} is pure and uses ${used}, which is not`] : []),
        ...(below.uses.includes(name) ? [`${name} and ${used} use each other`] : []),
      ];
    }),
  );
};

const dependenciesAreTheLayers: Rule = (files) =>
  eachPackage(files, (name, layer) => {
    const manifest = json<{ dependencies?: Record<string, string> }>(
      files,
      `packages/${name}/package.json`,
    );
    const found = Object.keys(manifest.dependencies ?? {})
      .filter((dependency) => dependency.startsWith('@relevo/'))
      .map((dependency) => dependency.slice('@relevo/'.length));
    return differ(`packages/${name}/package.json dependencies`, found, layer.uses);
  });

interface TsConfig {
  readonly compilerOptions?: { readonly types?: string[]; readonly lib?: string[] };
  readonly references?: readonly { readonly path: string }[];
}

const referencesAreTheLayers: Rule = (files) => {
  const referenced = (path: string): string[] =>
    (json<TsConfig>(files, path).references ?? []).map((reference) =>
      posix.basename(reference.path),
    );
  const all = Object.keys(layersOf(files));
  return [
    ...eachPackage(files, (name, layer) =>
      differ(
        `packages/${name}/tsconfig.json references`,
        referenced(`packages/${name}/tsconfig.json`),
        layer.uses,
      ),
    ),
    ...differ('tsconfig.json references', referenced('tsconfig.json'), [...all, 'test']),
    ...differ('test/tsconfig.json references', referenced('test/tsconfig.json'), all),
  ];
};

const purePackagesSeeNoPlatform: Rule = (files) => [
  ...eachPackage(files, (name, layer) => {
    const path = `packages/${name}/tsconfig.json`;
    const { types = [], lib } = json<TsConfig>(files, path).compilerOptions ?? {};
    const wrong = layer.pure && (types.length > 0 || lib !== undefined);
    return wrong ? [`${path}: a pure package has types [] and the lib of tsconfig.base.json`] : [];
  }),
  ...(json<TsConfig>(files, 'tsconfig.base.json').compilerOptions?.types?.length === 0
    ? []
    : ['tsconfig.base.json: types must be []']),
];

const lintKnowsThePurePackages: Rule = (files) => {
  const lint = json<{ overrides: { files: string[]; rules?: Record<string, unknown> }[] }>(
    files,
    '.oxlintrc.json',
  );
  const banned = lint.overrides
    .filter(({ rules }) => Array.isArray(rules?.['no-restricted-globals']))
    .flatMap((override) => override.files);
  return eachPackage(files, (name, layer) =>
    layer.pure && !banned.includes(`packages/${name}/src/**`)
      ? [`.oxlintrc.json: packages/${name}/src/** is pure, so its globals must be restricted`]
      : [],
  );
};

const importsStayInTheLayers: Rule = (files) =>
  eachSource(files, /^packages\/[^/]+\/src\//, (path, text) => {
    const name = path.split('/')[1] ?? '';
    const layer = layersOf(files)[name];
    if (layer === undefined) return [];
    return importsOf(text).flatMap((specifier) => {
      const used = /^@relevo\/([^/]+)/.exec(specifier)?.[1];
      if (used !== undefined && used !== name && !layer.uses.includes(used)) {
        return [`${path}: imports ${specifier}; ${name} may not use ${used}`];
      }
      const platform = specifier.startsWith('node:');
      if (layer.pure && platform) return [`${path}: imports ${specifier}; ${name} is pure`];
      return relativeFault(path, specifier, `packages/${name}/src/`);
    });
  });

/** The contract tests of a port lie beside the port and are run by all who make it real. */
const CONTRACT = /\/test\/[a-z-]+-contract\.ts$/;

const testsImportPackagesByName: Rule = (files) =>
  eachSource(files, /^packages\/[^/]+\/(test|[^/]+\.ts)/, (path, text) =>
    importsOf(text)
      .filter((specifier) => !CONTRACT.test(specifier))
      .flatMap((specifier) => relativeFault(path, specifier, `packages/${path.split('/')[1]}/`)),
  );

const serverMeetsRuntimeInMain: Rule = (files) =>
  eachSource(files, /^packages\/server\/src\//, (path, text) =>
    path !== 'packages/server/src/main.ts' &&
    importsOf(text).some((specifier) => specifier.startsWith('@relevo/runtime'))
      ? [`${path}: only main.ts of the server may import @relevo/runtime`]
      : [],
  );

const topLevelIsKnown: Rule = (files) => {
  const names = new Set([...files.keys()].map((path) => path.split('/')[0] ?? path));
  return [...names]
    .filter((name) => !TOP_LEVEL.has(name))
    .map((name) => `${name}: who put it here?`);
};

const packagesHaveReadmes: Rule = (files) =>
  eachPackage(files, (name) => {
    const readme = files.get(`packages/${name}/README.md`);
    return (readme ?? '').length > 200 ? [] : [`packages/${name}/README.md: missing or empty`];
  });

const FILE_NAME = /^[a-z0-9]+(-[a-z0-9]+)*(\.(test|long\.test|config|d))?\.(ts|mjs)$/;
const FOLDER_NAME = /^\.?[a-z0-9]+(-[a-z0-9]+)*$/;

const namesAreKebabCase: Rule = (files) =>
  [...files.keys()]
    .filter((path) => /\.(ts|mjs)$/.test(path) && !isGenerated(path))
    .filter((path) => {
      const folders = path.split('/');
      const file = folders.pop() ?? '';
      return !FILE_NAME.test(file) || !folders.every((folder) => FOLDER_NAME.test(folder));
    })
    .map((path) => `${path}: names are kebab-case`);

const filesAreShort: Rule = (files) =>
  eachSource(files, /./, (path, text) => {
    const lines = text.split('\n').length - 1;
    if (lines <= LINES_MAX || LONG_FILES.has(path)) return [];
    return [`${path}: ${lines} lines; split it by state or by concept (at most ${LINES_MAX})`];
  });

const HIDDEN_ERRORS = new RegExp(`@ts-${'(ignore|nocheck)'}\\b`);

const noWaysAroundTheCompiler: Rule = (files) =>
  eachSource(files, /./, (path, text) => [
    ...(HIDDEN_ERRORS.test(text) ? [`${path}: hides errors of the compiler by a comment`] : []),
    ...(/^export default\b/m.test(text) && !path.endsWith('.config.ts')
      ? [`${path}: a default export has no name to search for`]
      : []),
  ]);

export const RULES: Readonly<Record<string, Rule>> = {
  packagesAndLayersAgree,
  layersPointDown,
  dependenciesAreTheLayers,
  referencesAreTheLayers,
  purePackagesSeeNoPlatform,
  lintKnowsThePurePackages,
  importsStayInTheLayers,
  testsImportPackagesByName,
  serverMeetsRuntimeInMain,
  topLevelIsKnown,
  packagesHaveReadmes,
  namesAreKebabCase,
  filesAreShort,
  noWaysAroundTheCompiler,
};

// -------------------------------------------------------------------------------------------- tools

function json<Value>(files: Files, path: string): Value {
  const text = files.get(path);
  if (text === undefined) throw new Error(`${path} is missing`);
  return JSON.parse(text) as Value;
}

const layersOf = (files: Files): Readonly<Record<string, Layer>> =>
  json<{ packages: Record<string, Layer> }>(files, 'deploy/layers.json').packages;

const eachPackage = (files: Files, look: (name: string, layer: Layer) => string[]): string[] =>
  Object.entries(layersOf(files)).flatMap(([name, layer]) =>
    files.has(`packages/${name}/package.json`) ? look(name, layer) : [],
  );

const isGenerated = (path: string): boolean => path.includes('/gen/');

/** Looks at every hand-written TypeScript file whose path matches. */
const eachSource = (
  files: Files,
  where: RegExp,
  look: (path: string, text: string) => string[],
): string[] =>
  [...files]
    .filter(([path]) => path.endsWith('.ts') && where.test(path) && !isGenerated(path))
    .flatMap(([path, text]) => look(path, text));

const IMPORT =
  /(?:^|\n)\s*(?:import|export)\s(?:[^'";]*?\sfrom\s+)?'([^']+)'|\bimport\('([^']+)'\)/g;

const importsOf = (text: string): string[] =>
  [...text.matchAll(IMPORT)].map((match) => match[1] ?? match[2] ?? '');

function relativeFault(path: string, specifier: string, home: string): string[] {
  if (!specifier.startsWith('.')) return [];
  if (!posix.join(posix.dirname(path), specifier).startsWith(home)) {
    return [`${path}: imports ${specifier}; import other packages by their names`];
  }
  return /\.(ts|json)$/.test(specifier) ? [] : [`${path}: imports ${specifier} without its .ts`];
}

function differ(what: string, found: readonly string[], wanted: readonly string[]): string[] {
  const missing = wanted.filter((name) => !found.includes(name));
  const extra = found.filter((name) => !wanted.includes(name));
  return [
    ...missing.map((name) => `${what}: ${name} is missing`),
    ...extra.map((name) => `${what}: ${name} is not allowed by layers.json`),
  ];
}
