/**
 * Where the replicas of new partitions go. One after the other, each on the best broker left:
 *
 * 1. on a rack that holds no replica of the partition yet (a broker without a rack is one of its own);
 * 2. where the topic has the fewest leaders (for the first replica) or replicas (for the others);
 * 3. where the topic's partitions with the same leader have the fewest second replicas: when a broker
 *    dies, its leaderships then go to all the others and not to one;
 * 4. where there are the fewest leaders, or replicas, of all topics;
 * 5. at random, by the seed.
 *
 * Counting within the topic first keeps a broker that has just joined from being given all partitions of
 * the next topic; counting all topics next lets topics of one partition spread as well. Over brokers that
 * do not change, leaders per broker differ by at most one, per topic and over all.
 */
import { assert, defined } from '@relevo/base/assert';
import type { BrokerId } from '@relevo/base/ids';
import type { BrokerImage, ClusterImage, PartitionImage } from './image.ts';

export interface PlacementRequest {
  /** Partitions to place. */
  readonly count: number;
  /** Replicas of each; at most as many as brokers. */
  readonly replicationFactor: number;
  /** Live ones, at least one. */
  readonly brokers: readonly BrokerImage[];
  /** Partitions that the topic has already. */
  readonly existing: readonly PartitionImage[];
  /** Drawn by the caller: the same image and seed give the same placement. */
  readonly seed: number;
}

interface Load {
  readonly id: BrokerId;
  readonly rack: string;
  /** Position in the order that the seed gave; breaks ties. */
  readonly rank: number;
  topicLeaders: number;
  topicReplicas: number;
  leaders: number;
  replicas: number;
  /** By second replica: partitions of the topic that this broker leads. */
  readonly successors: Map<BrokerId, number>;
}

/** For each partition its replicas, the preferred leader first. */
export function placeReplicas(image: ClusterImage, request: PlacementRequest): BrokerId[][] {
  const { count, replicationFactor, brokers } = request;
  assert(replicationFactor >= 1 && replicationFactor <= brokers.length, 'enough brokers', {
    replicationFactor,
    brokers: brokers.length,
  });
  const loads = loadsOf(image, request);
  const placed: BrokerId[][] = [];
  for (let partition = 0; partition < count; partition++) {
    placed.push(placeOne(loads, replicationFactor));
  }
  return placed;
}

function placeOne(loads: readonly Load[], replicationFactor: number): BrokerId[] {
  const chosen: Load[] = [];
  const leader = best(loads, compareLeaders);
  chosen.push(leader);
  while (chosen.length < replicationFactor) {
    const left = loads.filter((load) => !chosen.includes(load));
    const racks = new Set(chosen.map((load) => load.rack));
    const elsewhere = left.filter((load) => !racks.has(load.rack));
    const pool = elsewhere.length > 0 ? elsewhere : left;
    chosen.push(best(pool, (a, b) => compareFollowers(leader, a, b)));
  }
  leader.topicLeaders++;
  leader.leaders++;
  const second = chosen[1];
  if (second !== undefined) {
    leader.successors.set(second.id, (leader.successors.get(second.id) ?? 0) + 1);
  }
  for (const load of chosen) {
    load.topicReplicas++;
    load.replicas++;
  }
  return chosen.map((load) => load.id);
}

const compareLeaders = (a: Load, b: Load): number =>
  a.topicLeaders - b.topicLeaders || a.leaders - b.leaders || compareReplicas(a, b);

const compareReplicas = (a: Load, b: Load): number =>
  a.topicReplicas - b.topicReplicas || a.replicas - b.replicas || a.rank - b.rank;

const compareFollowers = (leader: Load, a: Load, b: Load): number =>
  a.topicReplicas - b.topicReplicas ||
  (leader.successors.get(a.id) ?? 0) - (leader.successors.get(b.id) ?? 0) ||
  a.replicas - b.replicas ||
  a.rank - b.rank;

function best(loads: readonly Load[], compare: (a: Load, b: Load) => number): Load {
  let found = defined(loads[0], 'a broker to choose');
  for (const load of loads) if (compare(load, found) < 0) found = load;
  return found;
}

function loadsOf(image: ClusterImage, request: PlacementRequest): Load[] {
  const loads = shuffled(request.brokers, request.seed).map(({ id, rack }, rank): Load => ({
    id,
    rack: rack === '' ? `broker ${id}` : `rack ${rack}`,
    rank,
    topicLeaders: 0,
    topicReplicas: 0,
    leaders: 0,
    replicas: 0,
    successors: new Map(),
  }));
  const byId = new Map(loads.map((load) => [load.id, load]));
  for (const topic of image.topicsById.values()) {
    for (const { replicas } of topic.partitions) {
      replicas.forEach((id, position) => {
        const load = byId.get(id);
        if (load === undefined) return;
        load.replicas++;
        if (position === 0) load.leaders++;
      });
    }
  }
  for (const { replicas } of request.existing) {
    replicas.forEach((id, position) => {
      const load = byId.get(id);
      if (load === undefined) return;
      load.topicReplicas++;
      if (position === 0) load.topicLeaders++;
    });
  }
  return loads;
}

/** Fisher-Yates with a 32-bit xorshift; by id first, so that the order of the input does not count. */
function shuffled(brokers: readonly BrokerImage[], seed: number): BrokerImage[] {
  const result = [...brokers].sort((a, b) => a.id - b.id);
  let state = (seed | 0) ^ 0x9e3779b9 || 1;
  for (let last = result.length - 1; last > 0; last--) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    const other = (state >>> 0) % (last + 1);
    const moved = defined(result[last], 'a broker');
    result[last] = defined(result[other], 'a broker');
    result[other] = moved;
  }
  return result;
}
