/**
 * A voter of the metadata quorum: the consensus core of `@relevo/raft`, joined to the disk, to the streams
 * between the controllers, and to the state machine (the controller). It decides nothing itself:
 *
 *     stream, timer, call ──▶ core ──Ready──▶ send, apply, write ──durable──▶ core, send what waited
 */
import { assert, defined } from '@relevo/base/assert';
import { RelevoError, messageOf } from '@relevo/base/errors';
import { brokerId, logIndex, term as toTerm, uuidFromBytes } from '@relevo/base/ids';
import type { BrokerId, LogIndex, Term } from '@relevo/base/ids';
import type { Route, TimerHandle } from '@relevo/base/ports';
import { isVoter, makeConfiguration } from '@relevo/raft/configuration';
import type { Configuration, MembershipChange } from '@relevo/raft/configuration';
import { UNPINNED } from '@relevo/raft/messages';
import type { Entry, Message, ReplicaKey } from '@relevo/raft/messages';
import type { RaftOptions } from '@relevo/raft/options';
import { RaftNode } from '@relevo/raft/raft-node';
import type { Ready, SoftState } from '@relevo/raft/ready';
import { flawOfContent } from './content-check.ts';
import { Introductions } from './introductions.ts';
import { LeaderWatch } from './leader-watch.ts';
import type { PeerMemory } from './peer-memory.ts';
import { PeerService } from './peer-service.ts';
import { Peers } from './peers.ts';
import { QuorumMetrics } from './quorum-metrics.ts';
import type { QuorumStorage } from './quorum-storage.ts';
import { olderCopy, raftOptions } from './quorum-types.ts';
import type { QuorumDeps, QuorumLeadership, QuorumOptions, QuorumStatus } from './quorum-types.ts';
import { ReadyWriter } from './ready-writer.ts';
import { Snapshots } from './snapshots.ts';
import { Voter, openVoter } from './voter.ts';
import { WaitingCalls } from './waiting-calls.ts';
import { VoterKeeper } from './voter-keeper.ts';

/** With a write that takes longer the leader hands over: its disk hangs (mistake 27). */
const DISK_STALL_MS = 1500;
/** Beyond its own time limit a transfer has failed. */
const TRANSFER_GRACE_MS = 100;
const NO_DATA = new Uint8Array(0);
/** A voter that has voted waits so long, at most, to be told by the others whether it is an older copy. */
const GREETING_MS = 300;
const NOBODY: Configuration = makeConfiguration([]);

type State = 'new' | 'running' | 'stopped';

export class Quorum {
  readonly #deps: QuorumDeps;
  readonly #options: QuorumOptions;
  readonly #raft: Partial<RaftOptions>;
  readonly #calls = new WaitingCalls();
  readonly #peers: Peers;
  readonly #service: PeerService;
  readonly #introductions: Introductions;
  readonly #metrics: QuorumMetrics;
  readonly #watch: LeaderWatch;
  #state: State = 'new';
  #storage: QuorumStorage | undefined;
  #memory: PeerMemory | undefined;
  #stopping: Promise<void> | undefined;
  #core: RaftNode | undefined;
  #writer: ReadyWriter | undefined;
  #snapshots: Snapshots | undefined;
  #keeper: VoterKeeper | undefined;
  #soft: SoftState | undefined;
  #reported: QuorumLeadership | undefined;
  /** The term in which our own first entry has been applied. */
  #certainTerm: Term | undefined;
  /** Of a leader. */
  #membersAreCommitted = false;
  #appliedIndex: LogIndex = logIndex(0);
  #context = 0;
  #timer: { readonly handle: TimerHandle; readonly dueMs: number } | undefined;
  #pumpScheduled = false;
  #pumping = false;
  #leaderWaiters: (() => void)[] = [];

  constructor(deps: QuorumDeps, options: QuorumOptions) {
    this.#deps = deps;
    this.#options = options;
    this.#raft = raftOptions(options);
    this.#metrics = new QuorumMetrics(deps.metrics, () => this.status());
    this.#watch = new LeaderWatch(deps.logger);
    this.#peers = new Peers(deps, {
      nodeId: options.nodeId,
      clusterId: options.clusterId,
      addressOf: (id) => this.addressOf(id),
      onUnreachable: (id, refused) => {
        this.#with((core, nowMs) => core.peerUnreachable(id, { refused }, nowMs));
      },
      // In a turn of its own: the first part goes out while the core's effects are carried out.
      onSnapshotGoesOn: (id) => {
        deps.timers.soon(() => this.#with((core, nowMs) => core.snapshotGoesOn(id, nowMs)));
      },
    });
    this.#introductions = new Introductions(deps, {
      ...options,
      incarnations: options.incarnations ?? [],
    });
    this.#service = new PeerService(options, deps, {
      closedBecause: () => this.#closedBecause(),
      isKnown: (id) => this.addressOf(id) !== undefined,
      problemWith: (message) => this.#core?.problemWith(message) ?? flawOfContent(message, deps),
      onCall: (from) => this.#peers.called(from),
      onMessage: (message) => this.#receive(message),
      onPiece: (from) => this.#peers.heard(from),
      onBroken: (from) => this.#peers.broken(from),
    });
  }

  /** The service `Raft`; to be served before `start`. */
  routes(): Route[] {
    return [...this.#service.routes(), ...this.#introductions.routes()];
  }

  /**
   * Reads what is on the disk, makes itself known to the other voters, and takes part. Rejects with a
   * LogError where the only voter there is is damaged, or the directory is another node's, and with a
   * RelevoError where it may not start; nothing votes then.
   */
  async start(): Promise<void> {
    assert(this.#state === 'new', 'a quorum is started once', { state: this.#state });
    const opened = await openVoter(this.#options, this.#deps);
    if (this.#isStopped()) return opened.storage.close();
    const { storage } = opened;
    this.#storage = storage;
    this.#memory = opened.memory;
    const voter = new Voter(this.#options.nodeId, opened, {
      onFounded: (members) => this.#with((core, nowMs) => core.found(members, nowMs)),
      onMet: (peer) => this.#met(peer),
      onOlderCopy: (peer) => this.#fail(olderCopy(this.#options, peer)),
    });
    // Whoever has voted before may be told that it is an older copy: before it votes again.
    const alone = this.#options.bootstrap === true;
    const hasVoted = voter.condition() === 'started';
    await this.#introductions.start(voter, alone || hasVoted ? GREETING_MS : 0);
    if (this.#isStopped()) return;
    if (alone) await this.#goOnAlone(voter);
    this.#state = 'running';
    const { hardState, snapshot, entries } = voter.stored;
    if (snapshot !== undefined) {
      this.#deps.restoreSnapshot(snapshot.data, snapshot.index);
      this.#appliedIndex = snapshot.index;
    }
    const core = new RaftNode(
      {
        self: voter.key,
        recovered: { hardState, snapshot, entries, bootstrap: voter.firstMembers() },
        raft: this.#raft,
      },
      { random: this.#deps.random, nowMs: this.#deps.clock.monotonicMs() },
    );
    this.#core = core;
    voter.runs(core);
    this.#writer = new ReadyWriter(
      { ...this.#deps, storage },
      {
        onDurable: (ready) => this.#durable(ready),
        onFailure: (error) => this.#fail(error),
      },
    );
    this.#snapshots = new Snapshots(
      { storage, core, takeSnapshot: this.#deps.takeSnapshot, logger: this.#deps.logger },
      { ...this.#options, onFailure: (error) => this.#fail(error) },
    );
    this.#keeper = new VoterKeeper(this.#deps, {
      voters: this.#options.voters,
      delayMs: this.#options.wipedVoterDelayMs,
      change: (change) => this.changeMembership(change),
    });
    if (isVoter(core.configuration, voter.key)) opened.directory.forgetSetAside();
    this.#deps.logger.info('quorum joined', {
      term: hardState.term,
      lastIndex: core.status().lastIndex,
      snapshot: snapshot?.index ?? 0,
      voters: core.configuration.voters.map(({ id }) => id),
    });
    this.#pump();
  }

  async #goOnAlone(voter: Voter): Promise<void> {
    const others = this.#introductions.started();
    if (others.length > 0) {
      this.#deps.logger.warn('--bootstrap is passed over: other voters have a log', { others });
      return;
    }
    const address = this.#options.voters.find(({ id }) => id === voter.key.id)?.address ?? '';
    await voter.goOnAlone(address, uuidFromBytes(this.#deps.random.bytes(16)));
  }

  /** Ends it, wherever it is; hand leadership over before. */
  stop(): Promise<void> {
    this.#stopping ??= this.#stop();
    return this.#stopping;
  }

  async #stop(): Promise<void> {
    if (!this.#isStopped()) this.#end('the quorum of this node was stopped');
    await this.#writer?.stop();
    await this.#snapshots?.stop();
    await this.#memory?.close();
    await this.#storage?.close();
  }

  // ----------------------------------------------------------------------------------------------- calls

  /**
   * Resolves with the entry's index when it is committed and applied here. Rejects with a RelevoError:
   * NOT_CONTROLLER when this node does not lead (nothing was appended) or stops leading (the outcome is
   * unknown), MESSAGE_TOO_LARGE, THROTTLED while too much waits for a majority. Proposals keep their order.
   */
  async propose(data: Uint8Array): Promise<LogIndex> {
    const core = this.#running();
    const result = core.propose([data], this.#nowMs());
    if (!result.ok) throw this.#refusal(result.reason);
    const done = this.#calls.forProposal(result.lastIndex, result.term);
    this.#schedulePump();
    return done;
  }

  /**
   * Resolves when everything that was committed before this call is applied here, and this node was the
   * leader meanwhile (invariant K3). Rejects with NOT_CONTROLLER or THROTTLED.
   */
  async readBarrier(): Promise<void> {
    const core = this.#running();
    const context = ++this.#context;
    const result = core.readIndex(context, this.#nowMs());
    if (!result.ok) throw this.#refusal(result.reason);
    const done = this.#calls.forRead(context);
    this.#schedulePump();
    return done;
  }

  /**
   * Resolves when another leads; `to` undefined: whoever is furthest. Rejects with NOT_CONTROLLER when
   * this node does not lead, INVALID_REQUEST for a target that cannot, REQUEST_TIMED_OUT.
   */
  async transferLeadership(to?: BrokerId): Promise<void> {
    const core = this.#running();
    const result = core.transferLeadership(to, this.#nowMs());
    if (!result.ok) {
      if ('problem' in result) throw new RelevoError('INVALID_REQUEST', result.problem);
      throw this.#refusal(result.reason);
    }
    this.#schedulePump();
    const limitMs = defined(this.#raft.transferTimeoutMs, 'the time limit') + TRANSFER_GRACE_MS;
    await new Promise<void>((resolve, reject) => {
      const timer = this.#deps.timers.after(limitMs, () => {
        const message = `leadership did not pass to node ${result.to} in ${limitMs} ms; it stays here`;
        reject(new RelevoError('REQUEST_TIMED_OUT', message));
      });
      this.#leaderWaiters.push(() => {
        timer.cancel();
        resolve();
      });
    });
  }

  /**
   * Resolves when the change is committed. Rejects with NOT_CONTROLLER, or INVALID_REQUEST where it may
   * not be made now; the message says why.
   */
  async changeMembership(change: MembershipChange): Promise<void> {
    const core = this.#running();
    const result = core.changeMembership(change, this.#nowMs());
    if (!result.ok) {
      if ('problem' in result) throw new RelevoError('INVALID_REQUEST', result.problem);
      throw this.#refusal(result.reason);
    }
    const done = this.#calls.forProposal(result.index, core.status().term);
    this.#schedulePump();
    await done;
  }

  status(): QuorumStatus {
    const status = this.#core?.status();
    const leaderId = this.#reported?.leaderId;
    const nowMs = this.#nowMs();
    return {
      nodeId: this.#options.nodeId,
      role: this.#state === 'running' && status !== undefined ? status.role : 'stopped',
      isLeader: this.#state === 'running' && (this.#reported?.isLeader ?? false),
      term: status?.term ?? toTerm(0),
      leaderId,
      leaderAddress: leaderId === undefined ? undefined : this.addressOf(leaderId),
      commitIndex: status?.commitIndex ?? logIndex(0),
      appliedIndex: this.#appliedIndex,
      lastIndex: status?.lastIndex ?? logIndex(0),
      configuration: this.#membersForPeople(status?.configuration),
      peers: (status?.peers ?? []).map((peer) => ({
        ...peer,
        silentForMs: nowMs - peer.lastContactMs,
      })),
    };
  }

  /** Until a cluster is founded: those that the configuration names. */
  #membersForPeople(known: Configuration | undefined): Configuration {
    if (known !== undefined && known.voters.length > 0) return known;
    const { voters } = this.#options;
    return makeConfiguration(
      voters.map(({ id, address }) => ({ id: brokerId(id), directoryId: UNPINNED, address })),
    );
  }

  /** host:port of a member; undefined for a stranger. */
  addressOf(id: BrokerId): string | undefined {
    const { voters, learners } = this.#core?.configuration ?? NOBODY;
    const member = [...voters, ...learners].find((candidate) => candidate.id === id);
    return member?.address ?? this.#options.voters.find((voter) => voter.id === id)?.address;
  }

  // ---------------------------------------------------------------------------------------------- driving

  #receive(message: Message): void {
    this.#peers.heard(message.from.id);
    this.#with((core, nowMs) => core.step(message, nowMs));
  }

  /** A voter has made itself known; only a leader has use for it. */
  #met(peer: ReplicaKey): void {
    if (this.#soft?.role !== 'leader') return;
    this.#with((core, nowMs) => this.#keeper?.heard(peer, core.configuration, nowMs));
  }

  /** Gives something to the core; its effects follow in the same turn of the loop. */
  #with(act: (core: RaftNode, nowMs: number) => void): void {
    const core = this.#core;
    if (core === undefined || this.#state !== 'running') return;
    try {
      act(core, this.#nowMs());
    } catch (error) {
      this.#fail(error);
      return;
    }
    this.#schedulePump();
  }

  #schedulePump(): void {
    if (this.#pumpScheduled) return;
    this.#pumpScheduled = true;
    this.#deps.timers.soon(() => {
      this.#pumpScheduled = false;
      this.#pump();
    });
  }

  /** Carries out whatever the core wants done. */
  #pump(): void {
    const core = this.#core;
    if (core === undefined || this.#pumping) return;
    this.#pumping = true;
    try {
      while (this.#state === 'running') {
        this.#writeDownMembers(core);
        const ready = core.ready(this.#nowMs());
        if (ready === undefined) break;
        this.#carryOut(ready);
      }
      if (this.#state === 'running') this.#armTimer(core);
    } catch (error) {
      this.#fail(error);
    } finally {
      this.#pumping = false;
    }
  }

  #carryOut(ready: Ready): void {
    this.#peers.send(ready.messages);
    if (ready.committed.length > 0) this.#apply(ready.committed);
    if (ready.softState !== undefined) this.#roleChanged(ready.softState);
    this.#report();
    for (const { context, index } of ready.readStates) this.#calls.confirmRead(context, index);
    for (const context of ready.droppedReads) this.#calls.dropRead(context);
    this.#calls.answerReads(this.#appliedIndex);
    this.#writer?.add(ready);
  }

  #durable(ready: Ready): void {
    const core = this.#core;
    if (core === undefined || this.#state !== 'running') return;
    try {
      const { snapshot } = ready;
      if (snapshot !== undefined) {
        this.#deps.restoreSnapshot(snapshot.data, snapshot.index);
        this.#appliedIndex = snapshot.index;
        this.#snapshots?.installed(snapshot.index);
        this.#deps.logger.info('snapshot of the quorum installed', { index: snapshot.index });
      }
      core.persisted(ready.id, this.#nowMs());
      this.#peers.send(ready.messagesAfterPersist);
    } catch (error) {
      this.#fail(error);
      return;
    }
    this.#pump();
  }

  #apply(entries: readonly Entry[]): void {
    this.#deps.onCommitted(
      entries.map(({ index, term, kind, data }) => ({
        index,
        term,
        data: kind === 'data' ? data : NO_DATA,
      })),
    );
    const last = defined(entries.at(-1), 'a committed entry');
    this.#appliedIndex = last.index;
    // The newest of them, if any: terms do not fall along the log.
    this.#certainTerm =
      entries.findLast(({ kind }) => kind === 'leaderStart')?.term ?? this.#certainTerm;
    this.#calls.applied(entries);
    this.#snapshots?.applied(entries);
  }

  #armTimer(core: RaftNode): void {
    const dueMs = Math.min(core.nextDeadlineMs(), this.#nowMs() + DISK_STALL_MS);
    if (this.#timer !== undefined) {
      if (this.#timer.dueMs <= dueMs) return;
      this.#timer.handle.cancel();
    }
    const delayMs = Math.max(0, dueMs - this.#nowMs());
    const handle = this.#deps.timers.after(delayMs, () => {
      this.#timer = undefined;
      this.#with((running, nowMs) => {
        running.tick(nowMs);
        this.#checkDisk(running, nowMs);
        if (this.#soft?.role === 'leader') this.#keeper?.tick(running.status(), nowMs);
        // Who has no members to wait for is seen to by the introductions.
        if (running.configuration.voters.length === 0) return;
        this.#watch.tick(
          nowMs,
          this.#options.nodeId,
          () => running.configuration,
          (id) => this.#peers.isUp(id),
        );
      });
    });
    this.#timer = { handle, dueMs };
  }

  #checkDisk(core: RaftNode, nowMs: number): void {
    const stalledMs = this.#writer?.stalledForMs() ?? 0;
    if (stalledMs < DISK_STALL_MS || this.#soft?.role !== 'leader') return;
    const result = core.transferLeadership(undefined, nowMs);
    if (!result.ok || core.status().transferTo === undefined) return;
    this.#deps.logger.warn('the disk hangs: handing the quorum over', {
      stalledMs: Math.round(stalledMs),
      to: result.to,
    });
  }

  // ------------------------------------------------------------------------------------------- leadership

  /** The first leader of all puts the members into the log; a leader counts once they are committed. */
  #writeDownMembers(core: RaftNode): void {
    if (this.#membersAreCommitted || this.#soft?.role !== 'leader') return;
    const { leadsForSure, changePending, configurationIndex } = core.status();
    if (!leadsForSure || changePending) return;
    if (configurationIndex === 0) {
      core.changeMembership({ kind: 'update', members: [] }, this.#nowMs());
    } else {
      this.#membersAreCommitted = true;
      this.#report();
    }
  }

  #roleChanged(soft: SoftState): void {
    const before = this.#soft;
    this.#soft = soft;
    this.#metrics.role(soft);
    if (soft.role !== 'leader') this.#membersAreCommitted = false;
    if (before?.role === 'leader' && (soft.role !== 'leader' || soft.term !== before.term)) {
      this.#calls.dropProposals();
      this.#keeper?.reset();
    }
    if (soft.role !== 'leader') for (const tell of this.#leaderWaiters.splice(0)) tell();
    this.#watch.observe(soft, this.#nowMs());
  }

  /** A leader counts only once its own first entry is applied. */
  #report(): void {
    const soft = this.#soft;
    if (soft === undefined) return;
    const { role, term } = soft;
    const isLeader = role === 'leader' && this.#certainTerm === term && this.#membersAreCommitted;
    const leaderId = role === 'leader' && !isLeader ? undefined : soft.leaderId;
    const before = this.#reported;
    this.#metrics.applied(this.#appliedIndex);
    const same =
      before?.isLeader === isLeader && before.term === term && before.leaderId === leaderId;
    if (same) return;
    this.#reported = { isLeader, term, leaderId };
    this.#deps.onLeadership(this.#reported);
  }

  // --------------------------------------------------------------------------------------------- the end

  #fail(error: unknown): void {
    if (this.#isStopped()) return;
    this.#deps.logger.error('the quorum of this node has failed', { error: messageOf(error) });
    this.#end(`the quorum of this node has failed: ${messageOf(error)}`);
    this.#deps.onFailure?.(error);
  }

  #end(why: string): void {
    this.#state = 'stopped';
    this.#timer?.handle.cancel();
    this.#peers.close();
    this.#service.close();
    this.#introductions.close();
    this.#keeper?.reset();
    this.#calls.dropAll(new RelevoError('NOT_CONTROLLER', `${why}; the outcome is unknown`));
    for (const tell of this.#leaderWaiters.splice(0)) tell();
    const before = this.#reported;
    if (before === undefined || !before.isLeader) return;
    this.#reported = { isLeader: false, term: before.term, leaderId: undefined };
    this.#deps.onLeadership(this.#reported);
  }

  #isStopped(): boolean {
    return this.#state === 'stopped';
  }

  #closedBecause(): string | undefined {
    switch (this.#state) {
      case 'running':
        return undefined;
      case 'new':
        return 'the node is starting';
      case 'stopped':
        return 'the quorum of this node has stopped';
    }
  }

  #running(): RaftNode {
    const core = this.#core;
    if (core !== undefined && this.#state === 'running') return core;
    throw new RelevoError('NOT_CONTROLLER', this.#closedBecause() ?? 'the node is starting');
  }

  #refusal(reason: 'notLeader' | 'tooLarge' | 'busy' | 'transferring'): RelevoError {
    switch (reason) {
      case 'notLeader': {
        const { leaderId, leaderAddress } = this.status();
        const where = leaderId === undefined ? 'none is known' : `${leaderId} at ${leaderAddress}`;
        return new RelevoError('NOT_CONTROLLER', `this node does not lead the quorum (${where})`);
      }
      case 'transferring':
        return new RelevoError('NOT_CONTROLLER', 'leadership of the quorum is being handed over');
      case 'tooLarge':
        return new RelevoError('MESSAGE_TOO_LARGE', 'the entry is above the limit of the quorum');
      case 'busy':
        return new RelevoError('THROTTLED', 'too much waits for a majority of the quorum; retry');
    }
  }

  #nowMs(): number {
    return this.#deps.clock.monotonicMs();
  }
}
