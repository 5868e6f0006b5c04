/**
 * The controller of a node: what the quorum drives, what brokers ask of it, and what it decides by itself.
 * On every controller it feeds the publisher and serves the metadata log; on the one that leads the
 * quorum it is active:
 *
 *   standby ──leads──▶ activating ──an entry of its term is applied──▶ active ──leads no more──▶ standby
 *
 * Activating, it proposes an empty entry, unless one of its term is applied already: with it the committed
 * image holds all that was decided before (K3). Calls that arrive meanwhile wait.
 */
import { ERRORS, RelevoError, messageOf } from '@relevo/base/errors';
import type { BrokerId, LogIndex, Term } from '@relevo/base/ids';
import { brokerEpoch, brokerId, leaderEpoch, partitionEpoch, uuid } from '@relevo/base/ids';
import { route } from '@relevo/base/ports';
import type {
  Clock,
  Gauge,
  Logger,
  MessageStream,
  Metrics,
  PeerInfo,
  Route,
  StreamEvents,
  TimerHandle,
  Timers,
  Transport,
} from '@relevo/base/ports';
import type {
  AnswerOf,
  ClusterDefaults,
  CommandKind,
  CommandOf,
  PartitionProposal,
} from '@relevo/controller/commands';
import { DEFAULT_HAND_BACK, HandBackSchedule } from '@relevo/controller/hand-back';
import { flawOfRegistration } from '@relevo/controller/record-limits';
import {
  ControllerService as methods,
  alterPartitionsResponse,
  allocateProducerIdsResponse,
  reportReplicasResponse,
  registerBrokerResponse,
} from '@relevo/rpc/gen/cluster/controller';
import type {
  AlterPartitionsRequest,
  BrokerHeartbeat,
  HeartbeatReply,
  PartitionProposal as WireProposal,
  RegisterBrokerRequest,
} from '@relevo/rpc/gen/cluster/controller';
import type { CommittedEntry, MetadataPublisher } from '../metadata/metadata-publisher.ts';
import { encodeRecords } from '../metadata/record-codec.ts';
import { exposeCluster } from './cluster-metrics.ts';
import { notController } from './controller-errors.ts';
import { checkSpeaksFor } from '../security/caller.ts';
import { EventLog } from './event-log.ts';
import { MetadataStreams } from './metadata-streams.ts';
import { Proposals } from './proposals.ts';
import { SessionStreams } from './session-streams.ts';

/** Who leads the quorum, as this node sees it. */
export interface Leadership {
  readonly isLeader: boolean;
  readonly term: Term;
  /** Undefined: nobody is known to. */
  readonly leaderId: BrokerId | undefined;
}

export interface ControllerServiceDeps {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly transport: Transport;
  readonly logger: Logger;
  readonly metrics: Metrics;
  readonly publisher: MetadataPublisher;
  /**
   * Hands an entry to the quorum. Resolves when it is committed and `onCommitted` has been called with
   * it; rejects when that can no longer be told, with all that were proposed after it.
   */
  readonly propose: (data: Uint8Array) => Promise<LogIndex>;
  /**
   * Resolves when a majority of the quorum has confirmed, since the call, that this node leads it. Rejects
   * with a RelevoError.
   */
  readonly confirm: () => Promise<void>;
}

export interface ControllerServiceOptions {
  readonly nodeId: BrokerId;
  readonly clusterId: string;
  /** After which silence a broker is fenced. Default: 1,500 ms. */
  readonly sessionTimeoutMs: number;
  /** How long a preferred leader must have been in sync before it leads again. Default: 2,000 ms. */
  readonly handBackDelayMs: number;
  readonly defaults: ClusterDefaults;
  /** host:port of a controller; undefined for one that is not known. */
  readonly addressOf: (id: BrokerId) => string | undefined;
}

/** Before a leader whose proposal was lost tries again; losing leadership is the usual cause. */
const RESTART_DELAY_MS = 100;

type State =
  | { readonly name: 'standby' }
  | { readonly name: 'activating'; readonly term: Term; readonly done: Promise<void> }
  | { readonly name: 'active'; readonly term: Term };

export class ControllerService {
  readonly #deps: ControllerServiceDeps;
  readonly #options: ControllerServiceOptions;
  readonly #proposals: Proposals;
  readonly #sessions: SessionStreams;
  readonly #streams: MetadataStreams;
  readonly #events: EventLog;
  readonly #handBack: HandBackSchedule;
  readonly #activeGauge: Gauge;
  #state: State = { name: 'standby' };
  #leadership: Leadership | undefined;
  #handBackTimer: TimerHandle | undefined;
  #handingBack = false;
  #closed = false;

  constructor(deps: ControllerServiceDeps, options: ControllerServiceOptions) {
    const { timers, publisher, propose, confirm, metrics } = deps;
    this.#deps = deps;
    this.#options = options;
    this.#events = new EventLog(deps);
    this.#proposals = new Proposals({
      timers,
      propose,
      confirm,
      defaults: options.defaults,
      committed: () => publisher.image(),
      lost: (reason) => this.#lost(reason),
    });
    this.#sessions = new SessionStreams(
      {
        ...deps,
        proposals: this.#proposals,
        events: this.#events,
        image: () => publisher.image(),
      },
      options,
    );
    this.#streams = new MetadataStreams({ timers, publisher, clusterId: options.clusterId });
    this.#handBack = new HandBackSchedule({
      ...DEFAULT_HAND_BACK,
      delayMs: options.handBackDelayMs,
    });
    this.#activeGauge = metrics.gauge(
      'relevo_controller_active',
      '1 on the node that is the active controller, else 0',
    );
    this.#activeGauge.set(0);
    exposeCluster(metrics, {
      topicDefaults: options.defaults.topic,
      image: () => (this.isActive() ? publisher.image() : undefined),
    });
    publisher.subscribe((delta, image) => {
      if (this.#state.name !== 'active') return;
      this.#events.write(delta, image);
      this.#sessions.observe(delta);
      this.#handBack.observe(delta, image, deps.clock.monotonicMs());
      this.#scheduleHandBack();
    });
    publisher.onController(() => this.#streams.controllerChanged());
  }

  // ------------------------------------------------------------------------------ called by the quorum

  onCommitted(entries: readonly CommittedEntry[]): void {
    this.#deps.publisher.applyCommitted(entries);
    this.#streams.committed(entries);
  }

  restoreSnapshot(bytes: Uint8Array, index: LogIndex): void {
    this.#deps.publisher.restoreSnapshot(bytes, index);
    this.#streams.restored();
  }

  /** Of everything committed and applied. */
  takeSnapshot(): Uint8Array {
    return this.#deps.publisher.takeSnapshot().bytes;
  }

  onLeadership(leadership: Leadership): void {
    const { leaderId, term, isLeader } = leadership;
    this.#leadership = leadership;
    const address = leaderId === undefined ? undefined : this.#options.addressOf(leaderId);
    const known = leaderId !== undefined && address !== undefined;
    this.#deps.publisher.setController(known ? { id: leaderId, address, term } : undefined);
    if (this.#state.name !== 'standby' && (!isLeader || this.#state.term !== term)) {
      this.#stand('another leads the quorum');
    }
    if (!isLeader || this.#state.name !== 'standby' || this.#closed) return;
    // The leader's own first entry may have been applied already, and with it everything before.
    this.#activate(term, { barrier: this.#deps.publisher.image().term !== term });
  }

  // ------------------------------------------------------------------------------------- asked by others

  /** Whether this node decides. */
  isActive(): boolean {
    return this.#state.name === 'active';
  }

  /** Decides, and resolves once that is committed. Rejects with the refusal, or with NOT_CONTROLLER. */
  async execute<Kind extends CommandKind>(
    command: CommandOf<Kind> & { readonly kind: Kind },
  ): Promise<AnswerOf<Kind>> {
    await this.#ready();
    return this.#proposals.execute<Kind>(command);
  }

  /**
   * Resolves when a majority has confirmed, since the call, that this node decides: what it has committed
   * by then may be told. Rejects with NOT_CONTROLLER.
   */
  async confirmed(): Promise<void> {
    await this.#ready();
    await this.#proposals.confirmed();
  }

  /** The service `Controller`. */
  routes(): Route[] {
    return [
      route(methods.registerBroker, (request, caller) => this.#register(request, caller)),
      route(methods.session, (stream, caller) => this.#session(stream, caller)),
      route(methods.alterPartitions, async (request, caller) => {
        checkSpeaksFor(caller, request.brokerId);
        const { partitions } = await this.execute({
          kind: 'alterPartitions',
          ...named(request),
          partitions: proposalsOf(request),
        });
        return alterPartitionsResponse({
          partitions: partitions.map((outcome) => ({
            ...outcome,
            error: ERRORS[outcome.error].number,
          })),
        });
      }),
      route(methods.reportReplicas, async (request, caller) => {
        checkSpeaksFor(caller, request.brokerId);
        return reportReplicasResponse(
          await this.execute({
            kind: 'reportReplicas',
            ...named(request),
            replicas: checked('replicas', () =>
              request.replicas.map(({ topicId, partition, offline }) => ({
                topicId: uuid(topicId),
                partition,
                offline,
              })),
            ),
          }),
        );
      }),
      route(methods.allocateProducerIds, async (request, caller) => {
        checkSpeaksFor(caller, request.brokerId);
        return allocateProducerIdsResponse(
          await this.execute({ kind: 'allocateProducerIds', ...named(request) }),
        );
      }),
      route(methods.followMetadata, (request, stream, caller) => {
        checkSpeaksFor(caller, request.brokerId);
        return this.#streams.follow(request, stream);
      }),
    ];
  }

  /** Ends everything; the quorum may still call. */
  close(): void {
    this.#closed = true;
    if (this.#state.name !== 'standby') this.#stand('it is stopping');
    this.#streams.close();
  }

  // -------------------------------------------------------------------------------------- becoming active

  #activate(term: Term, how: { readonly barrier: boolean }): void {
    const done = this.#becomeActive(term, how.barrier);
    this.#state = { name: 'activating', term, done };
    // Whoever waits for it is told; nobody may be waiting.
    done.catch(() => undefined);
  }

  async #becomeActive(term: Term, barrier: boolean): Promise<void> {
    const { publisher, propose, logger } = this.#deps;
    const mine = (): boolean => this.#state.name === 'activating' && this.#state.term === term;
    try {
      await (barrier ? propose(encodeRecords([])) : undefined);
      if (!mine()) throw this.#refusal();
      this.#proposals.begin(publisher.image());
      await this.#proposals.execute({ kind: 'activate', clusterId: this.#options.clusterId });
      if (!mine()) throw this.#refusal();
    } catch (error) {
      if (mine()) {
        logger.warn('could not become the active controller', { term, error: messageOf(error) });
        this.#lost(messageOf(error));
      }
      throw error;
    }
    this.#state = { name: 'active', term };
    this.#activeGauge.set(1);
    const image = publisher.image();
    logger.info('became the active controller', { term, index: image.index });
    this.#sessions.activate();
    this.#handBack.takeOver(image, this.#deps.clock.monotonicMs());
    this.#scheduleHandBack();
  }

  /** Resolves when this node is active, rejects when it is not about to be. */
  async #ready(): Promise<void> {
    if (this.#state.name === 'active') return;
    if (this.#state.name === 'standby') throw this.#refusal();
    await this.#state.done;
  }

  #refusal(): Error {
    const known = this.#deps.publisher.controller();
    return notController(known?.id === this.#options.nodeId ? undefined : known);
  }

  #stand(reason: string): void {
    const was = this.#state;
    this.#state = { name: 'standby' };
    this.#activeGauge.set(0);
    this.#handBackTimer?.cancel();
    this.#handBackTimer = undefined;
    this.#handingBack = false;
    this.#proposals.end(reason);
    this.#sessions.deactivate(() => notController(this.#deps.publisher.controller()));
    if (was.name === 'active') {
      this.#deps.logger.info('is no longer the active controller', { term: was.term, reason });
    }
  }

  /** A proposal was lost. Where this node leads all the same, it begins anew on what is committed. */
  #lost(reason: string): void {
    if (this.#state.name === 'standby') return;
    this.#stand(reason);
    const leadership = this.#leadership;
    if (leadership?.isLeader !== true || this.#closed) return;
    this.#deps.timers.after(RESTART_DELAY_MS, () => {
      if (this.#leadership === leadership && this.#state.name === 'standby' && !this.#closed) {
        this.#activate(leadership.term, { barrier: true });
      }
    });
  }

  // --------------------------------------------------------------------------------------------- brokers

  async #register(
    request: RegisterBrokerRequest,
    caller: PeerInfo,
  ): Promise<{ readonly brokerEpoch: number }> {
    checkSpeaksFor(caller, request.brokerId);
    const id = checked('broker_id', () => realBroker(request.brokerId));
    const flaw = flawOfRegistration(request);
    if (flaw !== undefined) throw new RelevoError('INVALID_REQUEST', `broker ${id}: ${flaw}`);
    await this.#ready();
    const known = this.#deps.publisher.image().brokers.get(id);
    const predecessorGone =
      known === undefined || this.#sessions.isGone(known, request.peerAddress);
    return registerBrokerResponse(
      await this.#proposals.execute({
        ...request,
        kind: 'registerBroker',
        brokerId: id,
        predecessorGone,
      }),
    );
  }

  #session(stream: MessageStream<HeartbeatReply>, caller: PeerInfo): StreamEvents<BrokerHeartbeat> {
    if (this.#state.name === 'standby') throw this.#refusal();
    const events = this.#sessions.open(stream);
    return {
      onMessage: (heartbeat) => {
        checkSpeaksFor(caller, heartbeat.brokerId);
        if (this.#state.name === 'active') {
          events.onMessage(heartbeat);
          return;
        }
        this.#ready().then(
          () => events.onMessage(heartbeat),
          () => stream.cancel(notController(this.#deps.publisher.controller())),
        );
      },
      onEnd: (error) => events.onEnd(error),
    };
  }

  // ------------------------------------------------------------------------------------------- hand-back

  #scheduleHandBack(): void {
    this.#handBackTimer?.cancel();
    this.#handBackTimer = undefined;
    const dueMs = this.#handBack.nextDeadlineMs();
    if (dueMs === undefined || this.#handingBack || this.#state.name !== 'active') return;
    const waitMs = Math.max(0, dueMs - this.#deps.clock.monotonicMs());
    this.#handBackTimer = this.#deps.timers.after(waitMs, () => this.#handBackNow());
  }

  #handBackNow(): void {
    const partitions = this.#handBack.due(this.#deps.clock.monotonicMs());
    if (partitions.length === 0) {
      this.#scheduleHandBack();
      return;
    }
    this.#handingBack = true;
    this.#proposals.execute({ kind: 'handBack', partitions }).then(
      () => {
        this.#handingBack = false;
        this.#scheduleHandBack();
      },
      // Only the loss of leadership fails it; then the next controller hands back.
      (error: unknown) => {
        this.#deps.logger.debug('a hand-back was lost', { error: messageOf(error) });
      },
    );
  }
}

function checked<Value>(field: string, read: () => Value): Value {
  try {
    return read();
  } catch (error) {
    throw new RelevoError('INVALID_REQUEST', `${field}: ${messageOf(error)}`);
  }
}

function realBroker(id: number): BrokerId {
  if (id < 0) throw new RangeError(`no broker is ${id}`);
  return brokerId(id);
}

const named = (
  request: Pick<AlterPartitionsRequest, 'brokerId' | 'brokerEpoch'>,
): { brokerId: BrokerId; brokerEpoch: ReturnType<typeof brokerEpoch> } => ({
  brokerId: checked('broker_id', () => brokerId(request.brokerId)),
  brokerEpoch: checked('broker_epoch', () => brokerEpoch(request.brokerEpoch)),
});

const proposalsOf = (request: AlterPartitionsRequest): PartitionProposal[] =>
  checked('partitions', () => request.partitions.map(proposalOf));

const proposalOf = (proposal: WireProposal): PartitionProposal => ({
  topicId: uuid(proposal.topicId),
  partition: proposal.partition,
  leaderEpoch: leaderEpoch(proposal.leaderEpoch),
  partitionEpoch: partitionEpoch(proposal.partitionEpoch),
  isr: proposal.isr.map((member) => ({
    brokerId: brokerId(member.brokerId),
    brokerEpoch: brokerEpoch(member.brokerEpoch),
  })),
});
