import { brokerId } from '@relevo/base/ids';
import type { Ports, ProbeResult } from '@relevo/base/ports';
import { World } from '@relevo/simulation/world';
import { expect, test } from 'vitest';
import { QuorumNames } from '@relevo/server/quorum/quorum-names';

const VOTERS = [1, 2, 3].map((id) => ({ id: brokerId(id), address: `broker-${id}:9093` }));

/** What became of it within two minutes, when probes are answered by the name and the time, ms. */
async function told(answer: (name: string, nowMs: number) => ProbeResult): Promise<{
  reasons: string[];
  atMs: number;
  probes: number;
}> {
  const world = new World({ seed: 1, limitMs: 200_000 });
  const result = { reasons: [] as string[], atMs: 0, probes: 0 };
  await world.run(async () => {
    let ports: Ports | undefined;
    world.process('node').boot((given) => (ports = given));
    await world.until('the node is up', () => ports !== undefined, 100);
    if (ports === undefined) return;
    const { clock, timers, logger } = ports;
    const startMs = clock.monotonicMs();
    const nowMs = (): number => clock.monotonicMs() - startMs;
    const probe = (address: string): Promise<ProbeResult> => {
      result.probes++;
      return Promise.resolve(answer(address, nowMs()));
    };
    const names = new QuorumNames(
      { clock, timers, logger, transport: { probe } },
      {
        voters: VOTERS,
        timeoutMs: 60_000,
        onUnknown: (reason) => {
          result.reasons.push(reason);
          result.atMs = nowMs();
        },
      },
    );
    names.start();
    await world.sleep(120_000);
    names.close();
  });
  return result;
}

test('a majority of names that stays unknown is told after the timeout, once, with the names', async () => {
  const { reasons, atMs } = await told((address) =>
    address === 'broker-1:9093' ? 'refused' : 'unknown',
  );
  expect(reasons).toEqual([
    'no majority of the quorum can be found: for 60000 ms the host names of 2@broker-2:9093, 3@broker-3:9093 could ' +
      'not be resolved here; set controller.quorum.voters to names or addresses that every node can resolve, and ' +
      'see that the nodes that bear them have been started',
  ]);
  expect(atMs).toBeGreaterThanOrEqual(60_000);
  expect(atMs).toBeLessThan(62_000);
});

test.each<ProbeResult>(['accepted', 'refused', 'silent'])(
  'a majority that is known, be it %s, ends the asking at once',
  async (known) => {
    const result = await told((address) => (address === 'broker-3:9093' ? 'unknown' : known));
    expect(result).toEqual({ reasons: [], atMs: 0, probes: 3 });
  },
);

test('names that come into being within the time are waited for', async () => {
  const { reasons, probes } = await told((address, nowMs) =>
    nowMs >= Number(address.charAt(7)) * 20_000 ? 'refused' : 'unknown',
  );
  expect(reasons).toEqual([]);
  expect(probes).toBeGreaterThan(100);
});
