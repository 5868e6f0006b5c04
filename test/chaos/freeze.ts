import { nowMs } from '../lib/cluster.ts';
import { pause, until } from '../lib/wait.ts';
import { leaderTable, untilHandedBack } from '../lib/workload.ts';
import { underLoad, verdictFigures, type Context, type Figures } from './figures.ts';

/**
 * SIGSTOPs a leader for longer than its session, lets it go on, and checks that nothing is acknowledged
 * under its old epoch once a new one has been seen, that it truncates, and that it leads again.
 */
export async function freeze(
  context: Context,
  options: { readonly freezes: number; readonly frozenMs: number },
): Promise<Figures> {
  const { cluster, relevo, topic, say } = context;
  const workload = await underLoad(context);
  const failovers: number[] = [];
  for (let round = 0; round < options.freezes; round++) {
    const { controllerId } = await relevo.admin.describeCluster();
    // The first round freezes the active controller too, the hardest case.
    const victim =
      round % 2 === 0
        ? cluster.broker(controllerId)
        : (cluster.brokers.find(({ id }) => id !== controllerId) ?? cluster.broker(controllerId));
    const table = await leaderTable(relevo, topic);
    const led = table.leaders.flatMap((leader, p) => (leader === victim.id ? [p] : []));
    const frozenAtMs = nowMs();
    victim.signal('SIGSTOP');
    try {
      await until(
        'new leaders to acknowledge',
        () => led.every((partition) => workload.failovers(frozenAtMs).has(partition)),
        { deadlineMs: 30_000 },
      );
      await pause(Math.max(0, frozenAtMs + options.frozenMs - nowMs()));
    } finally {
      victim.signal('SIGCONT');
    }
    const times = led.map((partition) => workload.failovers(frozenAtMs).get(partition) ?? NaN);
    failovers.push(Math.max(...times));
    await untilHandedBack(relevo, 30_000);
    say(
      `freeze ${round + 1}: broker ${victim.id}, failover ${times.map((ms) => ms.toFixed(0)).join(' ')} ms`,
    );
  }
  await workload.stop();
  const verdict = await workload.verify(relevo);
  return {
    freezes: options.freezes,
    freezeFailoverMsMax: Math.max(...failovers),
    freezeStaleAcks: staleAcks(workload.acks),
    ...verdictFigures('freeze', verdict),
  };
}

/** Acknowledgements under an epoch lower than one that the partition had acknowledged under before. */
function staleAcks(acks: readonly { partition: number; leaderEpoch: number }[]): number {
  const newest = new Map<number, number>();
  let stale = 0;
  for (const { partition, leaderEpoch } of acks) {
    const known = newest.get(partition) ?? -1;
    if (leaderEpoch < known) stale++;
    newest.set(partition, Math.max(known, leaderEpoch));
  }
  return stale;
}
