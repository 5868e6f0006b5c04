/**
 * What a run does, drawn from its seed before it begins (a swarm: each run draws its own rates, so that
 * some runs are calm in one respect and wild in another).
 */
import type { Prng } from './prng.ts';
import type { DiskLatency } from './simulated-disk.ts';
import type { LinkProfile } from './simulated-network.ts';

export type FaultKind =
  /** SIGKILL; the page cache stays. */
  | 'kill'
  /** The power goes: what was not synced is kept, lost or torn; peers are reset. */
  | 'powerCut'
  /** The power goes and the host is silent until it is back. */
  | 'silentPowerCut'
  /** SIGSTOP for longer than the session. */
  | 'pause'
  /** The host is cut off both ways. */
  | 'isolate'
  /** The host hears and is not heard, or the other way round. */
  | 'oneWay'
  /** All brokers lose power at once. */
  | 'powerCutAll'
  /** All lose power, or are killed, at once, and of each partition some replicas come back damaged. */
  | 'damagedRestart'
  /** As before, but all brokers but the last stop in order, one after the other. */
  | 'stoppedRestart';

/** What a fault waits for: the moments at which a cluster is most easily hurt. */
export type FaultTrigger =
  | 'time'
  /** A replica has just come into the in-sync set. */
  | 'isrGrown'
  /** A leader has just been elected. */
  | 'elected'
  /** A follower has just cut its log to follow a leader. */
  | 'truncated';

export interface FaultPlan {
  readonly kind: FaultKind;
  readonly trigger: FaultTrigger;
  /** From the trigger, or from the start of the round, to the strike. */
  readonly afterMs: number;
  /** From the fault to the restart, resumption or mending. */
  readonly lastsMs: number;
}

export interface Plan {
  readonly profile: LinkProfile;
  readonly lanes: number;
  readonly windowBytes: number;
  readonly diskLatency: DiskLatency;
  readonly clockDrift: number;
  readonly partitions: number;
  readonly producers: number;
  readonly lingerMs: number;
  /** Between two sends of a producer, on average. */
  readonly sendEveryMs: number;
  readonly valueBytesMax: number;
  /** After so long a producer gives a record up: its outcome is unknown. */
  readonly deliveryTimeoutMs: number;
  /** The faults of a round overlap; between two rounds the cluster must become whole. */
  readonly rounds: readonly (readonly FaultPlan[])[];
}

const FAULT_KINDS: readonly FaultKind[] = [
  ...(['kill', 'powerCut', 'powerCut', 'silentPowerCut'] as const),
  ...(['pause', 'isolate', 'oneWay', 'powerCutAll'] as const),
];

export function drawPlan(prng: Prng): Plan {
  const wild = prng.chance(0.5);
  const rounds = Array.from({ length: prng.integer(1, 3) }, (_, round) =>
    Array.from({ length: prng.pick([1, 1, 2, 3]) }, (_, index) => drawFault(prng, round, index)),
  );
  return {
    profile: {
      minMs: 0.02,
      meanMs: prng.pick([0.05, 0.2, 1, 3]),
      tailChance: wild ? prng.pick([0, 0.001, 0.01]) : 0,
      tailMs: prng.pick([5, 50, 200]),
      breakChance: wild ? prng.pick([0, 0, 0.0001, 0.0005]) : 0,
      bytesPerMs: prng.pick([5_000, 100_000, 1_000_000]),
    },
    lanes: prng.pick([1, 1, 4]),
    windowBytes: prng.pick([2 ** 16, 2 ** 20, 2 ** 23]),
    diskLatency: {
      sync: { meanMs: prng.pick([0.1, 0.5, 3]), tailChance: 0.002, tailMs: prng.pick([5, 100]) },
      read: { meanMs: 0.05, tailChance: 0.001, tailMs: 20 },
    },
    clockDrift: prng.pick([0, 1e-4, 1e-3]),
    partitions: prng.integer(1, 6),
    producers: prng.integer(1, 2),
    lingerMs: prng.pick([0, 1, 5]),
    sendEveryMs: prng.pick([5, 10, 20]),
    valueBytesMax: prng.pick([20, 200, 5_000]),
    deliveryTimeoutMs: prng.pick([120_000, 120_000, 3_000]),
    rounds,
  };
}

/** Every run begins with a leader that loses what it had not synced; later faults may wait for it. */
function drawFault(prng: Prng, round: number, index: number): FaultPlan {
  const trigger =
    index === 0 ? 'time' : prng.pick<FaultTrigger>(['time', 'isrGrown', 'elected', 'truncated']);
  return {
    kind: round + index === 0 ? 'powerCut' : prng.pick(FAULT_KINDS),
    trigger,
    afterMs: trigger === 'time' ? prng.between(200, 1_500) : prng.pick([0, prng.exponential(5)]),
    lastsMs: prng.pick([100, 500, 2_000, 4_000]) * prng.between(0.5, 1.5),
  };
}

/** `powerCut for 812 ms, 3 ms after elected`. */
export const describeFault = ({ kind, trigger, afterMs, lastsMs }: FaultPlan): string =>
  `${kind} for ${Math.round(lastsMs)} ms, ${Math.round(afterMs)} ms after ${trigger}`;
