/**
 * The brokers' sessions on the active controller: one stream each, heartbeats one way, what became of the
 * broker the other way. `BrokerSessions` keeps the time; here is what follows from it.
 *
 * - A good heartbeat of a fenced broker that has applied its own registration: unfence.
 * - A stream that breaks: dial back at once. Nobody there: fence at once. Somebody there: the process may
 *   live, or a new one may be about to register, so wait for the session to run out.
 * - Silence for a session, or a disk that does not sync: fence.
 * - A new controller takes stock first: each broker that its image calls serving speaks, registers anew, or is
 *   found gone. Then those that are gone are fenced in one decision, and only then others are unfenced. After a
 *   restart of the whole cluster nobody serves yet, so no in-sync set is cut down to brokers whose logs have
 *   not been opened.
 * - A wish to stop: move leadership away, and release the broker once it has none left that anyone could
 *   take over, and all others have heard of it.
 */
import { RelevoError, ERRORS, messageOf } from '@relevo/base/errors';
import { brokerEpoch, brokerId, logIndex } from '@relevo/base/ids';
import { isMutated } from '@relevo/base/mutations';
import type { BrokerEpoch, BrokerId, LogIndex } from '@relevo/base/ids';
import type {
  Clock,
  Logger,
  MessageStream,
  StreamEvents,
  TimerHandle,
  Timers,
  Transport,
} from '@relevo/base/ports';
import type { ErrorCode } from '@relevo/base/errors';
import { leadershipsToMove } from '@relevo/controller/broker-commands';
import type { BrokerImage, ClusterImage } from '@relevo/controller/image';
import type { MetadataDelta } from '@relevo/controller/replay';
import { BrokerSessions } from '@relevo/controller/sessions';
import { heartbeatReply } from '@relevo/rpc/gen/cluster/controller';
import type { BrokerHeartbeat, HeartbeatReply } from '@relevo/rpc/gen/cluster/controller';
import type { EventLog } from './event-log.ts';
import type { Proposals } from './proposals.ts';

/** A healthy host takes a dial within a round trip, be its process ever so slow. */
const PROBE_TIMEOUT_MS = 150;
const PROBE_AGAIN_MS = 25;
/** A broker counts as gone when nothing has answered dials to it for this fraction of a session (1/3). */
export const SILENT_PART = 3;
/** A new controller waits at most this fraction of a session (1/2) to hear from all brokers. */
const TAKING_STOCK_PART = 2;
/** How often sessions are looked at, at least: well below half a session. */
const TICKS_PER_SESSION = 6;
/** Heartbeats of a stream whose times are remembered until a reply to them was heard. */
const UNHEARD_MAX = 64;

export interface SessionStreamsDeps {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly transport: Transport;
  readonly logger: Logger;
  readonly proposals: Proposals;
  readonly events: EventLog;
  /** The committed image. */
  readonly image: () => ClusterImage;
}

export interface SessionStreamsOptions {
  /** Of this node: it is not probed. */
  readonly nodeId: BrokerId;
  readonly sessionTimeoutMs: number;
}

interface Connection {
  readonly stream: MessageStream<HeartbeatReply>;
  brokerId: BrokerId;
  brokerEpoch: BrokerEpoch;
  lastSequence: number;
  /** The last heartbeat that counted and after which a majority has confirmed that this controller leads. */
  lastCounted: number;
  /** Of heartbeats from the last on whose reply was heard, by sequence. */
  readonly receivedMs: Map<number, number>;
  wantsShutdown: boolean;
  released: boolean;
  /** Where the log stood when the broker had nothing left to lead. */
  movedAt: LogIndex | undefined;
}

interface Gone {
  readonly broker: BrokerImage;
  readonly reason: string;
}

interface Stock {
  /** The brokers that have neither spoken nor been found gone. */
  readonly unheard: Set<BrokerId>;
  readonly gone: Gone[];
  /** To be unfenced. */
  readonly mayServe: Set<BrokerId>;
  readonly timer: TimerHandle;
}

export class SessionStreams {
  readonly #deps: SessionStreamsDeps;
  readonly #options: SessionStreamsOptions;
  readonly #sessions: BrokerSessions;
  readonly #connections = new Map<BrokerId, Connection>();
  /** Streams that are to be refused once that is confirmed. */
  readonly #refusing = new Set<MessageStream<HeartbeatReply>>();
  #timer: TimerHandle | undefined;
  #active = false;
  /** What a new controller still waits to hear; undefined once it has heard from all. */
  #stock: Stock | undefined;

  constructor(deps: SessionStreamsDeps, options: SessionStreamsOptions) {
    this.#deps = deps;
    this.#options = options;
    this.#sessions = new BrokerSessions(options);
  }

  /** This node has become the active controller. */
  activate(): void {
    const { clock } = this.#deps;
    const image = this.#deps.image();
    this.#active = true;
    this.#sessions.takeOver(image.brokers.values(), image.index, clock.monotonicMs());
    this.#takeStock([...image.brokers.values()].filter(({ fenced }) => !fenced));
    this.#schedule();
  }

  #takeStock(serving: readonly BrokerImage[]): void {
    const { timers } = this.#deps;
    const unheard = new Set(serving.map(({ id }) => id));
    const withinMs = this.#options.sessionTimeoutMs / TAKING_STOCK_PART;
    const stock: Stock = {
      unheard,
      gone: [],
      mayServe: new Set(),
      timer: timers.after(withinMs, () => this.#stockTaken(stock)),
    };
    this.#stock = stock;
    for (const broker of serving) {
      if (broker.id === this.#options.nodeId) continue;
      // Whoever died together with the last controller need not be waited for longer.
      void this.#probe(broker).then((reason) => {
        if (reason === undefined) return;
        if (this.#stock !== stock) return this.#fenceSilent([{ broker, reason }]);
        stock.gone.push({ broker, reason });
        this.#heardOf(broker.id);
      });
    }
    const isAll = unheard.size === 0 || isMutated('fenced-before-all-are-heard');
    if (isAll) this.#stockTaken(stock);
  }

  /** What became of the broker is known. */
  #heardOf(id: BrokerId): void {
    const stock = this.#stock;
    if (stock?.unheard.delete(id) === true && stock.unheard.size === 0) this.#stockTaken(stock);
  }

  #stockTaken(stock: Stock): void {
    if (this.#stock !== stock) return;
    this.#stock = undefined;
    stock.timer.cancel();
    this.#fenceSilent(stock.gone);
    const { brokers } = this.#deps.image();
    for (const id of stock.mayServe) {
      const broker = brokers.get(id);
      if (broker !== undefined && this.#connections.has(id)) this.#unfence(broker);
    }
  }

  deactivate(error: () => Parameters<MessageStream<never>['cancel']>[0]): void {
    this.#active = false;
    this.#timer?.cancel();
    this.#stock?.timer.cancel();
    this.#stock = undefined;
    const open = [...this.#connections.values()];
    this.#connections.clear();
    for (const { stream } of open) stream.cancel(error());
  }

  /** Whether another incarnation may take over the id. */
  isGone(known: BrokerImage, peerAddress: string): boolean {
    const sameAddress = known.peerAddress === peerAddress;
    return this.#sessions.isGone(known.id, sameAddress, this.#deps.clock.monotonicMs());
  }

  /** Events of one stream; its first heartbeat says whose it is. To be opened while active. */
  open(stream: MessageStream<HeartbeatReply>): StreamEvents<BrokerHeartbeat> {
    let connection: Connection | undefined;
    return {
      onMessage: (heartbeat) => {
        if (!this.#active) return;
        connection ??= this.#meet(stream, heartbeat);
        if (connection === undefined) return;
        if (heartbeat.brokerId !== connection.brokerId) {
          const message = `the session of broker ${connection.brokerId} cannot speak for another one`;
          throw new RelevoError('INVALID_REQUEST', message);
        }
        if (this.#connections.get(connection.brokerId) === connection) {
          this.#heard(connection, heartbeat);
        }
      },
      onEnd: () => {
        if (connection !== undefined) this.#disconnected(connection);
      },
    };
  }

  /** A change has been committed. */
  observe(delta: MetadataDelta): void {
    if (!this.#active) return;
    const nowMs = this.#deps.clock.monotonicMs();
    for (const { before, after } of delta.brokers) {
      const connection = this.#connections.get(after.id);
      if (before?.epoch !== after.epoch) {
        this.#sessions.registered(after.id, after.epoch, delta.to, nowMs);
        this.#stock?.mayServe.delete(after.id);
        this.#heardOf(after.id);
        if (connection !== undefined && connection.brokerEpoch !== after.epoch) {
          this.#refuse(connection, 'STALE_BROKER_EPOCH');
        }
      } else if (before.fenced !== after.fenced) {
        if (after.fenced && !isMutated('unfenced-unaware')) {
          this.#sessions.fenced(after.id, after.epoch, delta.to);
        }
        if (connection !== undefined) this.#reply(connection);
      }
    }
    this.#release();
  }

  /** Only who names the epoch under which the broker is registered takes the place of its stream. */
  #meet(stream: MessageStream<HeartbeatReply>, first: BrokerHeartbeat): Connection | undefined {
    const connection: Connection = {
      stream,
      brokerId: checked(first.brokerId, brokerId),
      brokerEpoch: checked(first.brokerEpoch, brokerEpoch),
      lastSequence: 0,
      lastCounted: 0,
      receivedMs: new Map(),
      wantsShutdown: false,
      released: false,
      movedAt: undefined,
    };
    if (this.#refusalOf(connection, first.brokerEpoch) !== undefined) {
      connection.lastSequence = first.sequence;
      this.#refuseConfirmed(connection, first.brokerEpoch);
      return undefined;
    }
    const before = this.#connections.get(connection.brokerId);
    this.#connections.set(connection.brokerId, connection);
    before?.stream.end();
    this.#heardOf(connection.brokerId);
    return connection;
  }

  #refusalOf(connection: Connection, epoch: number): ErrorCode | undefined {
    const broker = this.#deps.image().brokers.get(connection.brokerId);
    if (broker === undefined) return 'BROKER_ID_NOT_REGISTERED';
    const isCurrent = broker.epoch === connection.brokerEpoch && broker.epoch === epoch;
    return isCurrent ? undefined : 'STALE_BROKER_EPOCH';
  }

  #heard(connection: Connection, heartbeat: BrokerHeartbeat): void {
    const broker = this.#deps.image().brokers.get(connection.brokerId);
    const nowMs = this.#deps.clock.monotonicMs();
    const counts = this.#takeDown(connection, heartbeat, nowMs);
    if (broker === undefined || this.#refusalOf(connection, heartbeat.brokerEpoch) !== undefined) {
      this.#refuseConfirmed(connection, heartbeat.brokerEpoch);
      return;
    }
    const { diskSyncMs, wantsShutdown } = heartbeat;
    // Nobody has applied what is not committed.
    const told = checked(heartbeat.metadataIndex, logIndex);
    const metadataIndex = logIndex(Math.min(told, this.#deps.image().index));
    const verdict = this.#sessions.heard(
      { brokerId: broker.id, brokerEpoch: broker.epoch, metadataIndex, diskSyncMs, counts },
      nowMs,
    );
    connection.wantsShutdown ||= wantsShutdown;
    if (verdict === 'diskFailed') {
      const how = diskSyncMs < 0 ? 'failed' : `took ${diskSyncMs} ms`;
      this.#fence([{ broker, reason: `its disk does not sync: the last fsync ${how}` }]);
    } else if (connection.wantsShutdown) {
      this.#shutDown(connection, broker);
    } else if (counts && broker.fenced && this.#sessions.isCaughtUp(broker.id, broker.epoch)) {
      if (this.#stock === undefined) this.#unfence(broker);
      else this.#stock.mayServe.add(broker.id);
    }
    this.#release();
    // One that counts is answered once that is confirmed.
    if (!counts) this.#reply(connection);
  }

  /** Whether the heartbeat counts: one before it, not long ago, was answered and the answer heard. */
  #takeDown(connection: Connection, heartbeat: BrokerHeartbeat, nowMs: number): boolean {
    const { receivedMs } = connection;
    const { sequence, heard } = heartbeat;
    connection.lastSequence = sequence;
    const heardMs = receivedMs.get(heard) ?? -Infinity;
    for (const earlier of receivedMs.keys()) if (earlier < heard) receivedMs.delete(earlier);
    // A broker that hears nothing goes on: what it says is not kept without end.
    if (receivedMs.size < UNHEARD_MAX) receivedMs.set(sequence, nowMs);
    const counts = nowMs - heardMs <= this.#options.sessionTimeoutMs / 2;
    if (counts) this.#count(connection, sequence);
    return counts;
  }

  /**
   * The broker's lease rests on this: a controller that was deposed before the heartbeat came must not
   * prolong it, as its successor may fence the broker meanwhile.
   */
  #count(connection: Connection, sequence: number): void {
    const counted = (): void => {
      if (this.#connections.get(connection.brokerId) !== connection) return;
      connection.lastCounted = Math.max(connection.lastCounted, sequence);
      this.#reply(connection);
    };
    if (isMutated('heartbeats-unconfirmed')) counted();
    else this.#deps.proposals.confirmed().then(counted, () => undefined);
  }

  #reply(connection: Connection): void {
    const broker = this.#deps.image().brokers.get(connection.brokerId);
    connection.stream.send(
      heartbeatReply({
        fenced: broker?.fenced ?? true,
        mayShutDown: connection.released,
        sessionTimeoutMs: this.#options.sessionTimeoutMs,
        answers: connection.lastSequence,
        counted: connection.lastCounted,
      }),
    );
  }

  /** What this controller does not know of the broker its successor may: a majority is asked first. */
  #refuseConfirmed(connection: Connection, epoch: number): void {
    const { stream } = connection;
    if (this.#refusing.has(stream)) return;
    this.#refusing.add(stream);
    this.#deps.proposals
      .confirmed()
      .then(
        () => {
          const code = this.#refusalOf(connection, epoch);
          if (code !== undefined) this.#refuse(connection, code);
        },
        // It has been deposed, or nobody can tell: the stream ends with its leadership.
        () => undefined,
      )
      .finally(() => this.#refusing.delete(stream));
  }

  #refuse(connection: Connection, code: ErrorCode): void {
    if (this.#connections.get(connection.brokerId) === connection) {
      this.#connections.delete(connection.brokerId);
    }
    connection.stream.send(
      heartbeatReply({
        error: ERRORS[code].number,
        fenced: true,
        sessionTimeoutMs: this.#options.sessionTimeoutMs,
        answers: connection.lastSequence,
      }),
    );
    connection.stream.end();
  }

  #disconnected(connection: Connection): void {
    if (this.#connections.get(connection.brokerId) !== connection) return;
    this.#connections.delete(connection.brokerId);
    if (!this.#active) return;
    this.#sessions.disconnected(connection.brokerId, connection.brokerEpoch);
    const broker = this.#deps.image().brokers.get(connection.brokerId);
    if (broker === undefined || broker.fenced || broker.epoch !== connection.brokerEpoch) return;
    if (connection.released) this.#fence([{ broker, reason: 'it has stopped' }]);
    else {
      void this.#probe(broker).then((reason) => {
        if (reason !== undefined) this.#fenceSilent([{ broker, reason }]);
      });
    }
  }

  /** Those that have no stream by now either. */
  #fenceSilent(gone: readonly Gone[]): void {
    if (this.#active) this.#fence(gone.filter(({ broker }) => !this.#connections.has(broker.id)));
  }

  /**
   * Why the process of a broker without a stream is gone; undefined if it is not. A kernel takes dials for
   * one that is only slow, so a third of a session without any answer tells as much as a refusal.
   */
  async #probe(broker: BrokerImage): Promise<string | undefined> {
    const { clock, timers, transport, logger } = this.#deps;
    const { peerAddress } = broker;
    const endMs = clock.monotonicMs() + this.#options.sessionTimeoutMs / SILENT_PART;
    for (;;) {
      const result = await transport.probe(peerAddress, PROBE_TIMEOUT_MS);
      logger.debug('dialled a broker back', { broker: broker.id, result });
      if (!this.#active || this.#connections.has(broker.id)) return undefined;
      if (result === 'accepted') return undefined;
      if (result === 'refused') return `nobody listens at ${peerAddress}`;
      if (clock.monotonicMs() >= endMs) {
        return `its streams broke, and nothing answers at ${peerAddress}`;
      }
      await new Promise<void>((resolve) => timers.after(PROBE_AGAIN_MS, resolve));
    }
  }

  /**
   * In one decision. Passes over a broker that has another epoch. One that is fenced already has registered
   * and was not heard of since: nobody is to wait for it.
   */
  #fence(gone: readonly Gone[]): void {
    const { proposals, events } = this.#deps;
    if (!proposals.active) return;
    const { brokers: decided } = proposals.speculative();
    const brokers = gone.flatMap(({ broker: { id, epoch }, reason }) => {
      const known = decided.get(id);
      if (known?.epoch !== epoch) return [];
      if (!known.fenced) events.fencing(id, epoch, reason);
      return [{ brokerId: id, brokerEpoch: epoch }];
    });
    if (brokers.length === 0) return;
    this.#run(proposals.execute({ kind: 'fenceBrokers', brokers }));
  }

  #unfence(broker: BrokerImage): void {
    const { proposals } = this.#deps;
    if (proposals.speculative().brokers.get(broker.id)?.fenced !== true) return;
    const { id, epoch } = broker;
    this.#run(proposals.execute({ kind: 'unfenceBroker', brokerId: id, brokerEpoch: epoch }));
  }

  #shutDown(connection: Connection, broker: BrokerImage): void {
    if (broker.fenced || connection.released) return;
    if (broker.shuttingDown && leadershipsToMove(this.#deps.image(), broker.id) === 0) return;
    const { id, epoch } = broker;
    const { proposals } = this.#deps;
    this.#run(proposals.execute({ kind: 'shutDownBroker', brokerId: id, brokerEpoch: epoch }));
  }

  /** Lets brokers go that wait for it and may. */
  #release(): void {
    for (const connection of this.#connections.values()) {
      if (!connection.wantsShutdown || connection.released) continue;
      if (!this.#mayGo(connection)) continue;
      connection.released = true;
      this.#reply(connection);
    }
  }

  #mayGo(connection: Connection): boolean {
    const image = this.#deps.image();
    const broker = image.brokers.get(connection.brokerId);
    if (broker === undefined || broker.fenced) return true;
    if (!broker.shuttingDown) return false;
    if (leadershipsToMove(image, broker.id) > 0) {
      connection.movedAt = undefined;
      return false;
    }
    // The new leaders must know that they are, or the clients find nobody.
    const movedAt = (connection.movedAt ??= image.index);
    for (const other of image.brokers.values()) {
      if (other.id === broker.id || other.fenced) continue;
      if (this.#sessions.metadataIndex(other.id) < movedAt) return false;
    }
    return true;
  }

  #schedule(): void {
    const { clock, timers } = this.#deps;
    const { sessionTimeoutMs } = this.#options;
    const longestMs = sessionTimeoutMs / TICKS_PER_SESSION;
    const dueMs = (this.#sessions.nextDeadlineMs() ?? Infinity) - clock.monotonicMs();
    this.#timer = timers.after(Math.min(Math.max(dueMs, 1), longestMs), () => {
      this.#tick();
      this.#schedule();
    });
  }

  #tick(): void {
    const { sessionTimeoutMs } = this.#options;
    const { brokers } = this.#deps.image();
    const reason = `no heartbeat for ${sessionTimeoutMs} ms`;
    const expired = this.#sessions.expired(this.#deps.clock.monotonicMs());
    this.#fence(
      expired.flatMap((id) => {
        const broker = brokers.get(id);
        return broker === undefined ? [] : [{ broker, reason }];
      }),
    );
  }

  /** Nobody waits for the outcome: it shows in the metadata, or the next controller sees to it. */
  #run(decision: Promise<unknown>): void {
    decision.catch((error: unknown) => {
      if (error instanceof RelevoError && error.code === 'NOT_CONTROLLER') return;
      this.#deps.logger.error('a decision about a broker failed', { error: messageOf(error) });
    });
  }
}

function checked<Branded>(value: number, brand: (value: number) => Branded): Branded {
  try {
    return brand(value);
  } catch (error) {
    throw new RelevoError('INVALID_REQUEST', `a heartbeat: ${messageOf(error)}`);
  }
}
