/** What a cluster under stress is watched for: readiness, who was fenced, and memory. */
import { messageOf } from '@relevo/base/errors';
import { nowMs, type TestCluster } from '../lib/cluster.ts';
import { pause, until } from '../lib/wait.ts';

/** How often /readyz is asked. */
const ASK_EVERY_MS = 50;

export class ReadinessProbe {
  readonly #addresses: readonly string[];
  readonly answersMs: number[] = [];
  readonly refusals: string[] = [];
  #running = true;
  #loops: Promise<unknown> = Promise.resolve();

  constructor(cluster: TestCluster) {
    this.#addresses = cluster.brokers.map(({ httpAddress }) => httpAddress);
  }

  start(): void {
    this.#loops = Promise.all(this.#addresses.map((address) => this.#ask(address)));
  }

  /** Says what the brokers said while they were not ready. */
  async stop(): Promise<void> {
    this.#running = false;
    await this.#loops;
    for (const text of new Set(this.refusals)) console.log(`  unready: ${text.trim()}`);
  }

  async #ask(address: string): Promise<void> {
    while (this.#running) {
      const askedMs = nowMs();
      try {
        const response = await fetch(`http://${address}/readyz`);
        const text = await response.text();
        if (response.status !== 200) this.refusals.push(`${address}: ${text}`);
      } catch (error) {
        this.refusals.push(`${address}: ${messageOf(error)}`);
      }
      this.answersMs.push(nowMs() - askedMs);
      await pause(ASK_EVERY_MS);
    }
  }
}

/** Of one metric without labels, by broker. */
export async function metric(cluster: TestCluster, name: string): Promise<number[]> {
  const values = cluster.brokers.map(async ({ httpAddress }) => {
    const text = await (await fetch(`http://${httpAddress}/metrics`)).text();
    const line = new RegExp(`^${name} (\\S+)$`, 'm').exec(text);
    return Number(line?.[1]);
  });
  return Promise.all(values);
}

export const residentBytes = (cluster: TestCluster): Promise<number[]> =>
  metric(cluster, 'process_resident_memory_bytes');

/** Above its level before by no more than this it counts as back at it. */
export const MEMORY_SLACK_BYTES: number = 64 * 1024 * 1024;

/** The brokers' memory over `before`, bytes, once it has come down, or when waiting was in vain. */
export async function memoryOver(
  cluster: TestCluster,
  before: readonly number[],
  deadlineMs: number,
): Promise<number> {
  let over = Infinity;
  const isBack = async (): Promise<boolean> => {
    const now = await residentBytes(cluster);
    over = Math.max(...now.map((bytes, at) => bytes - (before[at] ?? 0)));
    return over <= MEMORY_SLACK_BYTES;
  };
  await until('memory is back', isBack, { deadlineMs, everyMs: 500 }).catch(() => undefined);
  return over;
}

/** Brokers that the controllers have fenced since the start, by their log lines. */
export const fencings = (cluster: TestCluster): number =>
  cluster.brokers
    .flatMap((broker) => broker.logLines())
    .filter(({ event }) => event === 'broker fenced').length;
