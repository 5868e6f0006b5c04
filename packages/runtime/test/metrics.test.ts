import { PromMetrics } from '@relevo/runtime/metrics';
import { startHttpServer } from '@relevo/runtime/http-server';
import { expect, test } from 'vitest';

const seriesOf = async (metrics: PromMetrics, name: string): Promise<readonly string[]> => {
  const { body } = await metrics.text();
  return body.split('\n').filter((line) => line.startsWith(name));
};

test('counters, gauges and histograms in Prometheus format', async () => {
  const metrics = new PromMetrics();
  metrics.counter('relevo_bytes_total', 'Bytes.', { topic: 'a"b' }).add(3);
  metrics.counter('relevo_bytes_total', 'Bytes.', { topic: 'a"b' }).add(4);
  metrics.counter('relevo_bytes_total', 'Bytes.', { topic: 'c' }).add(1);
  metrics.gauge('relevo_leaders', 'Leaders.').set(-2.5);
  const histogram = metrics.histogram('relevo_ack_seconds', 'Acks.', [0.1, 1]);
  for (const seconds of [0.05, 0.1, 0.5, 7]) histogram.observe(seconds);
  expect(await seriesOf(metrics, 'relevo_')).toStrictEqual([
    'relevo_bytes_total{topic="a\\"b"} 7',
    'relevo_bytes_total{topic="c"} 1',
    'relevo_leaders -2.5',
    'relevo_ack_seconds_bucket{le="0.1"} 2',
    'relevo_ack_seconds_bucket{le="1"} 3',
    'relevo_ack_seconds_bucket{le="+Inf"} 4',
    'relevo_ack_seconds_sum 7.65',
    'relevo_ack_seconds_count 4',
  ]);
  const { body } = await metrics.text();
  expect(body).toContain('# HELP relevo_ack_seconds Acks.\n# TYPE relevo_ack_seconds histogram');
});

test('series that come after the first collection are there in the next', async () => {
  const metrics = new PromMetrics();
  await metrics.text();
  metrics.gauge('relevo_late', 'Late.', { at: '1' }).set(1);
  expect(await seriesOf(metrics, 'relevo_late')).toStrictEqual(['relevo_late{at="1"} 1']);
});

test('a metric has one type and one set of label names', () => {
  const metrics = new PromMetrics();
  metrics.counter('relevo_x_total', 'X.', { a: '1' });
  expect(() => metrics.gauge('relevo_x_total', 'X.', { a: '1' })).toThrow(/one type/);
  expect(() => metrics.counter('relevo_x_total', 'X.', { b: '1' })).toThrow(/label names/);
  expect(() => metrics.counter('relevo_y_total', 'Y.').add(-1)).toThrow(/only grows/);
});

test('a measure is read at every collection, and may have any labels or no values', async () => {
  const metrics = new PromMetrics();
  let voters: readonly number[] = [2, 3];
  metrics.measure('relevo_lag', 'Lag.', () =>
    voters.map((voter) => ({ value: voter * 10, labels: { voter: String(voter) } })),
  );
  expect(await seriesOf(metrics, 'relevo_lag')).toStrictEqual([
    'relevo_lag{voter="2"} 20',
    'relevo_lag{voter="3"} 30',
  ]);
  voters = [];
  expect(await seriesOf(metrics, 'relevo_lag')).toStrictEqual([]);
  expect(() => metrics.measure('relevo_lag', 'Lag.', () => [])).toThrow(/a name of its own/);
});

test('a process tells the limits of its memory', async () => {
  const metrics = new PromMetrics();
  const valueOf = async (name: string): Promise<number> =>
    Number((await seriesOf(metrics, `${name} `))[0]?.split(' ')[1]);
  expect(await valueOf('process_memory_limit_bytes')).toBeGreaterThan(
    await valueOf('process_resident_memory_bytes'),
  );
  expect(await valueOf('nodejs_heap_size_limit_bytes')).toBeGreaterThan(
    await valueOf('nodejs_heap_size_used_bytes'),
  );
});

test('the first collection tells how busy the event loop has been since the start', async () => {
  const [line = ''] = await seriesOf(new PromMetrics(), 'nodejs_eventloop_utilization ');
  const utilization = Number(line.split(' ')[1]);
  expect(utilization).toBeGreaterThan(0);
  expect(utilization).toBeLessThan(1);
});

test('over HTTP: metrics, health and readiness', async () => {
  const metrics = new PromMetrics();
  metrics.counter('relevo_requests_total', 'Requests.').add(5);
  let unready: string | undefined = 'the log is being recovered';
  const server = await startHttpServer({
    host: '127.0.0.1',
    port: 0,
    metrics,
    unhealthy: () => undefined,
    unready: () => unready,
  });
  const get = async (path: string): Promise<{ status: number; type: string; text: string }> => {
    const response = await fetch(`http://${server.address}${path}`);
    const type = response.headers.get('content-type') ?? '';
    return { status: response.status, type, text: await response.text() };
  };
  try {
    const scraped = await get('/metrics');
    expect(scraped.type).toContain('text/plain; version=0.0.4');
    expect(scraped.text).toContain('relevo_requests_total 5');
    expect(scraped.text).toMatch(/process_resident_memory_bytes \d{7,}/);
    expect(scraped.text).toMatch(/process_cpu_seconds_total \d/);
    expect(await get('/healthz')).toMatchObject({ status: 200 });
    expect(await get('/readyz')).toMatchObject({
      status: 503,
      text: JSON.stringify({ status: 'failing', reason: 'the log is being recovered' }),
    });
    unready = undefined;
    expect((await get('/readyz')).status).toBe(200);
    expect((await get('/nothing')).status).toBe(404);
    const [host = '', port] = server.address.split(':');
    const again = startHttpServer({
      host,
      port: Number(port),
      metrics,
      unhealthy: () => undefined,
      unready: () => undefined,
    });
    await expect(again).rejects.toThrow(
      `cannot serve HTTP on ${server.address}: the port is in use`,
    );
  } finally {
    await server.close();
  }
});
