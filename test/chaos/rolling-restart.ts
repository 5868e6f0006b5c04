import { nowMs } from '../lib/cluster.ts';
import { pause } from '../lib/wait.ts';
import { untilHandedBack } from '../lib/workload.ts';
import { underLoad, verdictFigures, type Context, type Figures } from './figures.ts';

/** SIGTERM and restart of every broker, one after the other, under load. */
export async function rollingRestart(context: Context): Promise<Figures> {
  const { cluster, relevo, say } = context;
  const workload = await underLoad(context);
  await pause(500);
  const startMs = nowMs();
  const stops: number[] = [];
  for (const broker of cluster.brokers) {
    const fromMs = nowMs();
    const code = await broker.stop();
    stops.push(nowMs() - fromMs);
    if (code !== 0) throw new Error(`broker ${broker.id} ended with code ${code} on SIGTERM`);
    broker.start();
    await untilHandedBack(relevo, 30_000);
    const endMs = nowMs();
    say(
      `broker ${broker.id}: stopped in ${stops.at(-1)?.toFixed(0)} ms, all back after ` +
        `${(endMs - fromMs).toFixed(0)} ms; longest stalls: producer ` +
        `${workload.longestProducerStall(fromMs, endMs).toFixed(0)} ms, consumer ` +
        `${workload.longestConsumerStall(fromMs, endMs).toFixed(0)} ms`,
    );
  }
  await pause(500);
  const endMs = nowMs();
  await workload.stop();
  const verdict = await workload.verify(relevo);
  for (const { message } of workload.errors.slice(0, 3)) say(`failed send: ${message}`);
  return {
    rollingStopMsMax: Math.max(...stops),
    rollingProducerStallMsMax: workload.longestProducerStall(startMs, endMs),
    rollingConsumerStallMsMax: workload.longestConsumerStall(startMs, endMs),
    ...verdictFigures('rolling', verdict),
  };
}
