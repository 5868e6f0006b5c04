/** One cluster of containers through a plan of faults, under a recorded load. */
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Relevo } from '@relevo/client';
import type { Anomaly } from '@relevo/simulation/history';
import { pause, until } from '../../lib/wait.ts';
import { untilHandedBack } from '../../lib/workload.ts';
import { IMAGE } from './broker-container.ts';
import { ContainerCluster, FaultMissed } from './container-cluster.ts';
import { victimOf, type Setting } from './faults.ts';
import type { PlannedFault } from './plan.ts';
import { RecordedLoad } from './recorded-load.ts';
import { libfaketime } from './tools.ts';

/** After a fault is undone: all replicas in sync, all preferred leaders leading. */
export const WHOLE_WITHIN_MS = 15_000;
/** How long it may take before that counts as never. */
const GIVE_UP_MS = 90_000;
const TOPIC = 'chaos';
/** Of the largest broker after each fault and in the end, against the largest before the faults. */
const MEMORY_GROWTH_MAX = 2;
const MIB = 1024 * 1024;
const LABORATORY_BYTES = 256 * MIB;
const SIGNALS = ['SIGINT', 'SIGTERM'] as const;
const INTERRUPTED = 130;

export interface ChaosOptions {
  readonly brokers: number;
  readonly plan: Iterable<PlannedFault>;
  /** No new fault is begun after so long. */
  readonly seconds: number;
  readonly setting: Setting;
  /** What is upgraded from; needed where the setting is 'previous'. */
  readonly previousImage?: string | undefined;
  /** The brokers' logs are kept even when all is well. */
  readonly keepLogs: boolean;
  readonly say: (line: string) => void;
}

export interface FaultOutcome {
  readonly name: string;
  readonly victim: number;
  /**
   * The longest that any partition went from its last acknowledgement to the first new one, from the strike
   * until the cluster was whole.
   */
  readonly firstNewAckMs: number;
  /** From the undoing until the cluster was whole. */
  readonly wholeMs: number;
  /** Of the largest broker, when it was whole. */
  readonly memoryMb: number;
}

export interface ChaosResult {
  readonly faults: readonly FaultOutcome[];
  readonly anomalies: readonly Anomaly[];
  /** What else is not as it must be. */
  readonly problems: readonly string[];
  readonly totals: Totals;
}

export interface Totals {
  readonly faults: number;
  readonly acked: number;
  readonly unknown: number;
  readonly failed: number;
  readonly anomalies: number;
  readonly wholeMsMax: number;
  readonly memoryMbBeforeMax: number;
  readonly memoryMbAfterMax: number;
}

export async function chaos(options: ChaosOptions): Promise<ChaosResult> {
  const { brokers, setting, previousImage } = options;
  const laboratory = setting === 'laboratory';
  const cluster = await ContainerCluster.start({
    brokers,
    ...(laboratory && { dataBytes: LABORATORY_BYTES, fakeClock: await libfaketime() }),
    ...(setting === 'previous' && previousImage !== undefined && { image: previousImage }),
  });
  // Nobody else removes containers where the reaper of testcontainers is off.
  const interrupted = (): void => void cluster.destroy().finally(() => process.exit(INTERRUPTED));
  for (const signal of SIGNALS) process.once(signal, interrupted);
  try {
    return await new Run(cluster, options).run();
  } finally {
    for (const signal of SIGNALS) process.off(signal, interrupted);
    await cluster.destroy();
  }
}

class Run {
  readonly #cluster: ContainerCluster;
  readonly #options: ChaosOptions;
  readonly #problems: string[] = [];
  readonly #faults: FaultOutcome[] = [];
  #memoryMax = Infinity;

  constructor(cluster: ContainerCluster, options: ChaosOptions) {
    this.#cluster = cluster;
    this.#options = options;
  }

  async run(): Promise<ChaosResult> {
    try {
      return await this.#run();
    } catch (error) {
      await this.#keepLogs();
      throw error;
    }
  }

  async #run(): Promise<ChaosResult> {
    const { bootstrap } = this.#cluster;
    const relevo = await Relevo.connect({ brokers: bootstrap });
    // One broker leads nothing, so that there is a follower that is nothing else.
    const partitions = this.#options.brokers - 1;
    await untilServing(relevo, this.#options.brokers);
    await relevo.admin.createTopic({ topic: TOPIC, partitions, replicationFactor: 3 });
    const load = new RecordedLoad({
      ...{ bootstrap, topic: TOPIC, partitions },
      ...{ producers: 2, consumers: 2, ratePerSecond: 150 },
    });
    await load.start();
    await pause(2_000);
    const memoryBeforeMax = Math.max(...(await this.#memory()));
    this.#memoryMax = memoryBeforeMax * MEMORY_GROWTH_MAX;
    const endMs = performance.now() + this.#options.seconds * 1000;
    for (const fault of this.#options.plan) {
      if (performance.now() > endMs) break;
      await this.#suffer(fault, relevo, load);
    }
    const anomalies = await load.finish();
    const memoryAfterMax = Math.max(...(await this.#memory()));
    if (memoryAfterMax > this.#memoryMax) this.#problems.push('memory has not come back');
    for (const error of load.consumerErrors) this.#problems.push(`a consumer failed: ${error}`);
    await this.#lookAtLogs();
    await relevo.close();
    const { keepLogs } = this.#options;
    if (keepLogs || anomalies.length + this.#problems.length > 0) await this.#keepLogs();
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
        memoryMbBeforeMax: Math.round(memoryBeforeMax / MIB),
        memoryMbAfterMax: Math.round(memoryAfterMax / MIB),
      },
    };
  }

  async #suffer(fault: PlannedFault, relevo: Relevo, load: RecordedLoad): Promise<void> {
    const { kind, pauseMs, lastsMs, draw } = fault;
    await pause(pauseMs);
    const pick = (count: number): number => draw % count;
    const untilWhole = (): Promise<void> => untilHandedBack(relevo, GIVE_UP_MS);
    const stage = { cluster: this.#cluster, relevo, topic: TOPIC, untilWhole };
    const victim = await victimOf(kind.role, stage, pick);
    const struckMs = performance.now();
    const scene = { cluster: this.#cluster, untilWhole, image: IMAGE };
    try {
      const undo = await kind.strike(victim, scene);
      await pause(lastsMs);
      await undo();
    } catch (error) {
      if (!(error instanceof FaultMissed)) throw error;
      this.#problems.push(`${kind.name} did not take hold: ${error.message}`);
    }
    const undoneMs = performance.now();
    await untilWhole();
    const wholeMs = performance.now() - undoneMs;
    const wholeAtMs = performance.now();
    await until('an acknowledgement of every partition', () => load.ackedSince(wholeAtMs));
    const firstNewAckMs = load.longestStallMs(struckMs, performance.now());
    const memoryBytes = Math.max(...(await this.#memory()));
    const memoryMb = memoryBytes / MIB;
    this.#faults.push({ name: kind.name, victim: victim.id, firstNewAckMs, wholeMs, memoryMb });
    this.#options.say(
      `${kind.name} at ${kind.role === 'all' ? 'all' : victim.name} for ${lastsMs} ms: first new ack ` +
        `after ${firstNewAckMs.toFixed(0)} ms, whole ${wholeMs.toFixed(0)} ms after its end, ` +
        `${memoryMb.toFixed(0)} MB`,
    );
    if (wholeMs > WHOLE_WITHIN_MS) {
      this.#problems.push(`${kind.name}: whole after ${wholeMs.toFixed(0)} ms only`);
    }
    if (firstNewAckMs > kind.ackWithinMs) {
      this.#problems.push(
        `${kind.name}: the first new ack came after ${firstNewAckMs.toFixed(0)} ms`,
      );
    }
    if (memoryBytes > this.#memoryMax) {
      this.#problems.push(`${kind.name}: a broker has ${memoryMb.toFixed(0)} MB after it`);
    }
  }

  #memory(): Promise<number[]> {
    return Promise.all(this.#cluster.brokers.map((broker) => broker.memoryBytes()));
  }

  async #keepLogs(): Promise<void> {
    const directory = mkdtempSync(join(tmpdir(), 'relevo-containers-'));
    for (const broker of this.#cluster.brokers) {
      writeFileSync(join(directory, `${broker.name}.log`), await broker.logs());
    }
    this.#options.say(`the brokers' logs are in ${directory}`);
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
