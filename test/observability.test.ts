/** The shape of deploy/observability: what neither promtool nor a running Prometheus looks at. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { VERSION } from '@relevo/base/version';
import { describe, expect, test } from 'vitest';
import { faster, fasterConfig, fasterRules } from './observability/faster.ts';
import { dashboards, FOLDER, read, type Panel } from './observability/sources.ts';

const ROOT = join(FOLDER, '../..');
const alerts = [...read('alerts.yml').matchAll(/^ +- alert: (\S+)$/gm)].map(
  ([, name]) => name ?? '',
);

describe('alerts', () => {
  test('each has a severity, a summary and a description', () => {
    const rules = read('alerts.yml')
      .split(/^ +- alert: /m)
      .slice(1);
    expect(rules).toHaveLength(alerts.length);
    for (const rule of rules) {
      expect(rule).toMatch(/^ +labels: \{ severity: (warning|critical) \}$/m);
      expect(rule).toMatch(/^ +summary: ./m);
      expect(rule).toMatch(/^ +description: >-$/m);
    }
  });

  test.each(alerts)(
    '%s: is tested to fire, not to fire and to clear, and has its paragraph',
    (alert) => {
      const checks = read('alerts.test.yml').matchAll(
        new RegExp(
          `alertname="${alert}".*\n.*\n +exp_samples: \\[\\{ labels: '\\{\\}', value: (\\d)`,
          'g',
        ),
      );
      const found = [...checks].map(([, count]) => Number(count) > 0);
      const first = found.indexOf(true);
      expect(first, 'quiet before it fires').toBeGreaterThan(0);
      expect(found.slice(first), 'clears').toContain(false);
      expect(read('README.md')).toContain(`**${alert}**`);
    },
  );

  test('no paragraph is left of an alert that is gone', () => {
    const told = [...read('README.md').matchAll(/\*\*(Relevo[A-Z]\w+)\*\*/g)].map(
      ([, name]) => name,
    );
    expect(new Set(told)).toEqual(new Set(alerts));
    expect(told).toHaveLength(alerts.length);
  });
});

describe('dashboards', () => {
  const all = dashboards();

  test('there are some, each with a uid and a title of its own', () => {
    expect(all.length).toBeGreaterThan(2);
    expect(new Set(all.map(({ uid }) => uid)).size).toBe(all.length);
    expect(new Set(all.map(({ title }) => title)).size).toBe(all.length);
  });

  test.each(all)('$file: every panel can be read and asks the chosen Prometheus', (dashboard) => {
    const panels = dashboard.panels.filter(({ type }) => type !== 'row');
    expect(new Set(dashboard.panels.map(({ id }) => id)).size).toBe(dashboard.panels.length);
    const known = new Set([
      '__rate_interval',
      ...dashboard.templating.list.map(({ name }) => name),
    ]);
    for (const { title, description, datasource, targets = [], fieldConfig } of panels) {
      expect(title).toMatch(/./);
      expect(description, title).toMatch(/.{10}/);
      expect(datasource, title).toMatchObject({ uid: '${datasource}' });
      expect(fieldConfig?.defaults.unit, title).toMatch(/./);
      expect(targets.length, title).toBeGreaterThan(0);
      expect(new Set(targets.map(({ refId }) => refId)).size, title).toBe(targets.length);
      for (const target of targets) {
        expect(target.datasource, title).toMatchObject({ uid: '${datasource}' });
        expect(target.legendFormat, title).toMatch(/./);
        const used = [...target.expr.matchAll(/\$(\w+)/g)].map(([, name]) => name ?? '');
        expect(
          used.filter((name) => !known.has(name)),
          title,
        ).toEqual([]);
        expect(target.expr, title).toContain('$job');
      }
    }
  });

  test.each(all)(
    '$file: panels do not overlap, and no variable is idle',
    ({ panels, templating }) => {
      const cells = new Map<string, Panel>();
      for (const panel of panels) {
        const { x, y, w, h } = panel.gridPos;
        expect(x + w).toBeLessThanOrEqual(24);
        for (let column = x; column < x + w; column++) {
          for (let line = y; line < y + h; line++) {
            const other = cells.get(`${column},${line}`);
            expect(other?.title, `${panel.title} lies over another`).toBeUndefined();
            cells.set(`${column},${line}`, panel);
          }
        }
      }
      const text = JSON.stringify(panels).replaceAll(/[{}]/g, '');
      const idle = templating.list.filter(({ name }) => !text.includes(`$${name}`));
      expect(idle).toEqual([]);
    },
  );

  test('the datasource that is provisioned is a Prometheus, and the default', () => {
    const text = read('grafana/datasources/prometheus.yml');
    expect(text).toMatch(/^ +type: prometheus$/m);
    expect(text).toMatch(/^ +isDefault: true$/m);
  });
});

describe('the chart has the same files', () => {
  test.each(['alerts.yml', ...dashboards().map(({ file }) => `dashboards/${file}`)])(
    '%s',
    (file) => {
      expect(readFileSync(join(ROOT, 'deploy/kubernetes/relevo/files', file), 'utf8')).toBe(
        read(file),
      );
    },
  );
});

test('the version that brokers tell is that of the packages and of the chart', () => {
  const version = (path: string): string =>
    (JSON.parse(readFileSync(join(ROOT, path), 'utf8')) as { version: string }).version;
  expect(VERSION).toBe(version('package.json'));
  expect(VERSION).toBe(version('packages/cli/package.json'));
  const chart = readFileSync(join(ROOT, 'deploy/kubernetes/relevo/Chart.yaml'), 'utf8');
  expect(chart).toContain(`appVersion: '${VERSION}'`);
});

test('the faster world: durations and addresses are changed, and nothing else', () => {
  expect(['15s', '30s', '1m', '5m', '1h', '10s', '15d'].map(faster)).toEqual([
    ...['1s', '2s', '4s', '20s', '240s', '1s', '86400s'],
  ]);
  expect(() => faster('1h30m')).toThrow(/no duration/);
  const durations = /\b\d+[smhd]\b/g;
  const rules = fasterRules(read('alerts.yml'));
  const code = (text: string): string => text.replaceAll(/description: >-\n(?: {12}.*\n)+/g, '');
  expect(code(rules).replaceAll(durations, '')).toBe(
    code(read('alerts.yml')).replaceAll(durations, ''),
  );
  expect(rules).not.toMatch(/(for: |\[)\d+[mh]/);
  const config = fasterConfig(read('prometheus.yml'), new Map([['broker-1:9094', '127.0.0.1:1']]));
  expect(config).toContain('scrape_interval: 1s');
  expect(config).toContain('targets: [127.0.0.1:1, broker-2:9094');
  expect(() => fasterConfig('', new Map([['broker-9:9094', 'x']]))).toThrow(/does not name/);
});
