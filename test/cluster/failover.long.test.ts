/**
 * Brokers killed, frozen and restarted under load: nothing acknowledged is lost, doubled or reordered. How
 * fast it goes is measured by `npm run chaos`, not here.
 */
import { Relevo } from '@relevo/client';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { Context, Figures } from '../chaos/figures.ts';
import { freeze } from '../chaos/freeze.ts';
import { leaderKills } from '../chaos/leader-kills.ts';
import { rollingRestart } from '../chaos/rolling-restart.ts';
import { wholeClusterKill } from '../chaos/whole-cluster-kill.ts';
import { TestCluster } from '../lib/cluster.ts';

let cluster: TestCluster;
let relevo: Relevo;
let context: Context;

beforeEach(async () => {
  cluster = await TestCluster.start();
  relevo = await Relevo.connect({ brokers: cluster.bootstrap });
  context = {
    cluster,
    relevo,
    topic: 'orders',
    partitions: 6,
    ratePerSecond: 1000,
    say: () => undefined,
  };
}, 60_000);

afterEach(async () => {
  await relevo.close();
  await cluster.destroy();
});

function expectNothingLost(figures: Figures, prefix: string): void {
  const at = (name: string): number | undefined =>
    figures[prefix === '' ? name : `${prefix}${name.charAt(0).toUpperCase()}${name.slice(1)}`];
  expect(at('acked')).toBeGreaterThan(0);
  expect({
    failed: at('failed'),
    lost: at('lost'),
    duplicated: at('duplicated'),
    reordered: at('reordered'),
    misplaced: at('misplaced'),
    consumerAnomalies: at('consumerAnomalies'),
  }).toEqual({
    failed: 0,
    lost: 0,
    duplicated: 0,
    reordered: 0,
    misplaced: 0,
    consumerAnomalies: 0,
  });
}

test('killed leaders are replaced and lead again when they are back', async () => {
  const figures = await leaderKills(context, { kills: 2, controllerToo: false });
  expectNothingLost(figures, '');
  expect(figures['leaderSpreadMax']).toBeLessThanOrEqual(1);
}, 120_000);

test('a killed leader that is the active controller as well is replaced', async () => {
  expectNothingLost(await leaderKills(context, { kills: 2, controllerToo: true }), 'controller');
}, 120_000);

test('a frozen leader acknowledges nothing when it goes on', async () => {
  const figures = await freeze(context, { freezes: 1, frozenMs: 4000 });
  expectNothingLost(figures, 'freeze');
  expect(figures['freezeStaleAcks']).toBe(0);
}, 120_000);

test('a rolling restart is not noticed', async () => {
  expectNothingLost(await rollingRestart(context), 'rolling');
}, 120_000);

test('a cluster killed as a whole comes back with every acknowledged record', async () => {
  expectNothingLost(await wholeClusterKill(context), 'whole');
}, 120_000);
