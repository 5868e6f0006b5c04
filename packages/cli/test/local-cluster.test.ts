import {
  cpSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import {
  planLayout,
  refuseDataElsewhere,
  releaseLayout,
  writeLayout,
  type LayoutOptions,
  type LocalCluster,
} from '@relevo/cli/local-cluster/layout';
import { lastErrors } from '@relevo/cli/local-cluster/processes';
import { readConfig } from '@relevo/server/config/config-file';
import { resolveConfig } from '@relevo/server/config/node-config';

let directory = '';
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'relevo-layout-'));
});
afterEach(() => rmSync(directory, { recursive: true }));

const data = (): string => join(directory, 'data');
function prepareLayout(options: LayoutOptions): LocalCluster {
  const { isNew, ...cluster } = planLayout(options);
  writeLayout({ isNew, ...cluster });
  return cluster;
}
const prepare = (options: { brokers?: number; port?: number; fresh?: boolean } = {}) =>
  prepareLayout({ directory: data(), fresh: false, ...options });

/** The generated files are YAML of the plainest kind: `key: <JSON>` lines and comments. */
function settings(path: string): Record<string, unknown> {
  const lines = readFileSync(path, 'utf8').matchAll(/^([a-z.]+): (.+)$/gm);
  return Object.fromEntries([...lines].map(([, key, value]) => [key, JSON.parse(value ?? '')]));
}

describe('the data directory of relevo start', () => {
  test('is made with three brokers at the default ports', () => {
    const { brokers } = prepare();
    expect(brokers.map(({ id, grpc, http }) => [id, grpc, http])).toEqual([
      [1, '127.0.0.1:9093', '127.0.0.1:9094'],
      [2, '127.0.0.1:9103', '127.0.0.1:9104'],
      [3, '127.0.0.1:9113', '127.0.0.1:9114'],
    ]);
  });

  test.each([
    [1, 1, 1, 1],
    [2, 1, 2, 1],
    [3, 3, 3, 2],
    [5, 3, 3, 2],
  ])('%i brokers: %i vote, RF %i, min ISR %i', (size, voters, replication, minIsr) => {
    const { brokers, clusterId } = prepare({ brokers: size });
    for (const broker of brokers) {
      const config = resolveConfig({ file: settings(broker.configFile) });
      expect(config['cluster.id']).toBe(clusterId);
      expect(config['node.id']).toBe(broker.id);
      expect(config['controller.quorum.voters']).toHaveLength(voters);
      expect(config['process.roles'].includes('controller')).toBe(broker.id <= voters);
      expect(config['default.replication.factor']).toBe(replication);
      expect(config['min.insync.replicas']).toBe(minIsr);
    }
  });

  test('a second start takes up what the first made, with the changes of the user', () => {
    const first = prepare({ brokers: 2, port: 7000 });
    const file = first.brokers[0]?.configFile ?? '';
    writeFileSync(file, `${readFileSync(file, 'utf8')}broker.rack: "a"\n`);
    const second = prepare();
    expect(second).toEqual(first);
    expect(readFileSync(file, 'utf8')).toContain('broker.rack');
  });

  test('other numbers than it was made with are refused', () => {
    prepare({ brokers: 3 });
    expect(() => prepare({ brokers: 5 })).toThrow(/was made with --brokers 3, not 5; leave/);
    expect(() => prepare({ port: 7000 })).toThrow(/was made with --port 9093, not 7000; leave/);
    expect(prepare({ brokers: 5, fresh: true }).brokers).toHaveLength(5);
  });

  test('--fresh wipes what is ours', () => {
    const first = prepare();
    writeFileSync(join(data(), 'broker-1.log'), 'old');
    const second = prepare({ fresh: true });
    expect(second.clusterId).not.toBe(first.clusterId);
    expect(existsSync(join(data(), 'broker-1.log'))).toBe(false);
  });

  test('what is not ours is neither used nor wiped', () => {
    const notes = join(directory, 'notes.txt');
    writeFileSync(notes, 'mine');
    for (const fresh of [false, true]) {
      expect(() => prepareLayout({ directory, fresh })).toThrow(/has no cluster.json/);
    }
    expect(() => prepareLayout({ directory: notes, fresh: true })).toThrow(/is a file/);
    expect(readFileSync(notes, 'utf8')).toBe('mine');
  });

  test('a cluster that is running is left alone', () => {
    const cluster = prepare();
    writeFileSync(join(data(), 'running.pid'), `${process.ppid}\n`);
    expect(() => prepare({ fresh: true })).toThrow(`is run by process ${process.ppid} already`);
    expect(existsSync(join(data(), 'cluster.json'))).toBe(true);
    releaseLayout(cluster);
    expect(prepare()).toEqual(cluster);
  });

  test('a plan changes nothing', () => {
    const first = prepare({ brokers: 1 });
    const plan = planLayout({ directory: data(), fresh: true });
    expect(plan).toMatchObject({ isNew: true, port: 9093 });
    expect(plan.brokers).toHaveLength(3);
    expect(prepare()).toEqual(first);
  });

  test('a damaged description is a clear error', () => {
    prepare();
    writeFileSync(join(data(), 'cluster.json'), '{"clusterId": 3');
    expect(() => prepare()).toThrow(/cluster.json does not describe a cluster; put back/);
    expect(prepare({ fresh: true }).brokers).toHaveLength(3);
  });
});

describe('a data directory that was moved or copied', () => {
  const elsewhere = (): string => join(directory, 'elsewhere');
  const dataOf = (cluster: LocalCluster): string[] =>
    cluster.brokers.map(({ configFile }) => readConfig(configFile, {})['log.dir']);
  const planElsewhere = (environment = {}): LocalCluster => {
    const plan = planLayout({ directory: elsewhere(), fresh: false });
    refuseDataElsewhere(plan, environment);
    return plan;
  };

  test.each([
    ['moved', renameSync],
    ['copied', (from: string, to: string) => cpSync(from, to, { recursive: true })],
  ])('%s: the brokers use the data in it', (_, carry) => {
    expect(dataOf(prepare())).toEqual([1, 2, 3].map((id) => join(data(), `broker-${id}`)));
    carry(data(), elsewhere());
    expect(dataOf(planElsewhere())).toEqual(
      [1, 2, 3].map((id) => join(elsewhere(), `broker-${id}`)),
    );
  });

  test('with paths to the old place is refused, with what to do', () => {
    const { brokers } = prepare();
    for (const { id, configFile } of brokers) {
      const old = readFileSync(configFile, 'utf8').replace(/^log\.dir: "/m, `log.dir: "${data()}/`);
      writeFileSync(configFile, old);
      expect(old).toContain(`${data()}/broker-${id}`);
    }
    refuseDataElsewhere(planLayout({ directory: data(), fresh: false }), {});
    cpSync(data(), elsewhere(), { recursive: true });
    expect(() => planElsewhere()).toThrow(
      `${elsewhere()}/broker-1.yaml has log.dir ${data()}/broker-1, which is not in ${elsewhere()}: ` +
        'set log.dir there to broker-1, which is relative to the file, to use the data beside it (and so ' +
        `for each broker), or start the cluster that it belongs to with --data ${data()}`,
    );
  });

  test('behind a symbolic link is in its directory all the same', () => {
    prepare();
    symlinkSync(data(), elsewhere());
    expect(planElsewhere().brokers).toHaveLength(3);
  });

  test('a RELEVO_LOG_DIR for all brokers, and a file with mistakes, are refused before the start', () => {
    const { brokers } = prepare();
    renameSync(data(), elsewhere());
    expect(() => planElsewhere({ RELEVO_LOG_DIR: '/tmp/x' })).toThrow(
      /RELEVO_LOG_DIR is set, .*unset/,
    );
    const file = join(elsewhere(), basename(brokers[1]?.configFile ?? ''));
    writeFileSync(file, `${readFileSync(file, 'utf8')}log.dri: "a"\n`);
    expect(() => planElsewhere()).toThrow(/log\.dri: no such setting .*did you mean log\.dir/);
  });
});

describe('of a broker that did not start', () => {
  const logged = [
    '{"level":"info","event":"starting"}',
    '{"level":"error","event":"cannot listen","reason":"port 9093 is taken"}',
    '{"level":"error","event":"stopping"}',
  ].join('\n');

  test('its words for people are shown', () => {
    const log = `${logged}\nrelevo: the broker cannot start: port 9093 is taken\n`;
    expect(lastErrors(log)).toBe('\n  relevo: the broker cannot start: port 9093 is taken');
  });

  test('or else the errors that it logged', () => {
    expect(lastErrors(logged)).toBe('\n  cannot listen: port 9093 is taken\n  stopping');
  });
});
