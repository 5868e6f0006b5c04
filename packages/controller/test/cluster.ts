/** A controller without a quorum: decides, and replays at once. */
import { brokerId, logIndex, term } from '@relevo/base/ids';
import type { BrokerEpoch, BrokerId, Uuid } from '@relevo/base/ids';
import type { ErrorCode } from '@relevo/base/errors';
import { RelevoError } from '@relevo/base/errors';
import type {
  AnswerOf,
  ClusterDefaults,
  CommandKind,
  CommandOf,
  CreateTopic,
  RegisterBroker,
} from '@relevo/controller/commands';
import { decide } from '@relevo/controller/decide';
import { EMPTY_IMAGE } from '@relevo/controller/image';
import type { ClusterImage, PartitionImage, TopicImage } from '@relevo/controller/image';
import { regressionsOf, violationsOf } from '@relevo/controller/invariants';
import type { MetadataRecord } from '@relevo/controller/records';
import { replay } from '@relevo/controller/replay';
import type { MetadataDelta } from '@relevo/controller/replay';
import { TOPIC_DEFAULTS } from '@relevo/controller/topic-config';

export const DEFAULTS: ClusterDefaults = {
  partitions: 1,
  replicationFactor: 3,
  topic: TOPIC_DEFAULTS,
};

export const id = (value: number): BrokerId => brokerId(value);
export const ids = (...values: number[]): BrokerId[] => values.map(brokerId);
export const topicId = (value: number): Uuid => String(value).padStart(22, 'A') as Uuid;

export class Cluster {
  image: ClusterImage = EMPTY_IMAGE;
  readonly log: MetadataRecord[][] = [];
  defaults: ClusterDefaults;

  constructor(defaults: ClusterDefaults = DEFAULTS) {
    this.defaults = defaults;
    this.run({ kind: 'activate', clusterId: 'test' });
  }

  /** Decides and replays, checking the invariants. */
  run<Kind extends CommandKind>(
    command: CommandOf<Kind> & { readonly kind: Kind },
  ): AnswerOf<Kind> {
    const decision = decide<Kind>(this.image, command, this.defaults);
    if (decision.records.length > 0) this.apply(decision.records);
    return decision.response;
  }

  apply(records: readonly MetadataRecord[]): MetadataDelta {
    const at = { index: logIndex(this.image.index + 1), term: term(1) };
    const { image, delta } = replay(this.image, records, at);
    const broken = [...violationsOf(image), ...regressionsOf(this.image, image)];
    if (broken.length > 0) throw new Error(broken.join('\n'));
    this.image = image;
    this.log.push([...records]);
    return delta;
  }

  /** The code with which the command is refused; NONE if it is not. */
  refusal<Kind extends CommandKind>(command: CommandOf<Kind> & { readonly kind: Kind }): ErrorCode {
    try {
      decide<Kind>(this.image, command, this.defaults);
      return 'NONE';
    } catch (error) {
      if (error instanceof RelevoError) return error.code;
      throw error;
    }
  }

  register(broker: number, more: Partial<RegisterBroker> = {}): BrokerEpoch {
    return this.run(registration(broker, more)).brokerEpoch;
  }

  unfence(broker: number): boolean {
    return this.run({ kind: 'unfenceBroker', ...this.named(broker) }).changed;
  }

  /** All of them in one decision. */
  fence(...brokers: readonly number[]): boolean {
    const named = brokers.map((broker) => this.named(broker));
    return this.run({ kind: 'fenceBrokers', brokers: named }).changed;
  }

  shutDown(broker: number): boolean {
    return this.run({ kind: 'shutDownBroker', ...this.named(broker) }).changed;
  }

  /** The broker says that it cannot use its replica, or can again. */
  report(name: string, broker: number, offline = true): void {
    const topicId = this.topic(name).id;
    const replicas = [{ topicId, partition: 0, offline }];
    this.run({ kind: 'reportReplicas', ...this.named(broker), replicas });
  }

  /** The process starts again on the disk that it had. */
  restart(broker: number, more: Partial<RegisterBroker> = {}): void {
    const incarnationId = `incarnation ${this.log.length} of ${broker}`;
    this.register(broker, { incarnationId, predecessorGone: true, nothingLost: false, ...more });
  }

  start(...brokers: number[]): this {
    for (const broker of brokers) {
      this.register(broker);
      this.unfence(broker);
    }
    return this;
  }

  named(broker: number): { brokerId: BrokerId; brokerEpoch: BrokerEpoch } {
    return { brokerId: id(broker), brokerEpoch: this.epoch(broker) };
  }

  epoch(broker: number): BrokerEpoch {
    const known = this.image.brokers.get(id(broker));
    if (known === undefined) throw new Error(`broker ${broker} is not registered`);
    return known.epoch;
  }

  create(name: string, more: Partial<CreateTopic> = {}): TopicImage {
    this.run(creation(name, this.image.topicsById.size + 1 + this.log.length, more));
    return this.topic(name);
  }

  topic(name: string): TopicImage {
    const topic = this.image.topicsByName.get(name);
    if (topic === undefined) throw new Error(`no topic ${name}`);
    return topic;
  }

  partition(name: string, partition = 0): PartitionImage {
    const known = this.topic(name).partitions[partition];
    if (known === undefined) throw new Error(`no partition ${name}-${partition}`);
    return known;
  }

  /**
   * `1* (2) [3] (4!) e4 v7`: in-sync replicas, the leader starred; others in parentheses, eligible leaders
   * among them in brackets; those offline with a mark; leader epoch, version.
   */
  show(name: string, partition = 0): string {
    const { replicas, isr, elr, offline, leader, leaderEpoch, partitionEpoch } = this.partition(
      name,
      partition,
    );
    const names = replicas.map((replica) => {
      const star = replica === leader ? '*' : '';
      const text = `${replica}${star}${offline.includes(replica) ? '!' : ''}`;
      if (isr.includes(replica)) return text;
      return elr.includes(replica) ? `[${text}]` : `(${text})`;
    });
    return `${names.join(' ')} e${leaderEpoch} v${partitionEpoch}`;
  }

  /** The leader of the partition proposes an in-sync set, on what the image says but for `lies`. */
  propose(
    name: string,
    isr: number[],
    lies: {
      by?: number;
      leaderEpoch?: number;
      partitionEpoch?: number;
      partition?: number;
      epochs?: Record<number, number>;
    } = {},
  ): ErrorCode {
    const topic = this.topic(name);
    const partition = this.partition(name);
    const by = lies.by ?? partition.leader;
    const [outcome] = this.run({
      kind: 'alterPartitions',
      ...this.named(by),
      partitions: [
        {
          topicId: topic.id,
          partition: lies.partition ?? 0,
          leaderEpoch: (partition.leaderEpoch + (lies.leaderEpoch ?? 0)) as never,
          partitionEpoch: (partition.partitionEpoch + (lies.partitionEpoch ?? 0)) as never,
          isr: isr.map((member) => ({
            brokerId: id(member),
            brokerEpoch: ((this.image.brokers.get(id(member))?.epoch ?? 0) +
              (lies.epochs?.[member] ?? 0)) as never,
          })),
        },
      ],
    }).partitions;
    return outcome?.error ?? 'UNKNOWN_SERVER_ERROR';
  }
}

export const registration = (
  broker: number,
  more: Partial<RegisterBroker> = {},
): RegisterBroker => ({
  kind: 'registerBroker',
  clusterId: 'test',
  brokerId: id(broker),
  incarnationId: `incarnation of ${broker}`,
  incarnations: [],
  directoryId: `disk of ${broker}`,
  clientAddress: `host-${broker}:9093`,
  peerAddress: `host-${broker}:9093`,
  listeners: [],
  rack: '',
  predecessorGone: false,
  nothingLost: true,
  ...more,
});

export const creation = (
  name: string,
  number: number,
  more: Partial<CreateTopic> = {},
): CreateTopic => ({
  kind: 'createTopic',
  topicId: topicId(number),
  name,
  partitions: -1,
  replicationFactor: -1,
  config: new Map(),
  assignment: [],
  validateOnly: false,
  seed: 0,
  ...more,
});
