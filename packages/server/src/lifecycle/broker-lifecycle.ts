/**
 * A broker's life in the cluster: it registers with the active controller, keeps a session with it, and at
 * the end asks to be let go.
 *
 *   state       │ becomes      │ when
 *   ────────────┼──────────────┼─────────────────────────────────────────────────────────────────────
 *   registering │ inSession    │ the controller gave an epoch
 *               │ failed       │ it refuses for good: another cluster, another live broker with this id
 *   inSession   │ registering  │ the epoch is no longer known, or another took it
 *               │ stopped      │ `shutdown` is through
 *
 * Within a session the stream may break and be opened anew, at another controller too. What counts is the
 * lease: an answer to a heartbeat sent at t means that the controller will not fence this broker before
 * t + session timeout (it counts from the arrival, which is later). Past the lease the broker regards itself
 * as fenced, and acknowledges nothing, until it is answered again. Epochs keep data safe without that; the
 * lease keeps clients from talking to a broker that the others have given up. What it may say of the ends of its
 * logs rests on `certain`, which is shorter: a controller that sees a broker's stream break and finds nobody at
 * its address does not wait for the end of the session.
 */
import { RelevoError, errorCodeOf, messageOf } from '@relevo/base/errors';
import type { ErrorCode } from '@relevo/base/errors';
import { brokerEpoch } from '@relevo/base/ids';
import type { BrokerEpoch, BrokerId } from '@relevo/base/ids';
import { RpcError } from '@relevo/base/ports';
import type {
  Channel,
  Clock,
  Logger,
  MessageStream,
  Random,
  TimerHandle,
  Timers,
} from '@relevo/base/ports';
import { backoffMs } from '@relevo/base/retry';
import type { ClusterImage } from '@relevo/controller/image';
import type { ListenerAddress } from '@relevo/controller/records';
import {
  ControllerService as methods,
  brokerHeartbeat,
  registerBrokerRequest,
} from '@relevo/rpc/gen/cluster/controller';
import type { BrokerHeartbeat, HeartbeatReply } from '@relevo/rpc/gen/cluster/controller';
import type { MetadataPublisher } from '../metadata/metadata-publisher.ts';
import { SILENT_PART } from '../controller/session-streams.ts';
import { CONTROLLER_RETRY, Elsewhere } from './controller-client.ts';
import type { ControllerClient } from './controller-client.ts';
import type { DiskProof } from './disk-proof.ts';

/** Between two lines that say that no controller is to be found. */
const WAITING_LINE_MS = 5000;
/** The first of them: a cluster that starts together takes about so long. */
const FIRST_WAITING_LINE_MS = 2000;
/** Sessions that a broker waits for a predecessor with its id to be given up. */
const PREDECESSOR_SESSIONS = 3;
/** Of a session: so long after a heartbeat that counted no controller can have fenced this broker. */
const CERTAIN_PART = 1 / SILENT_PART;
/** Clocks run at different rates. */
const CLOCK_MARGIN = 0.95;
/** What no further try can change. */
const FATAL: readonly ErrorCode[] = [
  'DUPLICATE_BROKER_REGISTRATION',
  'INCONSISTENT_CLUSTER_ID',
  'OLDER_DATA_DIRECTORY',
];
/** Heartbeats that are remembered until one of them, or a later one, has counted. */
const UNCOUNTED_MAX = 64;

export interface BrokerLifecycleDeps {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly random: Random;
  readonly logger: Logger;
  readonly publisher: MetadataPublisher;
  readonly client: ControllerClient;
  readonly diskProof: DiskProof;
  /** The cluster refuses this broker for good: stop the node, and tell the operator. Called once. */
  readonly onFatal: (error: RelevoError) => void;
}

export interface BrokerLifecycleOptions {
  readonly clusterId: string;
  readonly brokerId: BrokerId;
  /** The last starts of the data directory, oldest first; this one is the last. */
  readonly incarnations: readonly string[];
  readonly directoryId: string;
  /** host:port, on the first listener. */
  readonly clientAddress: string;
  /** host:port. */
  readonly peerAddress: string;
  /** Empty: none. */
  readonly rack: string;
  readonly listeners: readonly ListenerAddress[];
  /** The last run ended well; else what was not fsynced (flush.mode=os) may be lost. */
  readonly nothingLost: boolean;
  /** Default: 250 ms. */
  readonly heartbeatIntervalMs: number;
  /** Default: 1,500 ms. */
  readonly sessionTimeoutMs: number;
}

/** Of a session: a heartbeat that is later is told of. */
const LATE_SHARE = 0.2;

interface Sending {
  readonly atMs: number;
  /** On the wall clock, which goes on while a machine is suspended. */
  readonly wallMs: number;
}

interface Session {
  readonly stream: MessageStream<BrokerHeartbeat>;
  readonly channel: Channel;
  sequence: number;
  /** When each heartbeat after the last that counted was sent; a map keeps the order. */
  readonly sent: Map<number, Sending>;
  /** The last heartbeat to which a reply has come; 0: none. */
  heard: number;
  answered: boolean;
}

type State = 'idle' | 'registering' | 'inSession' | 'failed' | 'stopped';

export type ShutdownOutcome = 'released' | 'timedOut';

export class BrokerLifecycle {
  readonly #deps: BrokerLifecycleDeps;
  readonly #options: BrokerLifecycleOptions;
  #state: State = 'idle';
  #brokerEpoch: BrokerEpoch | undefined;
  #nothingLost: boolean;
  #session: Session | undefined;
  /** Told by the controller. */
  #fencedByController = true;
  #leaseEndMs = Number.NEGATIVE_INFINITY;
  /** The last heartbeat that counted. */
  #counted: Sending | undefined;
  #certainWaiters: (() => void)[] = [];
  #wasFenced = true;
  #attempts = 0;
  #retry: { readonly timer: TimerHandle; readonly run: () => void } | undefined;
  #beat: TimerHandle | undefined;
  #beatSoon = false;
  #waitingSinceMs: number | undefined;
  #nextLineMs = 0;
  #predecessorSinceMs: number | undefined;
  #wantsShutdown = false;
  #released: (() => void) | undefined;
  #patience: TimerHandle | undefined;
  /** Whether the image held this broker under its epoch when last looked at. */
  #seenInImage = false;
  readonly #listeners = new Set<(fenced: boolean) => void>();
  readonly #registeredWaiters: (() => void)[] = [];
  readonly #unsubscribe: (() => void)[] = [];

  constructor(deps: BrokerLifecycleDeps, options: BrokerLifecycleOptions) {
    this.#deps = deps;
    this.#options = options;
    this.#nothingLost = options.nothingLost;
  }

  /** Undefined until registered; changes when the broker has to register anew. */
  get brokerEpoch(): BrokerEpoch | undefined {
    return this.#brokerEpoch;
  }

  /** Whether this broker may not acknowledge anything: told so, or not told otherwise in time. */
  get fenced(): boolean {
    return this.#fencedByController || this.#deps.clock.monotonicMs() >= this.#leaseEndMs;
  }

  /**
   * Whether no controller can have fenced this broker by now: a third of a session has not passed since it
   * sent a heartbeat that counted. A wall clock that has jumped ahead tells of a suspended machine.
   */
  get certain(): boolean {
    const { clock } = this.#deps;
    if (this.fenced || this.#counted === undefined) return false;
    const { atMs, wallMs } = this.#counted;
    const agoMs = Math.max(clock.monotonicMs() - atMs, clock.wallMs() - wallMs);
    return agoMs < this.#options.sessionTimeoutMs * CERTAIN_PART * CLOCK_MARGIN;
  }

  /** Asks the controller at once; resolves when `certain`, or after a third of a session without it. */
  untilCertain(): Promise<void> {
    if (this.certain || this.#state !== 'inSession') return Promise.resolve();
    return new Promise((resolve) => {
      this.#certainWaiters.push(resolve);
      if (this.#certainWaiters.length > 1) return;
      this.#heartbeatNow();
      const patienceMs = this.#options.sessionTimeoutMs / SILENT_PART;
      this.#deps.timers.after(patienceMs, () => this.#tellCertain());
    });
  }

  #tellCertain(): void {
    for (const resolve of this.#certainWaiters.splice(0)) resolve();
  }

  /** Called when `fenced` has changed; the end of a lease is noticed within a heartbeat. */
  onFenced(listener: (fenced: boolean) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Resolves with the first registration. Goes on for as long as it takes to find a controller. */
  start(): Promise<void> {
    const { publisher } = this.#deps;
    this.#unsubscribe.push(
      publisher.onController(() => this.#controllerMoved()),
      publisher.subscribe((_, image) => this.#imageChanged(image)),
    );
    this.#state = 'registering';
    this.#waitingSinceMs = this.#deps.clock.monotonicMs();
    const registered = new Promise<void>((resolve) => this.#registeredWaiters.push(resolve));
    void this.#register();
    return registered;
  }

  /**
   * Asks the controller to move leadership away; resolves when this broker may go, or after
   * `timeoutMs`, or when no controller has answered for a session, and then ends the session. Serve on
   * until it has resolved.
   */
  async shutdown(timeoutMs: number): Promise<ShutdownOutcome> {
    // Who was never registered leads nothing.
    let outcome: ShutdownOutcome = this.#brokerEpoch === undefined ? 'released' : 'timedOut';
    if (this.#state === 'inSession' && timeoutMs > 0) {
      this.#wantsShutdown = true;
      const beganMs = this.#deps.clock.monotonicMs();
      outcome = await new Promise<ShutdownOutcome>((resolve) => {
        this.#released = () => resolve('released');
        this.#giveUp(beganMs, timeoutMs, () => resolve('timedOut'));
        this.#heartbeatNow();
      });
    }
    this.stop();
    return outcome;
  }

  #giveUp(beganMs: number, timeoutMs: number, giveUp: () => void): void {
    const { clock, timers } = this.#deps;
    // The last broker of a cluster that stops finds no majority any more: it need not wait for long.
    const aloneMs = Math.max(this.#leaseEndMs, beganMs + this.#options.sessionTimeoutMs);
    const waitMs = Math.min(aloneMs, beganMs + timeoutMs) - clock.monotonicMs();
    if (waitMs <= 0) giveUp();
    else this.#patience = timers.after(waitMs, () => this.#giveUp(beganMs, timeoutMs, giveUp));
  }

  /** Ends the session at once. */
  stop(): void {
    if (this.#state === 'stopped') return;
    if (this.#state !== 'failed') this.#state = 'stopped';
    this.#retry?.timer.cancel();
    this.#beat?.cancel();
    this.#patience?.cancel();
    for (const unsubscribe of this.#unsubscribe) unsubscribe();
    const session = this.#session;
    this.#session = undefined;
    session?.stream.end();
    this.#fencedByController = true;
    this.#tellFenced();
    this.#tellCertain();
  }

  // ---------------------------------------------------------------------------------------- registering

  async #register(): Promise<void> {
    const { client } = this.#deps;
    const { clusterId, brokerId, incarnations, directoryId, rack } = this.#options;
    const { clientAddress, peerAddress, listeners } = this.#options;
    const request = registerBrokerRequest({
      clusterId,
      brokerId,
      incarnationId: incarnations.at(-1) ?? '',
      incarnations,
      directoryId,
      clientAddress,
      peerAddress,
      rack,
      listeners,
      nothingLost: this.#nothingLost,
    });
    try {
      const answer = await client.tryOnce(methods.registerBroker, request);
      if (this.#state === 'registering') this.#registered(brokerEpoch(answer.brokerEpoch));
    } catch (error) {
      if (this.#state === 'registering') this.#notRegistered(error);
    }
  }

  #registered(epoch: BrokerEpoch): void {
    this.#deps.logger.info('registered with the controller', { brokerEpoch: epoch });
    this.#brokerEpoch = epoch;
    this.#state = 'inSession';
    // Whatever comes later, this process has kept everything.
    this.#nothingLost = true;
    this.#seenInImage = false;
    this.#attempts = 0;
    this.#waitingSinceMs = undefined;
    this.#predecessorSinceMs = undefined;
    this.#openSession();
    for (const resolve of this.#registeredWaiters.splice(0)) resolve();
  }

  #notRegistered(error: unknown): void {
    const { clock, logger } = this.#deps;
    const nowMs = clock.monotonicMs();
    if (error instanceof Elsewhere) {
      this.#sayWaiting(messageOf(error));
      this.#again(error.atOnce, () => void this.#register());
      return;
    }
    const code = error instanceof RpcError ? error.code : undefined;
    const patienceMs = PREDECESSOR_SESSIONS * this.#options.sessionTimeoutMs;
    if (code === 'DUPLICATE_BROKER_REGISTRATION') {
      this.#predecessorSinceMs ??= nowMs;
      if (nowMs - this.#predecessorSinceMs < patienceMs) {
        this.#again(false, () => void this.#register());
        return;
      }
    }
    if (code !== undefined && FATAL.includes(code)) {
      this.#fail(new RelevoError(code, messageOf(error)));
      return;
    }
    logger.warn('the controller refused the registration', { error: messageOf(error) });
    this.#again(false, () => void this.#register());
  }

  #fail(error: RelevoError): void {
    this.#state = 'failed';
    this.stop();
    this.#deps.onFatal(error);
  }

  #sayWaiting(reason: string): void {
    const { clock, logger } = this.#deps;
    const nowMs = clock.monotonicMs();
    if (this.#waitingSinceMs === undefined) {
      this.#waitingSinceMs = nowMs;
      this.#nextLineMs = 0;
    }
    const forMs = nowMs - this.#waitingSinceMs;
    if (forMs < Math.max(FIRST_WAITING_LINE_MS, this.#nextLineMs)) return;
    this.#nextLineMs = forMs + WAITING_LINE_MS;
    logger.warn('waiting for an active controller: a majority of the controllers must be running', {
      forMs: Math.round(forMs),
      last: reason,
    });
  }

  #again(atOnce: boolean, run: () => void): void {
    const { timers, random } = this.#deps;
    this.#retry?.timer.cancel();
    // Hints may chase each other while leadership moves: after a few, wait as well.
    const waitMs =
      atOnce && this.#attempts % 4 !== 3 ? 0 : backoffMs(CONTROLLER_RETRY, this.#attempts, random);
    this.#attempts++;
    const timer = timers.after(waitMs, () => {
      this.#retry = undefined;
      run();
    });
    this.#retry = { timer, run };
  }

  // --------------------------------------------------------------------------------------------- session

  #openSession(): void {
    if (this.#state !== 'inSession') return;
    const { client } = this.#deps;
    const channel = client.channel();
    const stream = channel.open(methods.session, {
      onMessage: (reply) => {
        if (this.#session === session) this.#answered(session, reply);
      },
      onEnd: (error) => {
        if (this.#session === session) this.#broken(session, error);
      },
    });
    const session: Session = {
      stream,
      channel,
      sequence: 0,
      sent: new Map(),
      heard: 0,
      answered: false,
    };
    this.#session = session;
    this.#heartbeat();
  }

  #heartbeat(): void {
    const { clock, timers, publisher, diskProof } = this.#deps;
    const { brokerId, heartbeatIntervalMs, sessionTimeoutMs } = this.#options;
    const session = this.#session;
    const epoch = this.#brokerEpoch;
    this.#beat?.cancel();
    if (session === undefined || epoch === undefined) return;
    const dueMs = clock.monotonicMs() + heartbeatIntervalMs;
    this.#beat = timers.after(heartbeatIntervalMs, () => {
      this.#tellLate(clock.monotonicMs() - dueMs);
      this.#heartbeat();
    });
    this.#tellFenced();
    const nowMs = clock.monotonicMs();
    const oldestMs = session.sent.get(session.heard + 1)?.atMs;
    if (oldestMs !== undefined && nowMs - oldestMs > sessionTimeoutMs / 3) {
      // The controller or the way to it hangs; the session is too short to wait for a reset.
      this.#broken(session, new RpcError('DEADLINE_EXCEEDED', 'heartbeats are not answered'));
      return;
    }
    session.sequence++;
    session.sent.set(session.sequence, { atMs: nowMs, wallMs: clock.wallMs() });
    session.sent.delete(session.sequence - UNCOUNTED_MAX);
    session.stream.send(
      brokerHeartbeat({
        brokerId,
        brokerEpoch: epoch,
        metadataIndex: publisher.image().index,
        diskSyncMs: diskProof.syncMs(),
        wantsShutdown: this.#wantsShutdown,
        sequence: session.sequence,
        heard: session.heard,
      }),
    );
  }

  /** Something has kept the loop busy, or the machine: a few times longer, and the broker is fenced. */
  #tellLate(lateMs: number): void {
    if (lateMs <= this.#options.sessionTimeoutMs * LATE_SHARE) return;
    this.#deps.logger.warn('a heartbeat is late: the event loop was blocked', {
      lateMs: Math.round(lateMs),
    });
  }

  /** Something changed that the controller waits to hear of. Once per turn of the loop. */
  #heartbeatNow(): void {
    if (this.#beatSoon) return;
    this.#beatSoon = true;
    this.#deps.timers.soon(() => {
      this.#beatSoon = false;
      this.#heartbeat();
    });
  }

  #answered(session: Session, reply: HeartbeatReply): void {
    if (reply.error !== 0) {
      this.#lostEpoch(session, reply.error);
      return;
    }
    if (!session.answered) {
      session.answered = true;
      this.#attempts = 0;
      this.#waitingSinceMs = undefined;
      this.#deps.client.worked(session.channel);
      // The first counts for nothing, as it could not tell of a reply.
      this.#heartbeatNow();
    }
    session.heard = Math.max(session.heard, reply.answers);
    for (const [sequence, sending] of session.sent) {
      if (sequence > reply.counted) break;
      session.sent.delete(sequence);
      if (sending.atMs >= (this.#counted?.atMs ?? -Infinity)) this.#counted = sending;
      const endMs = sending.atMs + this.#options.sessionTimeoutMs;
      if (endMs > this.#leaseEndMs) this.#leaseEndMs = endMs;
    }
    this.#fencedByController = reply.fenced;
    this.#tellFenced();
    if (this.#certainWaiters.length > 0 && this.certain) this.#tellCertain();
    if (reply.mayShutDown && this.#wantsShutdown) this.#released?.();
  }

  #lostEpoch(session: Session, error: number): void {
    this.#deps.logger.warn('the session has ended, this broker registers anew', {
      reason: errorCodeOf(error),
    });
    this.#session = undefined;
    session.stream.end();
    this.#beat?.cancel();
    this.#fencedByController = true;
    this.#leaseEndMs = Number.NEGATIVE_INFINITY;
    this.#counted = undefined;
    this.#tellFenced();
    this.#state = 'registering';
    void this.#register();
  }

  #broken(session: Session, error: RpcError | undefined): void {
    this.#session = undefined;
    session.stream.cancel(new RpcError('CANCELLED', 'the session is opened anew'));
    this.#beat?.cancel();
    const reason = error?.message ?? 'the controller ended it';
    this.#deps.logger.debug('the session broke off', { with: session.channel.address, reason });
    const atOnce = this.#deps.client.failed(session.channel, error);
    this.#sayWaiting(reason);
    this.#again(atOnce, () => this.#openSession());
    // While there is no session nobody else would notice that the lease ends.
    const leftMs = this.#leaseEndMs - this.#deps.clock.monotonicMs();
    if (leftMs > 0) {
      this.#beat = this.#deps.timers.after(leftMs, () => this.#tellFenced());
    }
  }

  #controllerMoved(): void {
    const controller = this.#deps.publisher.controller();
    if (controller === undefined) return;
    this.#attempts = 0;
    const session = this.#session;
    if (session !== undefined) {
      if (session.channel.address === controller.address) return;
      this.#session = undefined;
      session.stream.end();
      this.#openSession();
      return;
    }
    // No need to wait any longer before the next try.
    const retry = this.#retry;
    this.#retry = undefined;
    retry?.timer.cancel();
    retry?.run();
  }

  #imageChanged(image: ClusterImage): void {
    if (this.#state !== 'inSession') return;
    const { brokerId } = this.#options;
    if (!this.#seenInImage && image.brokers.get(brokerId)?.epoch === this.#brokerEpoch) {
      // To be unfenced the controller must hear of it.
      this.#seenInImage = true;
      this.#heartbeatNow();
      return;
    }
    for (const broker of image.brokers.values()) {
      // One that stops waits until all others know the new leaders.
      if (!broker.shuttingDown || broker.id === brokerId) continue;
      this.#heartbeatNow();
      return;
    }
  }

  #tellFenced(): void {
    const { fenced } = this;
    if (fenced === this.#wasFenced) return;
    this.#wasFenced = fenced;
    const { logger } = this.#deps;
    if (this.#state === 'stopped') logger.debug('the session has ended');
    else if (!fenced)
      logger.info('unfenced: this broker serves', { brokerEpoch: this.#brokerEpoch });
    else if (this.#fencedByController) logger.warn('fenced: this broker acknowledges nothing');
    else {
      logger.warn('no controller answered for a session: this broker acknowledges nothing', {
        sessionTimeoutMs: this.#options.sessionTimeoutMs,
      });
    }
    for (const listener of this.#listeners) listener(fenced);
  }
}
