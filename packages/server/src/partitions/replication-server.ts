/**
 * Replication as the leader's broker serves it: takes followers' streams, judges their positions, and
 * reports what they have made durable. One stream for each follower; a new one replaces the old.
 *
 * A subscription under an epoch that this broker has not heard of yet is kept until its image has caught
 * up, so that a failover costs no poll interval; one under an older epoch is refused.
 */
import { ERRORS } from '@relevo/base/errors';
import type { ErrorCode } from '@relevo/base/errors';
import type { BrokerEpoch, BrokerId, LeaderEpoch, Offset } from '@relevo/base/ids';
import { RpcError, route } from '@relevo/base/ports';
import type {
  Clock,
  Logger,
  MessageStream,
  PeerInfo,
  Route,
  StreamEvents,
  Timers,
} from '@relevo/base/ports';
import { judgePosition } from '@relevo/broker/divergence';
import type { ClusterImage } from '@relevo/controller/image';
import { ReplicationService as methods } from '@relevo/rpc/gen/cluster/replication';
import type {
  DamagedPart,
  FollowerHello,
  FollowerMessage,
  FollowerPosition,
  LeaderMessage,
} from '@relevo/rpc/gen/cluster/replication';
import { checkSpeaksFor } from '../security/caller.ts';
import { partitionImage } from './current-leader.ts';
import type { DamageChecks } from './damage-checks.ts';
import type { LeaderRole, Partition } from './partition.ts';
import type { PartitionMetrics } from './partition-metrics.ts';
import type { PartitionTable } from './partition-table.ts';
import { ReplicationSession } from './replication-session.ts';
import type { Turn } from './turn.ts';

/** Subscriptions of one stream that wait for this broker's image; above it they are refused. */
export const PARKED_MAX = 100_000;

export interface ReplicationServerDeps {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly turn: Turn;
  readonly logger: Logger;
  readonly metrics: PartitionMetrics;
  readonly table: PartitionTable;
  readonly clusterId: string;
  readonly localId: BrokerId;
  readonly image: () => ClusterImage;
  readonly brokerEpoch: () => BrokerEpoch;
  readonly reviewIsr: (partition: Partition) => void;
  readonly checks: DamageChecks;
}

interface Parked {
  readonly session: ReplicationSession;
  readonly position: FollowerPosition;
}

export class ReplicationServer {
  readonly #deps: ReplicationServerDeps;
  readonly #sessions = new Map<BrokerId, ReplicationSession>();
  readonly #tookUpMs = new Map<BrokerId, number>();
  /** By topic id and partition. */
  readonly #parked = new Map<string, Parked[]>();
  #parkedCount = 0;
  #closed = false;

  constructor(deps: ReplicationServerDeps) {
    this.#deps = deps;
  }

  routes(): Route[] {
    return [route(methods.replicate, (stream, caller) => this.#open(stream, caller))];
  }

  /** The brokers whose streams are up. */
  get followers(): readonly BrokerId[] {
    return [...this.#sessions.keys()];
  }

  /** See `BrokerView`. */
  tookUpMs(broker: BrokerId): number | undefined {
    return this.#tookUpMs.get(broker);
  }

  /** The partition's part on this broker has begun or ended: whoever waited for it is looked at again. */
  roleChanged(partition: Partition): void {
    const key = keyOf(partition.topicId, partition.number);
    const parked = this.#parked.get(key);
    if (parked === undefined) return;
    this.#parked.delete(key);
    this.#parkedCount -= parked.length;
    for (const { session, position } of parked) {
      if (this.#sessions.get(session.brokerId) === session) this.#subscribe(session, position);
    }
  }

  close(): void {
    this.#closed = true;
    for (const session of this.#sessions.values()) session.close();
    this.#sessions.clear();
    this.#parked.clear();
  }

  // ---------------------------------------------------------------------------------- streams

  #open(stream: MessageStream<LeaderMessage>, caller: PeerInfo): StreamEvents<FollowerMessage> {
    let session: ReplicationSession | undefined;
    return {
      onMessage: (message) => {
        if (message.hello !== undefined && session === undefined) {
          checkSpeaksFor(caller, message.hello.brokerId);
          session = this.#greet(message.hello, stream);
          if (session === undefined) return;
        }
        if (session === undefined) {
          stream.cancel(new RpcError('INVALID_ARGUMENT', 'a replication stream begins with hello'));
          return;
        }
        this.#take(session, message);
      },
      onDrain: () => session?.drained(),
      onEnd: () => {
        if (session !== undefined) this.#lost(session);
      },
    };
  }

  #greet(
    hello: FollowerHello,
    stream: MessageStream<LeaderMessage>,
  ): ReplicationSession | undefined {
    const refusal = this.#refusalOf(hello);
    if (refusal !== undefined) {
      const { code, message } = refusal;
      stream.cancel(new RpcError(ERRORS[code].status, message, { code }));
      return undefined;
    }
    // The numbers have been compared with those of a registered broker.
    const brokerId = hello.brokerId as BrokerId;
    const brokerEpoch = hello.brokerEpoch as BrokerEpoch;
    const { turn, timers, metrics, localId } = this.#deps;
    const before = this.#sessions.get(brokerId);
    if (before !== undefined) {
      before.cancel('the broker has opened another stream');
      this.#lost(before);
    }
    stream.send({ hello: { brokerId: localId, brokerEpoch: this.#deps.brokerEpoch() }, parts: [] });
    const session = new ReplicationSession(brokerId, brokerEpoch, {
      turn,
      timers,
      metrics,
      stream,
    });
    this.#sessions.set(brokerId, session);
    this.#deps.logger.debug('follower connected', { follower: brokerId, brokerEpoch });
    return session;
  }

  #refusalOf(
    hello: FollowerHello,
  ): { readonly code: ErrorCode; readonly message: string } | undefined {
    const { clusterId, localId, image } = this.#deps;
    if (this.#closed) return { code: 'SHUTTING_DOWN', message: `broker ${localId} is stopping` };
    if (hello.clusterId !== clusterId) {
      const message = `broker ${hello.brokerId} is of cluster "${hello.clusterId}", this is "${clusterId}"`;
      return { code: 'INCONSISTENT_CLUSTER_ID', message };
    }
    if (hello.leaderId !== localId) {
      const message = `this is broker ${localId}, not ${hello.leaderId}: look the address up again`;
      return { code: 'INVALID_REQUEST', message };
    }
    if (hello.brokerId < 0 || hello.brokerId === localId || hello.brokerEpoch < 1) {
      const message = `no follower is broker ${hello.brokerId} of epoch ${hello.brokerEpoch}`;
      return { code: 'INVALID_REQUEST', message };
    }
    const known = image().brokers.get(hello.brokerId as BrokerId)?.epoch;
    const connected = this.#sessions.get(hello.brokerId as BrokerId)?.brokerEpoch;
    const epoch = Math.max(known ?? 0, connected ?? 0);
    if (hello.brokerEpoch < epoch) {
      const message = `broker ${hello.brokerId} has registered anew since, under ${epoch}`;
      return { code: 'STALE_BROKER_EPOCH', message };
    }
    return undefined;
  }

  #lost(session: ReplicationSession): void {
    session.close();
    if (this.#sessions.get(session.brokerId) === session) this.#sessions.delete(session.brokerId);
    for (const [key, parked] of this.#parked) {
      const kept = parked.filter((each) => each.session !== session);
      this.#parkedCount -= parked.length - kept.length;
      if (kept.length > 0) this.#parked.set(key, kept);
      else this.#parked.delete(key);
    }
  }

  // ---------------------------------------------------------------------------------- messages

  #take(session: ReplicationSession, message: FollowerMessage): void {
    if (this.#sessions.get(session.brokerId) !== session) return;
    const flaw = message.positions.map(flawOfPosition).find((each) => each !== undefined);
    if (flaw !== undefined) {
      session.cancel(flaw);
      return;
    }
    for (const { topicId, partition } of message.unsubscribe) {
      this.#unsubscribe(session, topicId, partition);
    }
    for (const part of message.damaged) this.#suspected(session, part);
    for (const position of message.positions) {
      if (position.subscribe === undefined) this.#acknowledged(session, position);
      else this.#subscribe(session, position);
    }
    if (message.creditBytes > 0) session.addCredit(message.creditBytes);
  }

  #suspected(
    session: ReplicationSession,
    { partition: key, leaderEpoch, offset }: DamagedPart,
  ): void {
    const partition = key && this.#deps.table.find(key.topicId, key.partition);
    if (partition?.leader?.replica.leaderEpoch !== leaderEpoch) return;
    this.#deps.checks.said(partition, offset, { follower: session.brokerId });
  }

  #acknowledged(session: ReplicationSession, position: FollowerPosition): void {
    const subscription = session.subscription(position.handle);
    // It has ended meanwhile, and the follower is about to hear of it.
    if (subscription === undefined) return;
    if (position.leaderEpoch !== subscription.leaderEpoch) return;
    if (position.syncedEndOffset > subscription.sent) {
      session.cancel(`${subscription.partition.name}: acknowledged more than was sent`);
      return;
    }
    this.#report(session, subscription.partition, subscription.role, position.syncedEndOffset);
  }

  #report(
    session: ReplicationSession,
    partition: Partition,
    role: LeaderRole,
    syncedEnd: number,
  ): void {
    const { brokerId } = session;
    const before = role.replica.followerEnd(brokerId);
    if (before === undefined || (before === 0 && syncedEnd > 0)) {
      this.#tookUpMs.set(brokerId, this.#deps.clock.monotonicMs());
    }
    const verdict = role.replica.report(
      {
        brokerId,
        brokerEpoch: session.brokerEpoch,
        leaderEpoch: role.replica.leaderEpoch,
        syncedEndOffset: syncedEnd as Offset,
      },
      this.#deps.clock.monotonicMs(),
    );
    if (verdict === 'beyondEnd') {
      session.cancel(`${partition.name}: acknowledged more than the leader has`);
    }
    if (verdict === 'advanced') partition.watermarkMoved();
    if (verdict === 'lostRecords') {
      this.#deps.logger.error(
        'an in-sync replica lacks committed records that it had: it leaves the set',
        {
          partition: partition.name,
          broker: session.brokerId,
          endsAt: syncedEnd,
          highWatermark: role.replica.highWatermark,
          do: `look at the disk of broker ${session.brokerId}; it is sent what it lacks`,
        },
      );
      this.#deps.reviewIsr(partition);
    }
    if (role.replica.isr.length < role.replica.replicas.length) this.#deps.reviewIsr(partition);
  }

  #subscribe(session: ReplicationSession, position: FollowerPosition): void {
    const { handle, leaderEpoch, subscribe } = position;
    if (subscribe === undefined) return;
    const { topicId, partition: number } = subscribe;
    const partition = this.#deps.table.find(topicId, number);
    const role = partition?.leader;
    const known = partitionImage(this.#deps.image(), topicId, number);
    const current = role?.replica.leaderEpoch ?? known?.leaderEpoch ?? -1;
    if (partition?.failure !== undefined) {
      session.refuse(handle, leaderEpoch, 'STORAGE_ERROR');
      return;
    }
    const isAboutToLead = role === undefined && known?.leader === this.#deps.localId;
    if (leaderEpoch > current || (leaderEpoch === current && isAboutToLead)) {
      this.#park(session, position);
      return;
    }
    if (partition === undefined || role === undefined) {
      const error = known === undefined ? 'UNKNOWN_TOPIC_ID' : 'NOT_LEADER_OR_FOLLOWER';
      session.refuse(handle, leaderEpoch, error);
      return;
    }
    if (leaderEpoch < current) {
      session.refuse(handle, leaderEpoch, 'FENCED_LEADER_EPOCH');
      return;
    }
    // The numbers come from a follower of this epoch; the leader's log is the measure of them.
    const end = position.syncedEndOffset as Offset;
    const verdict = judgePosition(partition, {
      lastEpoch: position.lastEpoch as LeaderEpoch,
      endOffset: end,
    });
    switch (verdict.kind) {
      case 'outOfRange':
        session.refuse(handle, leaderEpoch, 'OFFSET_OUT_OF_RANGE', partition.logStartOffset);
        return;
      case 'diverging':
        session.diverging(handle, leaderEpoch, verdict.from);
        return;
      case 'prefix':
        session.add(handle, partition, role, end);
        this.#report(session, partition, role, end);
    }
  }

  #park(session: ReplicationSession, position: FollowerPosition): void {
    const { handle, leaderEpoch, subscribe } = position;
    if (subscribe === undefined) return;
    const key = keyOf(subscribe.topicId, subscribe.partition);
    // A later subscription of the same follower replaces an earlier one.
    const others = this.#parked.get(key)?.filter((each) => each.session !== session) ?? [];
    this.#parkedCount += others.length + 1 - (this.#parked.get(key)?.length ?? 0);
    if (this.#parkedCount > PARKED_MAX) {
      this.#parkedCount -= 1;
      this.#parked.set(key, others);
      session.refuse(handle, leaderEpoch, 'UNKNOWN_LEADER_EPOCH');
      return;
    }
    this.#parked.set(key, [...others, { session, position }]);
  }

  #unsubscribe(session: ReplicationSession, topicId: string, number: number): void {
    const partition = this.#deps.table.find(topicId, number);
    if (partition === undefined) return;
    session.unsubscribe(partition)?.replica.followerLeft(session.brokerId);
    this.#deps.reviewIsr(partition);
  }
}

const keyOf = (topicId: string, partition: number): string => `${topicId}-${partition}`;

/** Numbers that no log has; undefined: there are none. */
function flawOfPosition(position: FollowerPosition): string | undefined {
  const { syncedEndOffset, lastEpoch, leaderEpoch, logStartOffset, subscribe } = position;
  const sound = leaderEpoch >= 0 && syncedEndOffset >= 0 && lastEpoch >= -1 && logStartOffset >= 0;
  if (sound && (subscribe === undefined || subscribe.partition >= 0)) return undefined;
  return `a position cannot be: end ${syncedEndOffset} of epoch ${lastEpoch} under ${leaderEpoch}`;
}
