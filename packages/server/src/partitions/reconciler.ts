/**
 * Makes the replicas on this broker what the image says they are. Changes name partitions; each is then
 * compared with the image *as it is when its turn comes*, so that what was overtaken is never acted on,
 * and a step may be repeated without harm.
 *
 *     image says                          this broker
 *     ──────────                          ───────────
 *     led here, another epoch than now    opens the log, begins the epoch
 *     led here, same epoch                takes the in-sync set over
 *     led elsewhere, another epoch        follows
 *     no leader                           keeps the log, idle
 *     no replica here, or no such topic   deletes the log, of that topic id alone
 *
 * A log that held records and whose directory is gone is not made anew as an empty one: the replica is
 * offline, like one whose log is damaged (`upkeep.ts`).
 *
 * For some milliseconds at a time: between them the loop turns, so that thousands of partitions starve no
 * heartbeat. One that a client wants has its turn at once. Nothing is done before the image shows this broker under the epoch that it has in this life:
 * until then the image may speak of the life before, whose leader epochs must not be taken up again (P2).
 */
import { assert } from '@relevo/base/assert';
import { messageOf } from '@relevo/base/errors';
import { NO_BROKER } from '@relevo/base/ids';
import type { BrokerEpoch, BrokerId, Uuid } from '@relevo/base/ids';
import { DiskError } from '@relevo/base/ports';
import type { Clock, Disk, Logger, Timers } from '@relevo/base/ports';
import type { ClusterImage, PartitionImage, TopicImage } from '@relevo/controller/image';
import type { MetadataDelta } from '@relevo/controller/replay';
import { minInSync, topicSettings } from '@relevo/controller/topic-config';
import type { TopicSettings } from '@relevo/controller/topic-config';
import { DEFAULT_LOG_CONFIG } from '@relevo/log/log-config';
import type { LogConfig } from '@relevo/log/log-config';
import type { LogDirectory } from '@relevo/log/log-directory';
import { LogError } from '@relevo/log/log-error';
import type { PartitionLog } from '@relevo/log/partition-log';
import { setAsideDirectory } from '@relevo/log/partition-directory';
import { Partition } from './partition.ts';
import type { PartitionDeps } from './partition.ts';
import type { PartitionTable } from './partition-table.ts';
import { Recoveries } from './recoveries.ts';
import type { RecoveryProgress } from './recoveries.ts';
import type { StrayDirectories } from './stray-directories.ts';

/** For so long partitions are taken up before the loop turns; heartbeats and Raft have their turn then. */
const TURN_MS = 10;
/** Before a log for which there was no room is tried again. */
const DISK_FULL_RETRY_MS = 5_000;
/** How often the broker epoch is compared with the image until they agree. */
const REGISTRATION_POLL_MS = 10;

export interface ReconcilerDeps {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly disk: Disk;
  readonly logger: Logger;
  readonly directory: LogDirectory;
  readonly table: PartitionTable;
  readonly partition: PartitionDeps;
  readonly image: () => ClusterImage;
  readonly brokerEpoch: () => BrokerEpoch | undefined;
  readonly localId: BrokerId;
  readonly topicDefaults: TopicSettings;
  readonly strays: StrayDirectories;
}

interface Key {
  readonly topicId: Uuid;
  readonly partition: number;
}

/** What was done since the last line in the log that told of it. */
interface Tally {
  leading: number;
  following: number;
  idle: number;
  deleted: number;
  /** Named while there are few. */
  names: string[];
}

const NAMES_MAX = 5;

export class Reconciler {
  readonly #deps: ReconcilerDeps;
  readonly #queue = new Map<string, Key>();
  /** By topic; the image's topics are immutable, so that a new one means new settings. */
  readonly #settings = new WeakMap<TopicImage, TopicSettings>();
  readonly #byName = new Map<string, Partition>();
  /** Told of already. */
  readonly #withoutRoom = new Set<string>();
  readonly #deleting = new Map<string, Promise<void>>();
  readonly #recoveries: Recoveries;
  #stray: readonly string[] = [];
  #scheduled = false;
  #registered = false;
  #closed = false;
  #tally: Tally = newTally();

  constructor(deps: ReconcilerDeps) {
    this.#deps = deps;
    this.#recoveries = new Recoveries({
      ...deps,
      opened: (partition, log) => this.#recovered(partition, log),
      failed: (partition, error) => this.#notRecovered(partition, error),
    });
  }

  /** Logs of the last run that are not open yet; undefined: none. */
  get recovering(): RecoveryProgress | undefined {
    return this.#recoveries.progress;
  }
  /** Partitions that wait for their turn. */
  get pending(): number {
    return this.#queue.size;
  }
  /** Directories of partitions that the image does not place here: kept, for people to look at. */
  get stray(): readonly string[] {
    return this.#stray;
  }
  get isRegistered(): boolean {
    return this.#registered;
  }

  start(): void {
    this.#awaitRegistration();
  }

  applyImage(delta: MetadataDelta): void {
    if (!this.#registered) return;
    // What goes makes room for what may come under the same name.
    for (const topic of delta.removedTopics) this.#addAll(topic);
    for (const { topic, partition } of delta.partitions) this.#add(topic.id, partition);
    for (const topic of delta.reconfiguredTopics) this.#addAll(topic);
  }

  /** Somebody wants it: if it waits for its turn, this is it. */
  takeUp(topicId: string, partition: number): void {
    if (this.#queue.size > 0) {
      const id = `${topicId}-${partition}`;
      const key = this.#queue.get(id);
      if (key !== undefined) {
        this.#queue.delete(id);
        this.#reconcileAlone(key);
      }
    }
    if (this.recovering === undefined) return;
    const found = this.#deps.table.find(topicId, partition);
    if (found !== undefined) this.#recoveries.want(found);
  }

  /** Begins anew with a replica whose log was set aside. */
  again(partition: Partition): void {
    this.#deps.table.remove(partition);
    this.#byName.delete(partition.name);
    this.#add(partition.topicId, partition.number);
  }

  close(): void {
    this.#closed = true;
    this.#queue.clear();
    this.#recoveries.close();
  }

  /** The settings in force on the topic. */
  settingsOf(topic: TopicImage): TopicSettings {
    let settings = this.#settings.get(topic);
    if (settings === undefined) {
      settings = topicSettings(topic.config, this.#deps.topicDefaults);
      this.#settings.set(topic, settings);
    }
    return settings;
  }

  // ---------------------------------------------------------------------------------- the queue

  readonly #awaitRegistration = (): void => {
    if (this.#closed) return;
    const { brokerEpoch, image, localId, timers } = this.#deps;
    const epoch = brokerEpoch();
    if (epoch === undefined || image().brokers.get(localId)?.epoch !== epoch) {
      timers.after(REGISTRATION_POLL_MS, this.#awaitRegistration);
      return;
    }
    this.#registered = true;
    for (const topic of image().topicsById.values()) this.#addAll(topic);
    this.#takeStock();
  };

  #addAll(topic: TopicImage): void {
    for (const number of topic.partitions.keys()) this.#add(topic.id, number);
  }

  #add(topicId: Uuid, partition: number): void {
    const { image, table, localId } = this.#deps;
    const known = image().topicsById.get(topicId)?.partitions[partition];
    const isHere = table.find(topicId, partition) !== undefined;
    if (!isHere && known?.replicas.includes(localId) !== true) return;
    this.#queue.set(`${topicId}-${partition}`, { topicId, partition });
    if (this.#scheduled) return;
    this.#scheduled = true;
    this.#deps.timers.soon(this.#work);
  }

  readonly #work = (): void => {
    this.#scheduled = false;
    const { clock } = this.#deps;
    const untilMs = clock.monotonicMs() + TURN_MS;
    for (const [id, key] of this.#queue) {
      if (this.#closed) return;
      this.#queue.delete(id);
      this.#reconcileAlone(key);
      if (clock.monotonicMs() >= untilMs) break;
    }
    if (this.#queue.size > 0) {
      this.#scheduled = true;
      this.#deps.timers.soon(this.#work);
    } else {
      this.#report();
    }
  };

  // ------------------------------------------------------------------------------- one partition

  /** What the disk does to one partition stays with that one. */
  #reconcileAlone(key: Key): void {
    try {
      this.#reconcile(key);
    } catch (error) {
      if (!(error instanceof LogError || error instanceof DiskError)) throw error;
      const partition = this.#deps.table.find(key.topicId, key.partition);
      partition?.fail(error.message, isDamage(error));
    }
  }

  #reconcile(key: Key): void {
    const { image, table, localId } = this.#deps;
    const topic = image().topicsById.get(key.topicId);
    const wanted = topic?.partitions[key.partition];
    const partition = table.find(key.topicId, key.partition);
    if (topic === undefined || wanted === undefined || !wanted.replicas.includes(localId)) {
      if (partition !== undefined) this.#delete(partition);
      return;
    }
    const replica = partition ?? this.#host(topic, key.partition);
    // Deleted under the same name not long ago: looked at again when that is through.
    if (replica === undefined || replica.failure !== undefined) return;
    const settings = this.settingsOf(topic);
    if (this.#recoveries.has(replica)) return;
    if (replica.isOpen) configure(replica, settings);
    else this.#open(replica, wanted, settings);
    if (!replica.isOpen || replica.failure !== undefined) return;
    if (!wanted.offline.includes(localId)) this.#deps.directory.settled(replica.name);
    this.#assign(replica, wanted, settings);
  }

  #host(topic: TopicImage, number: number): Partition | undefined {
    const identity = { topicId: topic.id, topic: topic.name, number };
    const partition = new Partition(identity, this.#deps.partition);
    // A topic of this name that was deleted, and whose turn has not come.
    const other = this.#byName.get(partition.name);
    if (other !== undefined) this.#delete(other);
    const deleting = this.#deleting.get(partition.name);
    if (deleting !== undefined) {
      void deleting.then(() => this.#add(topic.id, number));
      return undefined;
    }
    this.#deps.table.add(partition);
    this.#byName.set(partition.name, partition);
    return partition;
  }

  #open(partition: Partition, wanted: PartitionImage, settings: TopicSettings): void {
    const { directory, clock } = this.#deps;
    const { topic, number, topicId, name } = partition;
    const options = {
      topic,
      partition: number,
      topicId,
      config: logConfigOf(settings),
      nowMs: clock.wallMs(),
      onOffline: (reason: LogError) => partition.fail(reason.message),
    };
    try {
      this.#setForeignAside(partition);
      const isKnown = directory.isNoted(name, topicId);
      if (wanted.offline.includes(this.#deps.localId) && !isKnown) {
        // The disk that failed has not kept the mark; the cluster has.
        directory.distrust(name, topicId);
      }
      if (directory.found(name) === undefined) this.#opened(partition, directory.openLog(options));
      else this.#recoveries.add(partition, options);
    } catch (error) {
      this.#notOpened(partition, error);
    }
  }

  #opened(partition: Partition, log: PartitionLog): void {
    const { directory } = this.#deps;
    partition.opened(log, directory.highWatermark(partition.name));
    this.#withoutRoom.delete(partition.name);
  }

  #recovered(partition: Partition, log: PartitionLog): void {
    // Deleted meanwhile: then its log goes too.
    if (this.#deps.table.find(partition.topicId, partition.number) !== partition) return;
    this.#opened(partition, log);
    this.#reconcileAlone({ topicId: partition.topicId, partition: partition.number });
  }

  #notRecovered(partition: Partition, error: unknown): void {
    if (this.#deps.table.find(partition.topicId, partition.number) !== partition) return;
    this.#notOpened(partition, error);
  }

  #notOpened(partition: Partition, error: unknown): void {
    const { logger } = this.#deps;
    const { topicId, number, name } = partition;
    if (!(error instanceof LogError || error instanceof DiskError)) throw error;
    if (error instanceof LogError && error.kind === 'diskFull') {
      if (!this.#withoutRoom.has(name)) {
        logger.error('no room for a log', { partition: name, why: error.message });
      }
      this.#withoutRoom.add(name);
      this.#deps.timers.after(DISK_FULL_RETRY_MS, () => this.#add(topicId, number));
      return;
    }
    partition.fail(error.message, isDamage(error));
  }

  /** A directory of this name, but of a topic that is not: what it holds stays for people to look at. */
  #setForeignAside(partition: Partition): void {
    const { directory, image } = this.#deps;
    const foreignId = directory.found(partition.name)?.topicId;
    if (foreignId === undefined || foreignId === partition.topicId) return;
    // Its metadata has changed, not its owner: that is damage, which the log itself will say.
    if (directory.heldRecords(partition.name, partition.topicId)) return;
    if (image().topicsById.has(foreignId)) return;
    const why = `it is of the topic id ${foreignId}, which was deleted`;
    this.setAside(partition.name, foreignId, why);
  }

  /** Renames the directory of a log that is not open, durably. */
  setAside(name: string, topicId: Uuid, why: string): void {
    const { disk, directory, clock, logger } = this.#deps;
    const from = directory.pathOf(name);
    directory.makeDirectory(name);
    if (!disk.exists(from)) return;
    const to = setAsideDirectory(from, topicId, clock.wallMs());
    disk.rename(from, to);
    disk.syncDirectoryNow(directory.root);
    logger.warn('a partition directory was set aside', { from, to, why });
    this.#deps.strays.added();
  }

  /** What is known of a log that is gone no longer keeps a new one from its place. */
  forgetLog(name: string): void {
    const { directory, logger } = this.#deps;
    directory.forget(name).catch((error: unknown) => {
      // In force it is; after a restart the log passes for lost once more, and is seen to again.
      logger.warn('could not note that a log is gone', { partition: name, why: messageOf(error) });
    });
  }

  #assign(partition: Partition, wanted: PartitionImage, settings: TopicSettings): void {
    const { localId } = this.#deps;
    const { leader, leaderEpoch, replicas } = wanted;
    if (leader === localId) {
      const minIsr = minInSync(settings, replicas.length);
      if (partition.leader?.replica.leaderEpoch === leaderEpoch) {
        partition.applyLeaderState(wanted, minIsr);
        return;
      }
      partition.becomeLeader(wanted, minIsr);
      this.#count('leading', partition);
    } else if (leader === NO_BROKER) {
      if (partition.leader === undefined && partition.follower === undefined) return;
      partition.becomeIdle();
      this.#count('idle', partition);
    } else if (partition.follower?.replica.leaderEpoch !== leaderEpoch) {
      partition.becomeFollower(leader, leaderEpoch, wanted.uncleanEpoch);
      this.#count('following', partition);
    } else {
      assert(partition.follower.leaderId === leader, 'one leader an epoch', {
        partition: partition.name,
        leaderEpoch,
        leader,
        follows: partition.follower.leaderId,
      });
    }
  }

  #delete(partition: Partition): void {
    const { directory, table, logger } = this.#deps;
    const { name } = partition;
    table.remove(partition);
    this.#byName.delete(name);
    this.#recoveries.drop(partition);
    partition.forget();
    this.#count('deleted', partition);
    const deleting = directory.delete(name).then(
      () => undefined,
      (error: unknown) => {
        logger.error('a log could not be deleted', { partition: name, why: messageOf(error) });
      },
    );
    this.#deleting.set(name, deleting);
    void deleting.then(() => {
      if (this.#deleting.get(name) === deleting) this.#deleting.delete(name);
    });
  }

  // ---------------------------------------------------------------------------- what people see

  #takeStock(): void {
    const { directory, image, localId, logger, strays } = this.#deps;
    for (const { name, topic, topicId, partition } of directory.lost) {
      const { topicsById, topicsByName } = image();
      const known = topicId === undefined ? topicsByName.get(topic) : topicsById.get(topicId);
      if (known?.partitions[partition]?.replicas.includes(localId) === true) continue;
      logger.info('a partition directory is gone that nobody needs', { partition: name });
      this.forgetLog(name);
    }
    this.#stray = directory.partitions
      .filter(({ topicId, partition }) => {
        if (strays.isOfDeletedTopic(topicId)) return false;
        const topic = topicId === undefined ? undefined : image().topicsById.get(topicId);
        return topic?.partitions[partition]?.replicas.includes(localId) !== true;
      })
      .map(({ name }) => name);
    if (this.#stray.length === 0) return;
    logger.warn('stray partition directories: the cluster does not place these replicas here', {
      count: this.#stray.length,
      names: this.#stray.slice(0, NAMES_MAX),
      do: 'they are kept; remove them when you are sure that nobody needs them',
    });
  }

  #count(what: keyof Omit<Tally, 'names'>, partition: Partition): void {
    this.#tally[what] += 1;
    if (this.#tally.names.length <= NAMES_MAX) this.#tally.names.push(partition.name);
  }

  #report(): void {
    const { leading, following, idle, deleted, names } = this.#tally;
    const total = leading + following + idle + deleted;
    if (total === 0) return;
    this.#tally = newTally();
    const named = total <= NAMES_MAX ? { partitions: names } : {};
    const counts = { leading, following, withoutLeader: idle, deleted };
    const told = Object.entries(counts).filter(([, count]) => count > 0);
    this.#deps.logger.info('replicas took up their parts', {
      ...Object.fromEntries(told),
      ...named,
    });
  }
}

const isDamage = (error: Error): boolean => error instanceof LogError && error.kind === 'corrupt';

const newTally = (): Tally => ({ leading: 0, following: 0, idle: 0, deleted: 0, names: [] });

function configure(partition: Partition, settings: TopicSettings): void {
  const { log } = partition;
  if (log.state !== 'online') return;
  const config = logConfigOf(settings);
  if (sameConfig(config, log.config)) return;
  log.configure(config);
  // With flush.mode=sync from now on, what came before it is not durable yet.
  partition.sync();
}

const logConfigOf = (settings: TopicSettings): LogConfig => ({
  ...DEFAULT_LOG_CONFIG,
  segmentBytes: settings.segmentBytes,
  segmentMs: settings.segmentMs,
  indexIntervalBytes: settings.indexIntervalBytes,
  retentionMs: settings.retentionMs,
  retentionBytes: settings.retentionBytes,
  maxMessageBytes: settings.maxMessageBytes,
  timestampType: settings.messageTimestampType,
  flushMode: settings.flushMode,
});

const sameConfig = (a: LogConfig, b: LogConfig): boolean =>
  a.segmentBytes === b.segmentBytes &&
  a.segmentMs === b.segmentMs &&
  a.indexIntervalBytes === b.indexIntervalBytes &&
  a.retentionMs === b.retentionMs &&
  a.retentionBytes === b.retentionBytes &&
  a.maxMessageBytes === b.maxMessageBytes &&
  a.timestampType === b.timestampType &&
  a.flushMode === b.flushMode;
