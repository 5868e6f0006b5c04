/** One cluster of containers through a plan of faults, under a recorded load. */
import { Relevo } from '@relevo/client';
import type { Anomaly } from '@relevo/simulation/history';
import { pause, until } from '../../lib/wait.ts';
import { untilHandedBack } from '../../lib/workload.ts';
import { ContainerCluster } from './container-cluster.ts';
import { victimOf } from './faults.ts';
import type { PlannedFault } from './plan.ts';
import { RecordedLoad } from './recorded-load.ts';

/** After a fault is undone: all replicas in sync, all preferred leaders leading. */
export const WHOLE_WITHIN_MS = 15_000;
/** How long it may take before that counts as never. */
const GIVE_UP_MS = 90_000;
const TOPIC = 'chaos';
/** A broker's memory in the end, against that before the faults. */
const MEMORY_GROWTH_MAX = 2;
const MIB = 1024 * 1024;

export interface ChaosOptions {
  readonly brokers: number;
  readonly plan: Iterable<PlannedFault>;
  /** No new fault is begun after so long. */
  readonly seconds: number;
  readonly image?: string;
  readonly say: (line: string) => void;
}

export interface FaultOutcome {
  readonly name: string;
  readonly victim: number;
  /** From the strike until every partition had acknowledged something sent or repeated after it. */
  readonly firstNewAckMs: number;
  /** The longest that any partition went without an acknowledgement. */
  readonly stallMs: number;
  /** From the undoing until the cluster was whole. */
  readonly wholeMs: number;
}

export interface ChaosResult {
  readonly faults: readonly FaultOutcome[];
  readonly anomalies: readonly Anomaly[];
  /** What else is not as it must be. */
  readonly problems: readonly string[];
  readonly totals: Readonly<Record<string, number>>;
}

export async function chaos(options: ChaosOptions): Promise<ChaosResult> {
  const { brokers, image } = options;
  const cluster = await ContainerCluster.start({ brokers, ...(image !== undefined && { image }) });
  try {
    return await new Run(cluster, options).run();
  } finally {
    await cluster.destroy();
  }
}

class Run {
  readonly #cluster: ContainerCluster;
  readonly #options: ChaosOptions;
  readonly #problems: string[] = [];
  readonly #faults: FaultOutcome[] = [];

  constructor(cluster: ContainerCluster, options: ChaosOptions) {
    this.#cluster = cluster;
    this.#options = options;
  }

  async run(): Promise<ChaosResult> {
    const { bootstrap } = this.#cluster;
    const relevo = await Relevo.connect({ brokers: bootstrap });
    const partitions = this.#options.brokers * 2;
    await untilServing(relevo, this.#options.brokers);
    await relevo.admin.createTopic({ topic: TOPIC, partitions, replicationFactor: 3 });
    const load = new RecordedLoad({
      ...{ bootstrap, topic: TOPIC, partitions },
      ...{ producers: 2, consumers: 2, ratePerSecond: 150 },
    });
    await load.start();
    await pause(2_000);
    const memoryBefore = await this.#memory();
    const endMs = performance.now() + this.#options.seconds * 1000;
    for (const fault of this.#options.plan) {
      if (performance.now() > endMs) break;
      await this.#suffer(fault, relevo, load);
    }
    const anomalies = await load.finish();
    const memoryAfter = await this.#memory();
    const growth = Math.max(...memoryAfter.map((bytes, at) => bytes / (memoryBefore[at] ?? bytes)));
    if (growth > MEMORY_GROWTH_MAX) {
      this.#problems.push(`a broker's memory has grown ${growth.toFixed(1)}-fold`);
    }
    for (const error of load.consumerErrors) this.#problems.push(`a consumer failed: ${error}`);
    await this.#lookAtLogs();
    await relevo.close();
    const { history } = load;
    return {
      faults: this.#faults,
      anomalies,
      problems: this.#problems,
      totals: {
        faults: this.#faults.length,
        acked: history.count('acknowledged'),
        unknown: history.count('unknown'),
        failed: history.count('failed'),
        anomalies: anomalies.length,
        wholeMsMax: Math.round(Math.max(0, ...this.#faults.map(({ wholeMs }) => wholeMs))),
        memoryMbBeforeMax: Math.round(Math.max(...memoryBefore) / MIB),
        memoryMbAfterMax: Math.round(Math.max(...memoryAfter) / MIB),
      },
    };
  }

  async #suffer(fault: PlannedFault, relevo: Relevo, load: RecordedLoad): Promise<void> {
    const { kind, pauseMs, lastsMs, draw } = fault;
    await pause(pauseMs);
    const pick = (count: number): number => draw % count;
    const victim = await victimOf(kind.role, this.#cluster, relevo, TOPIC, pick);
    const struckMs = performance.now();
    const undo = await kind.strike(victim, this.#cluster);
    await pause(lastsMs);
    await undo();
    const undoneMs = performance.now();
    await untilHandedBack(relevo, GIVE_UP_MS);
    const wholeMs = performance.now() - undoneMs;
    await until('an acknowledgement of every partition', () =>
      Number.isFinite(load.firstNewAckMs(struckMs)),
    );
    const firstNewAckMs = load.firstNewAckMs(struckMs);
    const stallMs = load.longestStallMs(struckMs, performance.now());
    this.#faults.push({ name: kind.name, victim: victim.id, firstNewAckMs, stallMs, wholeMs });
    this.#options.say(
      `${kind.name} at ${victim.name} for ${lastsMs} ms: first new ack ${firstNewAckMs.toFixed(0)} ms, ` +
        `longest stall ${stallMs.toFixed(0)} ms, whole ${wholeMs.toFixed(0)} ms after its end`,
    );
    if (wholeMs > WHOLE_WITHIN_MS) {
      this.#problems.push(`${kind.name}: whole after ${wholeMs.toFixed(0)} ms only`);
    }
  }

  #memory(): Promise<number[]> {
    return Promise.all(this.#cluster.brokers.map((broker) => broker.memoryBytes()));
  }

  /** A broker that ends by itself is started again by nobody here, but says so. */
  async #lookAtLogs(): Promise<void> {
    for (const broker of this.#cluster.brokers) {
      const crashed = (await broker.logs()).split('\n').find((line) => line.includes('"crashed"'));
      if (crashed !== undefined) this.#problems.push(`${broker.name} crashed: ${crashed}`);
    }
  }
}

async function untilServing(relevo: Relevo, brokers: number): Promise<void> {
  await until('all brokers to serve', async () => {
    const described = await relevo.admin.describeCluster();
    return described.brokers.filter(({ fenced }) => !fenced).length === brokers;
  });
}
