import { ConfigError, resolveConfig } from '@relevo/server/config/node-config';
import { expect, test } from 'vitest';

const minimal = {
  'cluster.id': 'test',
  'node.id': 1,
  log: { dir: 'data' },
  'controller.quorum.voters': ['1@127.0.0.1:9093'],
};

const mistakesOf = (file: unknown, environment: Record<string, string> = {}): string => {
  try {
    resolveConfig({ file, environment, fileName: 'node.yaml' });
  } catch (error) {
    if (error instanceof ConfigError) return error.message;
    throw error;
  }
  return '';
};

test('defaults fill in what is not set, and the advertised address follows the listener', () => {
  const config = resolveConfig({ file: { ...minimal, 'listener.grpc': '127.0.0.1:7000' } });
  expect(config['advertised.grpc']).toEqual([{ listener: 'default', address: '127.0.0.1:7000' }]);
  expect(config['inter.broker.listener.name']).toBe('default');
  expect(config['broker.session.timeout.ms']).toBe(1500);
  expect(config['process.roles']).toEqual(['broker', 'controller']);
  expect(config['controller.quorum.voters']).toEqual([{ id: 1, address: '127.0.0.1:9093' }]);
});

test('each listener has its own advertised address, or is told as it is', () => {
  const config = resolveConfig({
    file: {
      ...minimal,
      'listener.grpc': ['inside://0.0.0.0:9093', 'outside://0.0.0.0:19093', 'third://10.0.0.1:1'],
      'inter.broker.listener.name': 'outside',
    },
    environment: {
      RELEVO_ADVERTISED_GRPC: 'outside://localhost:19093, inside://broker-1:9093',
    },
  });
  expect(config['advertised.grpc']).toEqual([
    { listener: 'inside', address: 'broker-1:9093' },
    { listener: 'outside', address: 'localhost:19093' },
    { listener: 'third', address: '10.0.0.1:1' },
  ]);
  expect(config['inter.broker.listener.name']).toBe('outside');
});

test('flags win over the environment, the environment over the file', () => {
  const sources = {
    file: { ...minimal, 'num.partitions': 2, 'log.level': 'warn', 'broker.rack': 'a' },
    environment: { RELEVO_NUM_PARTITIONS: '3', RELEVO_LOG_LEVEL: 'error', PATH: '/bin' },
    flags: { 'num.partitions': '4' },
  };
  const config = resolveConfig(sources);
  expect([config['num.partitions'], config['log.level'], config['broker.rack']]).toEqual([
    4,
    'error',
    'a',
  ]);
});

test.each([
  [
    { ...minimal, 'brokr.rack': 'x' },
    'brokr.rack: no such setting in node.yaml (did you mean broker.rack?)',
  ],
  [{ ...minimal, 'node.id': -1 }, 'node.id (-1)'],
  [{ ...minimal, 'flush.mode': 'never' }, 'flush.mode ("never")'],
  [{ ...minimal, 'node.id': 'x' }, 'node.id ("x"): must be a whole number from 0 to 2147483647'],
  [{ ...minimal, 'cluster.id': 7 }, 'cluster.id (7): must be text: put it between quotes'],
  [{ ...minimal, 'controller.quorum.voters': 1 }, 'voters (1): each voter must be ID@host:port'],
  [
    { ...minimal, 'cluster.id': undefined },
    'cluster.id is not set: set it to the name that all nodes of the cluster share, for example',
  ],
  [{ ...minimal, 'listener.grpc': 'nowhere' }, 'must be host:port'],
  [{ ...minimal, 'listener.grpc': '0.0.0.0:9093' }, 'set advertised.grpc'],
  [
    { ...minimal, 'listener.grpc': 'a://0.0.0.0:1,b://h:2', 'advertised.grpc': 'b://x:2' },
    'set advertised.grpc to a://HOST:PORT',
  ],
  [{ ...minimal, 'listener.grpc': 'h:1,h:2' }, 'a name stands there twice (default, default)'],
  [
    { ...minimal, 'listener.grpc': 'a://h:1', 'advertised.grpc': 'b://h:1' },
    'advertised.grpc: listener.grpc has no "b", only a',
  ],
  [
    { ...minimal, 'listener.grpc': 'a://h:1', 'inter.broker.listener.name': 'b' },
    'inter.broker.listener.name: listener.grpc has no "b", only a',
  ],
  [{ ...minimal, 'listener.grpc': 'a b://h:1' }, 'name://host:port'],
  [{ ...minimal, 'listener.grpc': 'a://h:99999' }, 'name://host:port'],
  [{ ...minimal, 'node.id': 9 }, 'not among controller.quorum.voters (1)'],
  [{ ...minimal, 'controller.quorum.voters': '1@a:1,1@b:2' }, 'stands there twice'],
  [{ ...minimal, 'controller.quorum.voters': 'a:1' }, 'ID@host:port'],
  [{ ...minimal, 'broker.session.timeout.ms': 300 }, 'at least three times'],
  ['just text', 'must be a map of settings'],
])('a mistake is named with its key and what to set (%#)', (file, message) => {
  expect(mistakesOf(file)).toContain(message);
});

test('an unknown RELEVO_ variable is named with the nearest known one', () => {
  expect(mistakesOf(minimal, { RELEVO_NODE_IDD: '1' })).toContain('did you mean RELEVO_NODE_ID?');
});

test.each([
  ['RELEVO_LOG_RETENTION_MS', ''],
  ['RELEVO_NODE_ID', ' '],
  ['RELEVO_ADVERTISED_GRPC', ''],
])('an empty %s is a mistake, and no zero', (name, value) => {
  expect(mistakesOf(minimal, { [name]: value })).toContain(`${name} is empty: give it a value`);
});

test('a key without a value is a mistake', () => {
  expect(mistakesOf({ ...minimal, 'log.retention.ms': null })).toContain(
    'log.retention.ms is empty',
  );
});

test.each(['0x10', 'true', '1e', '10 s', '1_000'])('%s is no number', (text) => {
  const mistakes = mistakesOf(minimal, { RELEVO_LOG_RETENTION_CHECK_INTERVAL_MS: text });
  expect(mistakes).toContain('must be a whole number');
});

test('numbers as a template of Helm writes them are taken', () => {
  const environment = { RELEVO_LOG_RETENTION_MS: '8.64e+07' };
  expect(resolveConfig({ file: minimal, environment })['log.retention.ms']).toBe(86_400_000);
});

test('what the other parts of Relevo read from the environment is no mistake', () => {
  const environment = { RELEVO_BROKERS: 'broker-1:9093', RELEVO_IMAGE: 'relevo:local' };
  expect(resolveConfig({ file: minimal, environment })).toEqual(resolveConfig({ file: minimal }));
});

test('nothing at all: what has no default is told, each once, and where settings come from', () => {
  const message = (() => {
    try {
      return resolveConfig({ environment: { PATH: '/bin' }, flags: {} });
    } catch (error) {
      return error instanceof ConfigError ? error.message : error;
    }
  })();
  expect(message).toBe(
    [
      'nothing is configured:',
      '  - cluster.id is not set: set it to the name that all nodes of the cluster share, for example my-cluster',
      '  - node.id is not set: set it to a number that no other node of the cluster has, for example 1',
      '  - log.dir is not set: set it to a data directory for this node alone, for example data/broker-1',
      '  - controller.quorum.voters is not set: set it to ID@host:port of each controller, the same on every node, for example 1@127.0.0.1:9093',
      'Settings come from --config FILE (or the file that RELEVO_CONFIG names), from RELEVO_… variables (RELEVO_CLUSTER_ID for cluster.id) and from --set KEY=VALUE; the later win.',
    ].join('\n'),
  );
});

test('every key without a default says what to set it to', () => {
  const lines = mistakesOf({}).split('\n').slice(1);
  expect(lines).toHaveLength(4);
  for (const line of lines) expect(line).toMatch(/is not set: set it to .+, for example \S+$/);
});

test('all mistakes are told at once', () => {
  const text = mistakesOf({ ...minimal, 'node.id': 'x', 'num.partitions': 0, nonsense: 1 });
  expect(text.split('\n')).toHaveLength(4);
});
