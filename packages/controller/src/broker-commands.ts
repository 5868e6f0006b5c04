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
 * Whoever is fenced leads nothing, and leaves every in-sync set in which somebody else may serve: the others go
 * on without waiting for it. Where nobody else may, all members stay. Nothing is acknowledged while nobody
 * leads, so each of them holds all that was, and whichever comes back with a log in order may lead. For the
 * same reason brokers that are found gone together are fenced in one decision: fenced one after the other, the
 * first would leave a set that is still as large as min.insync.replicas, and nobody would remember it as whole.
 *
 * A registration takes a broker out of an in-sync set only where it may have lost something (K8): everywhere
 * if it comes with another data directory, and after a crash where records are acknowledged before they are
 * fsynced (flush.mode=os). Elsewhere what it had is on its disk, and it stays, though it leads nothing until
 * it serves: after a restart of the whole cluster everybody who was in sync still is, so that any of them
 * may lead, whichever logs turn out damaged. A leader does not wait long for one that has registered
 * anew and does not follow (`LeaderReplica.restarted`), and counts on nothing that it reported before.
 *
 * The last one of a set that may have lost something: with another disk it leaves, and the partition has no
 * leader until somebody allows an unclean election; after a crash under flush.mode=os it leads again, but as
 * after an unclean election. Where `elr` has others, one of them leads.
 *
 * Within a decision, changes of partitions come before the broker's fencing or registration and after
 * its unfencing, so that at no point in between a partition is led by a fenced broker.
 */
import { RelevoError } from '@relevo/base/errors';
import { NO_BROKER } from '@relevo/base/ids';
import { isOlderCopy, numberOfStart } from '@relevo/base/incarnation';
import { isMutated } from '@relevo/base/mutations';
import type { BrokerEpoch, BrokerId } from '@relevo/base/ids';
import type {
  BrokerStateAnswer,
  ClusterDefaults,
  Decision,
  FenceBrokers,
  RegisterBroker,
  RegisterBrokerAnswer,
  ShutDownBroker,
  UnfenceBroker,
} from './commands.ts';
import { changePartition, conditionsOf, rulesOf } from './elections.ts';
import type { BrokerCondition, Conditions, PartitionChange } from './elections.ts';
import type { BrokerImage, ClusterImage, PartitionImage, TopicImage } from './image.ts';
import { isEligible } from './image.ts';
import type { BrokerStateRecord, PartitionChangeRecord } from './records.ts';
import { withoutReplica } from './partition-commands.ts';
import { topicSettings } from './topic-config.ts';

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
  if (known !== undefined) checkNewest(known, command);
  if (known !== undefined && !command.predecessorGone) {
    throw new RelevoError(
      'DUPLICATE_BROKER_REGISTRATION',
      `a broker with id ${brokerId} is alive at ${known.peerAddress}: give this one another node.id, ` +
        'or stop that one; a broker that was killed is forgotten within a session timeout',
    );
  }
  const brokerEpoch: BrokerEpoch = image.nextBrokerEpoch;
  const otherDisk = known !== undefined && known.directoryId !== directoryId;
  const isCrash = known !== undefined && !command.nothingLost;
  const changes = returned(image, defaults, { brokerId, otherDisk, isCrash });
  if (isCrash && !otherDisk) changes.push(...doubts(image, brokerId, changes, defaults));
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
        elr: undefined,
        offline: undefined,
        unclean: true,
      });
    });
  }
  return changes;
}

/**
 * Whoever comes back without knowing of its last registration runs on an older copy of its data directory: what
 * it synced and promised since is not in it (L6). A start that was noted and never registered is no obstacle:
 * the directory names those before it too.
 */
function checkNewest(known: BrokerImage, command: RegisterBroker): void {
  const { brokerId, directoryId, incarnations } = command;
  if (isMutated('older-disk-registers')) return;
  if (known.directoryId !== directoryId || !isOlderCopy(incarnations, known.incarnationId)) return;
  throw new RelevoError(
    'OLDER_DATA_DIRECTORY',
    `the data directory of broker ${brokerId} is an older copy: the cluster has seen start ` +
      `${numberOfStart(known.incarnationId)} of it, which it does not know of. What was promised since is not ` +
      'in it: wipe it and start the broker again; it copies its replicas from the others',
  );
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
  { brokers }: FenceBrokers,
  defaults: ClusterDefaults,
): Decision<BrokerStateAnswer> {
  const known = brokers.flatMap((named) => current(image, named) ?? []);
  const changes = withdraw(
    image,
    defaults,
    known.map(({ id }) => id),
    'gone',
  );
  // One that is fenced already has registered and was not heard of since: the others wait for it no longer.
  const states = known
    .filter(({ fenced }) => !fenced)
    .map(({ id, epoch }): BrokerStateRecord => ({
      kind: 'brokerState',
      brokerId: id,
      brokerEpoch: epoch,
      fenced: true,
      shuttingDown: false,
    }));
  const records = [...changes, ...states];
  return { records, atomic: false, response: { changed: records.length > 0 } };
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
      ? { isr: partition.isr }
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
  const changes = withdraw(image, defaults, [brokerId], 'stopping');
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

/** Takes the brokers off leadership, and out of in-sync sets of which others may serve. */
function withdraw(
  image: ClusterImage,
  defaults: ClusterDefaults,
  leaving: readonly BrokerId[],
  becomes: BrokerCondition,
): PartitionChangeRecord[] {
  const conditions = conditionsOf(image, new Map(leaving.map((id) => [id, becomes])));
  return changeWhere(image, defaults, conditions, ({ isr, leader }) => {
    if (!isr.some((id) => leaving.includes(id)) && !leaving.includes(leader)) return undefined;
    const others = isr.filter((id) => !leaving.includes(id));
    return { isr: others.some((id) => conditions(id) !== 'gone') ? others : isr };
  });
}

/** What becomes of a broker's replicas when it registers anew; see the head of this file. */
function returned(
  image: ClusterImage,
  defaults: ClusterDefaults,
  how: { readonly brokerId: BrokerId; readonly otherDisk: boolean; readonly isCrash: boolean },
): PartitionChangeRecord[] {
  const { brokerId, otherDisk, isCrash } = how;
  const conditions = conditionsOf(image, new Map([[brokerId, 'gone']]));
  return changeWhere(image, defaults, conditions, (partition, topic) => {
    const { replicas, isr } = partition;
    if (!replicas.includes(brokerId)) return undefined;
    if (otherDisk) {
      const offline = partition.offline.filter((other) => other !== brokerId);
      return { isr: isr.filter((member) => member !== brokerId), lost: [brokerId], offline };
    }
    const syncs = topicSettings(topic.config, defaults.topic).flushMode !== 'os';
    const keepsAll = (syncs || !isCrash) && !isMutated('registration-leaves-isr');
    // What was offline stays so until the broker says otherwise: its disk may have lost what it noted of that.
    return keepsAll ? { isr } : withoutReplica(partition, brokerId);
  });
}

/** A change of each partition for which `wanted` names an in-sync set, where that changes anything. */
function changeWhere(
  image: ClusterImage,
  defaults: ClusterDefaults,
  conditions: Conditions,
  wanted: (
    partition: PartitionImage,
    topic: TopicImage,
  ) => Pick<PartitionChange, 'isr' | 'lost' | 'offline'> | undefined,
): PartitionChangeRecord[] {
  const changes: PartitionChangeRecord[] = [];
  for (const topic of image.topicsById.values()) {
    const rules = rulesOf(topic.config, defaults.topic);
    for (let partition = 0; partition < topic.partitions.length; partition++) {
      const known = topic.partitions[partition];
      const want = known === undefined ? undefined : wanted(known, topic);
      if (known === undefined || want === undefined) continue;
      const change = changePartition({
        topicId: topic.id,
        partition,
        image: known,
        ...want,
        conditions,
        rules,
      });
      if (change !== undefined) changes.push(change);
    }
  }
  return changes;
}
