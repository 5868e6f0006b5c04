/**
 * A broker's way through the cluster, as the image knows it:
 *
 *   state          │ register      │ unfence  │ shut down      │ fence
 *   ───────────────┼───────────────┼──────────┼────────────────┼─────────
 *   (unknown)      │ fenced        │ -        │ -              │ -
 *   fenced         │ fenced, epoch │ serving  │ -              │ -
 *   serving        │ fenced, epoch │ -        │ shutting down  │ fenced
 *   shutting down  │ fenced, epoch │ -        │ again          │ fenced
 *
 * "-" changes nothing. "epoch": under a new broker epoch; the same incarnation keeps the one it has.
 *
 * Whoever is fenced leads nothing and is in no in-sync set but those where it is the last: it holds all
 * that was acknowledged there, and nobody else is sure to. Only a broker that comes back with another
 * data directory leaves those too (K8): its copy is gone, and such a partition has no leader until
 * somebody allows an unclean election. One that crashed may have lost the end of what was not fsynced
 * before it was acknowledged (flush.mode=os): it leads again, but as after an unclean election.
 *
 * Within a decision, changes of partitions come before the broker's fencing or registration and after
 * its unfencing, so that at no point in between a partition is led by a fenced broker.
 */
import { RelevoError } from '@relevo/base/errors';
import { NO_BROKER } from '@relevo/base/ids';
import type { BrokerEpoch, BrokerId } from '@relevo/base/ids';
import type {
  BrokerStateAnswer,
  ClusterDefaults,
  Decision,
  FenceBroker,
  RegisterBroker,
  RegisterBrokerAnswer,
  ShutDownBroker,
  UnfenceBroker,
} from './commands.ts';
import { changePartition, conditionsOf } from './elections.ts';
import type { BrokerCondition, Conditions } from './elections.ts';
import type { BrokerImage, ClusterImage, PartitionImage } from './image.ts';
import { isEligible } from './image.ts';
import type { PartitionChangeRecord } from './records.ts';
import { topicSettings, uncleanAllowed } from './topic-config.ts';

export function decideRegistration(
  image: ClusterImage,
  command: RegisterBroker,
  defaults: ClusterDefaults,
): Decision<RegisterBrokerAnswer> {
  const { brokerId, incarnationId, directoryId } = command;
  checkCluster(image, command);
  const known = image.brokers.get(brokerId);
  if (known?.incarnationId === incarnationId) {
    return { records: [], atomic: false, response: { brokerEpoch: known.epoch } };
  }
  if (known !== undefined && !command.predecessorGone) {
    throw new RelevoError(
      'DUPLICATE_BROKER_REGISTRATION',
      `a broker with id ${brokerId} is alive at ${known.peerAddress}: give this one another node.id, ` +
        'or stop that one; a broker that was killed is forgotten within a session timeout',
    );
  }
  const brokerEpoch: BrokerEpoch = image.nextBrokerEpoch;
  const otherDisk = known !== undefined && known.directoryId !== directoryId;
  const changes = withdraw(image, defaults, {
    brokerId,
    becomes: 'gone',
    evenWhereLast: otherDisk,
  });
  if (!command.nothingLost && !otherDisk)
    changes.push(...doubts(image, brokerId, changes, defaults));
  const { clientAddress, peerAddress, rack, listeners } = command;
  return {
    records: [
      ...changes,
      {
        kind: 'brokerRegistration',
        brokerId,
        brokerEpoch,
        incarnationId,
        directoryId,
        clientAddress,
        peerAddress,
        rack,
        listeners,
      },
    ],
    atomic: false,
    response: { brokerEpoch },
  };
}

/**
 * Of partitions that trust the page cache (flush.mode=os) and whose last in-sync replica has crashed: what
 * it had not synced may be gone, though acknowledged. It still is the best copy there is, so it stays in
 * the in-sync set; but whoever leads next does so as after an unclean election.
 */
function doubts(
  image: ClusterImage,
  brokerId: BrokerId,
  decided: readonly PartitionChangeRecord[],
  defaults: ClusterDefaults,
): PartitionChangeRecord[] {
  const changes: PartitionChangeRecord[] = [];
  // An unclean election has put another one in its place there.
  const replaced = new Set(
    decided.flatMap(({ topicId, partition, isr }) =>
      isr === undefined ? [] : [`${topicId} ${partition}`],
    ),
  );
  for (const topic of image.topicsById.values()) {
    if (topicSettings(topic.config, defaults.topic).flushMode !== 'os') continue;
    topic.partitions.forEach(({ isr }, partition) => {
      if (isr.length !== 1 || isr[0] !== brokerId) return;
      if (replaced.has(`${topic.id} ${partition}`)) return;
      changes.push({
        kind: 'partitionChange',
        topicId: topic.id,
        partition,
        leader: NO_BROKER,
        isr: undefined,
        unclean: true,
      });
    });
  }
  return changes;
}

function checkCluster(image: ClusterImage, command: RegisterBroker): void {
  if (image.clusterId === command.clusterId) return;
  throw new RelevoError(
    'INCONSISTENT_CLUSTER_ID',
    `broker ${command.brokerId} is configured for cluster "${command.clusterId}", this is ` +
      `"${image.clusterId ?? ''}": correct cluster.id or the addresses of the controllers`,
  );
}

export function decideFence(
  image: ClusterImage,
  command: FenceBroker,
  defaults: ClusterDefaults,
): Decision<BrokerStateAnswer> {
  const { brokerId } = command;
  const broker = current(image, command);
  if (broker === undefined || broker.fenced) return UNCHANGED;
  return {
    records: [
      ...withdraw(image, defaults, { brokerId, becomes: 'gone', evenWhereLast: false }),
      {
        kind: 'brokerState',
        brokerId,
        brokerEpoch: broker.epoch,
        fenced: true,
        shuttingDown: false,
      },
    ],
    atomic: false,
    response: { changed: true },
  };
}

export function decideUnfence(
  image: ClusterImage,
  command: UnfenceBroker,
  defaults: ClusterDefaults,
): Decision<BrokerStateAnswer> {
  const { brokerId } = command;
  const broker = current(image, command);
  if (broker === undefined || !broker.fenced) return UNCHANGED;
  const conditions = conditionsOf(image, new Map([[brokerId, 'eligible']]));
  const changes = changeWhere(image, defaults, conditions, (partition) =>
    partition.replicas.includes(brokerId) && conditions(partition.leader) !== 'eligible'
      ? partition.isr
      : undefined,
  );
  return {
    records: [
      {
        kind: 'brokerState',
        brokerId,
        brokerEpoch: broker.epoch,
        fenced: false,
        shuttingDown: false,
      },
      ...changes,
    ],
    atomic: false,
    response: { changed: true },
  };
}

export function decideShutdown(
  image: ClusterImage,
  command: ShutDownBroker,
  defaults: ClusterDefaults,
): Decision<BrokerStateAnswer> {
  const { brokerId } = command;
  const broker = current(image, command);
  if (broker === undefined || broker.fenced) return UNCHANGED;
  const changes = withdraw(image, defaults, {
    brokerId,
    becomes: 'stopping',
    evenWhereLast: false,
  });
  if (broker.shuttingDown && changes.length === 0) return UNCHANGED;
  return {
    records: [
      {
        kind: 'brokerState',
        brokerId,
        brokerEpoch: broker.epoch,
        fenced: false,
        shuttingDown: true,
      },
      ...changes,
    ],
    atomic: false,
    response: { changed: true },
  };
}

/**
 * Leaderships that keep a stopping broker from going: those that another replica may still take over,
 * once it is in sync. What nobody else could lead goes offline with the broker in any case.
 */
export function leadershipsToMove(image: ClusterImage, brokerId: BrokerId): number {
  let count = 0;
  for (const topic of image.topicsById.values()) {
    for (const { leader, replicas } of topic.partitions) {
      if (leader === brokerId && replicas.some((id) => id !== leader && isEligible(image, id))) {
        count++;
      }
    }
  }
  return count;
}

const UNCHANGED: Decision<BrokerStateAnswer> = {
  records: [],
  atomic: false,
  response: { changed: false },
};

function current(
  image: ClusterImage,
  command: { readonly brokerId: BrokerId; readonly brokerEpoch: BrokerEpoch },
): BrokerImage | undefined {
  const broker = image.brokers.get(command.brokerId);
  return broker?.epoch === command.brokerEpoch ? broker : undefined;
}

/** Takes the broker out of in-sync sets and off leadership. */
function withdraw(
  image: ClusterImage,
  defaults: ClusterDefaults,
  how: {
    readonly brokerId: BrokerId;
    readonly becomes: BrokerCondition;
    /** Out of sets too where it is the only member. */
    readonly evenWhereLast: boolean;
  },
): PartitionChangeRecord[] {
  const { brokerId, evenWhereLast } = how;
  const conditions = conditionsOf(image, new Map([[brokerId, how.becomes]]));
  return changeWhere(image, defaults, conditions, ({ isr, leader }) => {
    if (!isr.includes(brokerId) && leader !== brokerId) return undefined;
    return isr.length > 1 || evenWhereLast ? isr.filter((member) => member !== brokerId) : isr;
  });
}

/** A change of each partition for which `wanted` names an in-sync set, where that changes anything. */
function changeWhere(
  image: ClusterImage,
  defaults: ClusterDefaults,
  conditions: Conditions,
  wanted: (partition: PartitionImage) => readonly BrokerId[] | undefined,
): PartitionChangeRecord[] {
  const changes: PartitionChangeRecord[] = [];
  for (const topic of image.topicsById.values()) {
    const unclean = uncleanAllowed(topic.config, defaults.topic);
    for (let partition = 0; partition < topic.partitions.length; partition++) {
      const known = topic.partitions[partition];
      const isr = known === undefined ? undefined : wanted(known);
      if (known === undefined || isr === undefined) continue;
      const change = changePartition({
        topicId: topic.id,
        partition,
        image: known,
        isr,
        conditions,
        uncleanAllowed: unclean,
      });
      if (change !== undefined) changes.push(change);
    }
  }
  return changes;
}
