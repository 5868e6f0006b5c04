import { nowMs } from '../lib/cluster.ts';
import { pause, until } from '../lib/wait.ts';
import { untilHandedBack } from '../lib/workload.ts';
import { underLoad, verdictFigures, type Context, type Figures } from './figures.ts';

/** SIGKILL of all brokers at once under load, restart: every acknowledged record is there. */
export async function wholeClusterKill(context: Context): Promise<Figures> {
  const { cluster, relevo, partitions, say } = context;
  const workload = await underLoad(context);
  await pause(1000);
  await Promise.all(cluster.brokers.map((broker) => broker.kill()));
  const killedMs = nowMs();
  const ackedBefore = workload.acks.length;
  await pause(300);
  const restartMs = nowMs();
  for (const broker of cluster.brokers) broker.start();
  await until(
    'every partition to acknowledge again',
    () => {
      const fresh = workload.acks.filter(({ atMs }) => atMs > killedMs + 200);
      return new Set(fresh.map(({ partition }) => partition)).size === partitions;
    },
    { deadlineMs: 60_000, everyMs: 50 },
  );
  const recoveredMs = nowMs() - restartMs;
  say(
    `${ackedBefore} records acknowledged before the kill; serving again after ${recoveredMs.toFixed(0)} ms`,
  );
  await untilHandedBack(relevo, 30_000);
  await workload.stop();
  const verdict = await workload.verify(relevo);
  return {
    wholeAckedBeforeKill: ackedBefore,
    wholeRecoveryMs: recoveredMs,
    ...verdictFigures('whole', verdict),
  };
}
