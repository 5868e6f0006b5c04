/**
 * What the active controller has done, as log lines for operators, and as metrics. Few changes of one
 * kind in one delta get a line each, many are summed up in one.
 */
import { NO_BROKER, partitionName } from '@relevo/base/ids';
import type { BrokerEpoch, BrokerId } from '@relevo/base/ids';
import type { Counter, Logger, Metrics } from '@relevo/base/ports';
import type { ClusterImage } from '@relevo/controller/image';
import { preferredLeader } from '@relevo/controller/image';
import type { BrokerDelta, MetadataDelta, PartitionDelta } from '@relevo/controller/replay';

/** Changes of one kind that get lines of their own. */
const LINES_MAX = 3;

export class EventLog {
  readonly #logger: Logger;
  readonly #elections: Counter;
  readonly #fencings: Counter;
  /** Why a broker is being fenced; told once it is. */
  readonly #reasons = new Map<BrokerId, { readonly epoch: BrokerEpoch; readonly reason: string }>();

  constructor(deps: { readonly logger: Logger; readonly metrics: Metrics }) {
    this.#logger = deps.logger;
    this.#elections = deps.metrics.counter(
      'relevo_controller_leader_elections_total',
      'Leaders of partitions elected by this node as the active controller',
    );
    this.#fencings = deps.metrics.counter(
      'relevo_controller_fenced_brokers_total',
      'Brokers fenced by this node as the active controller',
    );
  }

  fencing(broker: BrokerId, epoch: BrokerEpoch, reason: string): void {
    this.#reasons.set(broker, { epoch, reason });
  }

  write(delta: MetadataDelta, image: ClusterImage): void {
    for (const broker of delta.brokers) this.#broker(broker);
    const known = delta.partitions.filter(({ before }) => before !== undefined);
    const moved = known.filter(({ before, after }) => before?.leader !== after.leader);
    const back = moved.filter((change) => isHandedBack(change, image));
    const backSet = new Set(back);
    const elected = moved.filter((change) => !backSet.has(change));
    this.#elections.add(moved.length);
    this.#leaders('handed back', back);
    this.#leaders(
      'leader elected',
      elected.filter(({ after }) => after.leader !== NO_BROKER),
    );
    this.#leaders(
      'no leader can be elected',
      elected.filter(({ after }) => after.leader === NO_BROKER),
    );
    this.#isr(
      'in-sync set shrunk',
      known.filter(({ before, after }) => size(before) > size(after)),
    );
    this.#isr(
      'in-sync set grown',
      known.filter(({ before, after }) => size(before) < size(after)),
    );
    for (const { before, after, topic, partition } of known) {
      if (before?.uncleanEpoch === after.uncleanEpoch) continue;
      this.#logger.warn('acknowledged records may have been lost: no replica is sure to have all', {
        partition: partitionName(topic.name, partition),
        best: after.isr[0],
        leaderEpoch: after.leaderEpoch,
      });
    }
    this.#topics(
      'topic created',
      delta.createdTopics.map(({ name, partitions }) => ({
        topic: name,
        partitions: partitions.length,
      })),
    );
    this.#topics(
      'topic deleted',
      delta.removedTopics.map(({ name }) => ({ topic: name })),
    );
    this.#topics(
      'topic settings changed',
      delta.reconfiguredTopics.map(({ name }) => ({ topic: name })),
    );
  }

  #broker({ before, after }: BrokerDelta): void {
    const facts = { broker: after.id, brokerEpoch: after.epoch };
    if (before?.epoch !== after.epoch) {
      const { peerAddress: address, rack } = after;
      this.#logger.info('broker registered', { ...facts, address, ...(rack !== '' && { rack }) });
      if (after.fenced) return;
    }
    if (after.fenced && before?.fenced === false) {
      const known = this.#reasons.get(after.id);
      const reason = known?.epoch === after.epoch ? known.reason : 'decided before this controller';
      this.#reasons.delete(after.id);
      this.#fencings.add(1);
      this.#logger.info('broker fenced', { ...facts, reason });
    } else if (!after.fenced && before?.fenced !== false) {
      this.#logger.info('broker unfenced', facts);
    }
    if (after.shuttingDown && before?.shuttingDown !== true) {
      this.#logger.info('broker is shutting down', facts);
    }
  }

  #leaders(event: string, changes: readonly PartitionDelta[]): void {
    if (changes.length === 0) return;
    if (changes.length > LINES_MAX) {
      const from = tally(changes.map(({ before }) => before?.leader ?? NO_BROKER));
      const to = tally(changes.map(({ after }) => after.leader));
      this.#logger.info(event, { partitions: changes.length, from, to });
      return;
    }
    for (const { topic, partition, before, after } of changes) {
      this.#logger.info(event, {
        partition: partitionName(topic.name, partition),
        from: before?.leader,
        to: after.leader,
        leaderEpoch: after.leaderEpoch,
        isr: after.isr,
      });
    }
  }

  #isr(event: string, changes: readonly PartitionDelta[]): void {
    if (changes.length === 0) return;
    if (changes.length > LINES_MAX) {
      const brokers = tally(
        changes.flatMap(({ before, after }) => differing(before?.isr ?? [], after.isr)),
      );
      this.#logger.info(event, { partitions: changes.length, brokers });
      return;
    }
    for (const { topic, partition, before, after } of changes) {
      this.#logger.info(event, {
        partition: partitionName(topic.name, partition),
        from: before?.isr,
        to: after.isr,
      });
    }
  }

  #topics(event: string, topics: readonly { readonly topic: string }[]): void {
    if (topics.length > LINES_MAX) this.#logger.info(event, { topics: topics.length });
    else for (const topic of topics) this.#logger.info(event, topic);
  }
}

const size = (partition: PartitionDelta['before']): number => partition?.isr.length ?? 0;

/** From a leader that could have gone on to the preferred one. */
const isHandedBack = ({ before, after }: PartitionDelta, image: ClusterImage): boolean =>
  after.leader === preferredLeader(after) &&
  before !== undefined &&
  before.leader !== NO_BROKER &&
  after.isr.includes(before.leader) &&
  image.brokers.get(before.leader)?.shuttingDown === false;

const differing = (a: readonly BrokerId[], b: readonly BrokerId[]): BrokerId[] => [
  ...a.filter((member) => !b.includes(member)),
  ...b.filter((member) => !a.includes(member)),
];

/** `2: 850, 3: 850`: how often each broker occurs. */
function tally(brokers: readonly BrokerId[]): string {
  const counts = new Map<BrokerId, number>();
  for (const broker of brokers) counts.set(broker, (counts.get(broker) ?? 0) + 1);
  return [...counts]
    .sort(([a], [b]) => a - b)
    .map(([broker, count]) => `${broker}: ${count}`)
    .join(', ');
}
