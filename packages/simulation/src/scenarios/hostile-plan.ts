/**
 * What a hostile run does, drawn from its seed before it begins. Each run enables a random subset of the
 * fault kinds, settings and changes, so that some runs are wild in one respect and calm in others.
 *
 * The injury budget: what a fault destroys for good, it destroys on one broker, the same for all faults of
 * a round; the next round may choose another only when every replica is whole again, byte for byte. An
 * acknowledged record is on `min.insync.replicas` = 2 disks, an entry of the quorum on 2 of 3: one of them
 * is healthy at any time, and nothing may be lost. Faults that destroy nothing may strike any broker.
 */
import type { Prng } from '../prng.ts';
import type { DiskLatency } from '../simulated-disk.ts';
import type { LinkProfile } from '../simulated-network.ts';

/** Faults that destroy nothing that was durable. */
export type HarmlessKind =
  | 'kill'
  | 'powerCut'
  | 'silentPowerCut'
  | 'powerCutAll'
  | 'pause'
  | 'isolate'
  | 'oneWay'
  | 'clockJump'
  | 'hungDisk'
  | 'fullDisk';
const HARMLESS: readonly HarmlessKind[] = [
  ...(['kill', 'powerCut', 'silentPowerCut', 'powerCutAll', 'pause'] as const),
  ...(['isolate', 'oneWay', 'clockJump', 'hungDisk', 'fullDisk'] as const),
];

/** Injuries to the disk of a broker that is off; it boots on what is left. */
export type RestKind =
  | 'bitFlip'
  | 'zeroedSector'
  | 'lostTail'
  | 'vanishedFile'
  | 'vanishedDirectory'
  | 'wipedDisk'
  | 'olderDisk';
const AT_REST: readonly RestKind[] = [
  ...(['bitFlip', 'zeroedSector', 'lostTail', 'vanishedFile'] as const),
  ...(['vanishedDirectory', 'wipedDisk', 'olderDisk'] as const),
];

/** What befalls the disk under a running broker. */
export type LiveKind =
  | 'liveBitFlip'
  | 'liveZeroedSector'
  | 'liveVanishedFile'
  | 'failingSync'
  | 'failingReads'
  | 'failingWrites';
const LIVE: readonly LiveKind[] = [
  ...(['liveBitFlip', 'liveZeroedSector', 'liveVanishedFile'] as const),
  ...(['failingSync', 'failingReads', 'failingWrites'] as const),
];

export type HostileKind = HarmlessKind | RestKind | LiveKind;

export const isAtRest = (kind: HostileKind): kind is RestKind =>
  AT_REST.some((each) => each === kind);
export const isLive = (kind: HostileKind): kind is LiveKind => LIVE.some((each) => each === kind);

export type Change = 'create' | 'delete' | 'grow' | 'alter';
const CHANGES: readonly Change[] = ['create', 'delete', 'grow', 'alter'];

export interface HostileFault {
  readonly kind: HostileKind;
  readonly afterMs: number;
  readonly lastsMs: number;
}

export interface TopicPlan {
  readonly partitions: number;
  readonly config: Readonly<Record<string, number | string>>;
}

export interface HostilePlan {
  readonly profile: LinkProfile;
  readonly diskLatency: DiskLatency;
  readonly brokers: number;
  /** The broker beyond the voters joins in this round; 0: it is there from the start. */
  readonly joinsInRound: number;
  readonly snapshotEntries: number;
  readonly settings: Readonly<Record<string, string>>;
  readonly topics: readonly TopicPlan[];
  readonly changes: readonly Change[];
  readonly changeEveryMs: number;
  readonly producers: number;
  readonly sendEveryMs: number;
  readonly lingerMs: number;
  readonly valueBytesMax: number;
  readonly deliveryTimeoutMs: number;
  /** Records may be older than now by up to this, ms. */
  readonly oldestMs: number;
  readonly outsider: boolean;
  readonly follows: boolean;
  readonly rounds: readonly (readonly HostileFault[])[];
}

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
const KIB = 1024;

export function drawHostilePlan(prng: Prng): HostilePlan {
  const wild = prng.chance(0.3);
  const kinds = drawKinds(prng);
  return {
    profile: {
      minMs: 0.05,
      meanMs: prng.pick([0.2, 1, 3]),
      tailChance: wild ? 0.003 : 0,
      tailMs: prng.pick([5, 100]),
      breakChance: wild ? prng.pick([0, 0.0005]) : 0,
      bytesPerMs: prng.pick([20_000, 1_000_000]),
    },
    diskLatency: {
      sync: { meanMs: prng.pick([0.2, 1, 4]), tailChance: 0.002, tailMs: prng.pick([5, 100]) },
      read: { meanMs: 0.05, tailChance: 0.001, tailMs: 20 },
    },
    brokers: prng.pick([3, 3, 4]),
    joinsInRound: prng.integer(0, 1),
    snapshotEntries: prng.pick([15, 60, 10_000]),
    settings: {
      'log.retention.check.interval.ms': String(prng.pick([200, 1_000, 30_000])),
      'deleted.topic.directory.retention.ms': String(prng.pick([0, 500, 2_000])),
      'log.index.interval.bytes': String(prng.pick([0, 500, 4 * KIB])),
    },
    topics: Array.from({ length: prng.integer(1, 2) }, () => drawTopic(prng)),
    changes: CHANGES.filter(() => prng.chance(0.4)),
    changeEveryMs: prng.pick([300, 1_000]),
    producers: prng.integer(1, 2),
    sendEveryMs: prng.pick([20, 40, 80]),
    lingerMs: prng.pick([0, 5]),
    valueBytesMax: prng.pick([20, 500, 8_000]),
    deliveryTimeoutMs: prng.pick([120_000, 3_000]),
    oldestMs: prng.pick([0, 0, HOUR_MS, 10 * DAY_MS, 400 * DAY_MS]),
    outsider: prng.chance(0.15),
    follows: prng.chance(0.5),
    rounds: Array.from({ length: prng.pick([1, 1, 2]) }, () =>
      Array.from({ length: prng.integer(1, 3) }, () => drawFault(prng, kinds)),
    ),
  };
}

/** At least one that injures, in most runs. */
function drawKinds(prng: Prng): HostileKind[] {
  const all: readonly HostileKind[] = [...HARMLESS, ...AT_REST, ...LIVE];
  const enabled = all.filter(() => prng.chance(0.25));
  return [...enabled, prng.pick<HostileKind>(prng.chance(0.5) ? AT_REST : LIVE)];
}

const drawFault = (prng: Prng, kinds: readonly HostileKind[]): HostileFault => ({
  kind: prng.pick(kinds),
  afterMs: prng.pick([prng.between(200, 1_500), prng.between(0, 300)]),
  lastsMs: prng.pick([100, 500, 2_000]) * prng.between(0.5, 1.5),
});

export const drawTopic = (prng: Prng): TopicPlan => ({
  partitions: prng.integer(1, 3),
  config: {
    ...(prng.chance(0.5) && { 'segment.ms': 1_000 }),
    ...(prng.chance(0.5) && { 'segment.bytes': 64 * KIB }),
    ...(prng.chance(0.25) && { 'retention.bytes': prng.pick([0, 20_000, 100_000]) }),
    ...(prng.chance(0.25) && { 'retention.ms': prng.pick([2_000, HOUR_MS, 300 * DAY_MS]) }),
    ...(prng.chance(0.1) && { 'message.timestamp.type': 'LogAppendTime' }),
  },
});

export const drawAlteration = (prng: Prng): Record<string, number> =>
  prng.pick<Record<string, number>>([
    { 'segment.ms': prng.pick([1_000, 7 * DAY_MS]) },
    { 'retention.bytes': prng.pick([0, 50_000, 1_000_000]) },
    { 'retention.ms': prng.pick([2_000, 7 * DAY_MS]) },
    { 'index.interval.bytes': prng.pick([0, 1_000]) },
  ]);

export const describeHostile = ({ kind, lastsMs }: HostileFault): string =>
  `${kind} for ${Math.round(lastsMs)} ms`;
