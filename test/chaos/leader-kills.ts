import { nowMs } from '../lib/cluster.ts';
import { pause, until } from '../lib/wait.ts';
import { leaderSpread, leaderTable, untilHandedBack } from '../lib/workload.ts';
import {
  named,
  percentile,
  underLoad,
  verdictFigures,
  type Context,
  type Figures,
} from './figures.ts';

/**
 * SIGKILLs a broker that leads partitions (with `controllerToo`: the one that is the active controller as
 * well), measures the failover, starts it again and waits until its partitions are led by it again.
 */
export async function leaderKills(
  context: Context,
  options: { readonly kills: number; readonly controllerToo: boolean },
): Promise<Figures> {
  const { cluster, relevo, topic, say } = context;
  const prefix = options.controllerToo ? 'controller' : '';
  const workload = await underLoad(context);
  const failovers: number[] = [];
  const handBacks: number[] = [];
  const producerStalls: number[] = [];
  const consumerStalls: number[] = [];
  const spreads: number[] = [];
  for (let kill = 0; kill < options.kills; kill++) {
    const { controllerId } = await relevo.admin.describeCluster();
    const others = cluster.brokers.filter(({ id }) => id !== controllerId);
    const victim = options.controllerToo
      ? cluster.broker(controllerId)
      : (others[kill % others.length] ?? cluster.broker(controllerId));
    const table = await leaderTable(relevo, topic);
    const led = table.leaders.flatMap((leader, p) => (leader === victim.id ? [p] : []));
    const killedMs = nowMs();
    await victim.kill();
    await until(
      `the partitions ${led.join(', ')} to be acknowledged under a new leader`,
      () => led.every((partition) => workload.failovers(killedMs).has(partition)),
      { deadlineMs: 30_000, state: () => [...workload.failovers(killedMs)] },
    );
    const times = led.map((partition) => workload.failovers(killedMs).get(partition) ?? NaN);
    failovers.push(Math.max(...times));
    const returnedMs = nowMs();
    victim.start();
    await untilHandedBack(relevo, 30_000);
    const backMs = nowMs();
    await pause(500);
    handBacks.push(backMs - returnedMs);
    producerStalls.push(workload.longestProducerStall(returnedMs, nowMs()));
    consumerStalls.push(workload.longestConsumerStall(returnedMs, nowMs()));
    spreads.push(leaderSpread(cluster, await leaderTable(relevo, topic)));
    say(
      `kill ${kill + 1}: broker ${victim.id}, failover ${times.map((ms) => ms.toFixed(0)).join(' ')} ms, ` +
        `back after ${(backMs - returnedMs).toFixed(0)} ms, stalls then: producer ` +
        `${producerStalls.at(-1)?.toFixed(0)} ms, consumer ${consumerStalls.at(-1)?.toFixed(0)} ms`,
    );
  }
  await workload.stop();
  const verdict = await workload.verify(relevo);
  for (const { message } of workload.errors.slice(0, 3)) say(`failed send: ${message}`);
  for (const message of workload.consumerErrors) say(`consumer: ${message}`);
  return {
    [named(prefix, 'kills')]: options.kills,
    [named(prefix, 'failoverMsP50')]: percentile(failovers, 0.5),
    [named(prefix, 'failoverMsMax')]: Math.max(...failovers),
    [named(prefix, 'handBackMsMax')]: Math.max(...handBacks),
    [named(prefix, 'handBackProducerStallMsMax')]: Math.max(...producerStalls),
    [named(prefix, 'handBackConsumerStallMsMax')]: Math.max(...consumerStalls),
    [named(prefix, 'leaderSpreadMax')]: Math.max(...spreads),
    ...verdictFigures(prefix, verdict),
  };
}
