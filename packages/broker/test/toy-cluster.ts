/**
 * Three replicas of one partition in a page: the production cores, with toys for the log, the
 * controller, the streams and the disk. Whatever order things happen in, the invariants P1 to P6 must
 * hold after each step; `check` throws when one does not.
 */
import { assert, defined } from '@relevo/base/assert';
import type { BrokerEpoch, BrokerId, LeaderEpoch, Offset, PartitionEpoch } from '@relevo/base/ids';
import { judgePosition } from '@relevo/broker/divergence';
import type { EpochEnd, EpochHistory, StatedPosition } from '@relevo/broker/divergence';
import { FollowerReplica } from '@relevo/broker/follower-replica';
import type { FollowerEffect, LeaderStatement } from '@relevo/broker/follower-replica';
import { LeaderReplica } from '@relevo/broker/leader-replica';
import type { BrokerView, IsrProposal, PartitionState } from '@relevo/broker/leader-replica';
import { ProducePurgatory } from '@relevo/broker/purgatory';

export const REPLICAS: readonly BrokerId[] = [1, 2, 3] as BrokerId[];
export const MIN_ISR = 2;
const LAG_MS = 50;

interface Entry {
  readonly epoch: LeaderEpoch;
  readonly value: number;
}

/** A log whose durable part lags behind, and comes back as it was when the broker crashes. */
export class ToyLog implements EpochHistory, StatedPosition {
  readonly logStartOffset: Offset = 0 as Offset;
  entries: Entry[] = [];
  durable: readonly Entry[] = [];
  syncedEnd = 0;

  get logEndOffset(): Offset {
    return this.entries.length as Offset;
  }
  get endOffset(): Offset {
    return this.logEndOffset;
  }
  get lastEpoch(): LeaderEpoch {
    return this.entries.at(-1)?.epoch ?? (-1 as LeaderEpoch);
  }
  endOffsetForEpoch(asked: LeaderEpoch): EpochEnd {
    for (let at = this.entries.length - 1; at >= 0; at--) {
      const entry = this.entries[at];
      if (entry !== undefined && entry.epoch <= asked) {
        return { epoch: entry.epoch, endOffset: (at + 1) as Offset };
      }
    }
    return { epoch: asked, endOffset: this.logStartOffset };
  }
  sync(): void {
    this.durable = [...this.entries];
    this.syncedEnd = this.entries.length;
  }
  truncate(to: number): void {
    this.entries = this.entries.slice(0, to);
    this.syncedEnd = Math.min(this.syncedEnd, to);
  }
  /** `kept`: what had reached the disk unsynced; otherwise the last synced state comes back. */
  crash(kept: boolean): void {
    if (!kept) this.entries = [...this.durable];
    this.sync();
  }
}

type Mutable<Type> = { -readonly [Key in keyof Type]: Type[Key] };

interface Image extends PartitionState {
  readonly leader: number;
  readonly brokers: ReadonlyMap<BrokerId, BrokerView>;
}

type ToLeader =
  | { readonly kind: 'subscribe'; readonly epoch: LeaderEpoch; readonly at: StatedPosition }
  | { readonly kind: 'ack'; readonly epoch: LeaderEpoch; readonly end: Offset };
type ToFollower = LeaderStatement & { readonly base: number; readonly entries: readonly Entry[] };

interface Link {
  /** The follower's life that dialled. */
  readonly brokerEpoch: BrokerEpoch;
  readonly toLeader: ToLeader[];
  readonly toFollower: ToFollower[];
  /** Up to where the leader has pushed; -1: no subscription. */
  sent: number;
  subscribedEpoch: number;
}

export class ToyBroker {
  readonly id: BrokerId;
  readonly log = new ToyLog();
  alive = true;
  /** Its log cannot be used. */
  damaged = false;
  epoch: BrokerEpoch;
  image: Image;
  leader: LeaderReplica | undefined;
  follower: FollowerReplica | undefined;
  readonly waiting = new ProducePurgatory<{ offset: number; entry: Entry }>();
  link: Link | undefined;
  highWatermark = 0;
  checkpoint = 0;

  constructor(id: BrokerId, image: Image) {
    this.id = id;
    this.epoch = defined(image.brokers.get(id), 'broker').epoch;
    this.image = image;
  }
}

export class ToyCluster {
  nowMs = 0;
  readonly brokers: ToyBroker[];
  readonly images: Image[];
  /** Proposals on their way to the controller, and its answers on their way back. */
  readonly requests: { from: ToyBroker; epoch: BrokerEpoch; proposal: IsrProposal }[] = [];
  readonly acked: { offset: number; entry: Entry; epoch: LeaderEpoch }[] = [];
  readonly counts = { acked: 0, elections: 0, truncations: 0, shrinks: 0, grows: 0 };
  #nextValue = 1;
  #nextBrokerEpoch = 10;
  readonly #written = new Map<string, number>();

  constructor() {
    const first: Image = {
      leader: 1,
      leaderEpoch: 0 as LeaderEpoch,
      partitionEpoch: 0 as PartitionEpoch,
      replicas: REPLICAS,
      isr: REPLICAS,
      elr: [],
      offline: [],
      brokers: new Map(
        REPLICAS.map((id) => [id, { epoch: id as number as BrokerEpoch, fenced: false }]),
      ),
    };
    this.images = [first];
    this.brokers = REPLICAS.map((id) => new ToyBroker(id, first));
    for (const broker of this.brokers) this.#become(broker);
  }

  broker(id: number): ToyBroker {
    return defined(this.brokers[id - 1], `broker ${id}`);
  }
  get truth(): Image {
    return defined(this.images.at(-1), 'image');
  }

  passTime(ms: number): void {
    this.nowMs += ms;
    for (const { follower, alive } of this.brokers) if (alive) follower?.deadline(this.nowMs);
  }

  append(id: number): void {
    const broker = this.broker(id);
    const { leader } = broker;
    if (!broker.alive || leader === undefined || !leader.hasEnoughInSync) return;
    const entry = { epoch: leader.leaderEpoch, value: this.#nextValue++ };
    broker.log.entries.push(entry);
    leader.appended(broker.log.logEndOffset, this.nowMs);
    const offset = broker.log.entries.length - 1;
    broker.waiting.add(broker.log.logEndOffset, Infinity, { offset, entry });
  }

  sync(id: number): void {
    const broker = this.broker(id);
    if (!broker.alive) return;
    broker.log.sync();
    const { follower, leader } = broker;
    if (leader?.synced(broker.log.logEndOffset) === true) this.#watermark(broker);
    if (follower?.phase === 'preparing') this.#prepared(broker, follower);
    else if (follower?.phase === 'following') {
      follower.synced(broker.log.logEndOffset);
      broker.link?.toLeader.push({
        kind: 'ack',
        epoch: follower.leaderEpoch,
        end: broker.log.logEndOffset,
      });
    }
  }

  /** The follower dials, or its stream breaks. */
  connect(id: number): void {
    const broker = this.broker(id);
    if (!broker.alive || broker.follower === undefined || broker.link !== undefined) return;
    broker.link = {
      brokerEpoch: broker.epoch,
      toLeader: [],
      toFollower: [],
      sent: -1,
      subscribedEpoch: -1,
    };
    broker.follower.attach();
  }

  disconnect(id: number): void {
    const broker = this.broker(id);
    broker.link = undefined;
    broker.follower?.detach();
  }

  /** The leader of follower `id`'s image handles what lies on their stream. */
  deliverToLeader(id: number): void {
    const from = this.broker(id);
    const message = from.link?.toLeader.shift();
    if (message === undefined || from.link === undefined || from.image.leader < 0) return;
    const broker = this.broker(from.image.leader);
    const { leader } = broker;
    if (!broker.alive || leader === undefined || leader.leaderEpoch !== message.epoch) {
      from.link.toFollower.push(refusal(message.epoch));
      return;
    }
    if (message.kind === 'subscribe') {
      const verdict = judgePosition(broker.log, message.at);
      assert(verdict.kind !== 'outOfRange', 'the toy log keeps everything');
      if (verdict.kind === 'diverging') {
        from.link.toFollower.push({ ...said(leader), diverging: verdict.from });
        return;
      }
      from.link.sent = message.at.endOffset;
      from.link.subscribedEpoch = message.epoch;
      from.link.toFollower.push(said(leader));
    }
    const verdict = leader.report(
      {
        brokerId: from.id,
        brokerEpoch: from.link.brokerEpoch,
        leaderEpoch: message.epoch,
        syncedEndOffset: message.kind === 'subscribe' ? message.at.endOffset : message.end,
      },
      this.nowMs,
    );
    assert(verdict !== 'beyondEnd', 'nobody acknowledges what the leader never had');
    if (verdict === 'advanced') this.#watermark(broker);
  }

  /** The leader pushes what follower `id` lacks. */
  push(id: number): void {
    const { link, image } = this.broker(id);
    if (link === undefined || link.sent < 0 || image.leader < 0) return;
    const broker = this.broker(image.leader);
    const { leader } = broker;
    if (!broker.alive || leader === undefined) return;
    if (leader.leaderEpoch !== link.subscribedEpoch) return;
    const entries = broker.log.entries.slice(link.sent);
    link.toFollower.push({
      ...said(leader),
      hasBatches: entries.length > 0,
      base: link.sent,
      entries,
    });
    link.sent = broker.log.entries.length;
  }

  deliverToFollower(id: number): void {
    const broker = this.broker(id);
    const { follower, log, link } = broker;
    const message = link?.toFollower.shift();
    if (message === undefined || follower === undefined || !broker.alive) return;
    const effect = follower.receive(message, log, this.nowMs);
    if (effect.kind === 'append') {
      assert(message.base === log.entries.length, 'a push begins where the log ends');
      log.entries.push(...message.entries);
    } else this.#obey(broker, follower, effect);
    broker.highWatermark = follower.highWatermark;
  }

  applyImage(id: number): void {
    const broker = this.broker(id);
    if (!broker.alive) return;
    const next = this.images[this.images.indexOf(broker.image) + 1];
    if (next === undefined) return;
    const old = broker.image;
    broker.image = next;
    for (const [member, { epoch }] of next.brokers) {
      if (old.brokers.get(member)?.epoch === epoch) continue;
      broker.leader?.restarted(member, epoch, this.nowMs);
    }
    if (next.leaderEpoch !== old.leaderEpoch) this.#become(broker);
    else if (broker.leader?.applyState(next, MIN_ISR, this.nowMs) === true) this.#watermark(broker);
  }

  propose(id: number): void {
    const broker = this.broker(id);
    if (!broker.alive) return;
    const { brokers } = broker.image;
    const proposal =
      broker.leader?.pendingProposal ??
      broker.leader?.proposeIsr((each) => brokers.get(each), this.nowMs);
    if (proposal !== undefined) this.requests.push({ from: broker, epoch: broker.epoch, proposal });
  }

  /** The controller handles a proposal; its answer arrives at once, or never. */
  decide(which: number, answerArrives: boolean): void {
    const [request] = this.requests.splice(which % Math.max(1, this.requests.length), 1);
    if (request === undefined) return;
    const { from, proposal } = request;
    const { truth } = this;
    const stale =
      truth.leaderEpoch !== proposal.leaderEpoch ||
      truth.partitionEpoch !== proposal.partitionEpoch ||
      truth.brokers.get(from.id)?.epoch !== request.epoch;
    const unfit = proposal.isr.some(({ brokerId, brokerEpoch }) => {
      const view = truth.brokers.get(brokerId);
      if (view?.epoch !== brokerEpoch) return true;
      const joins = !truth.isr.includes(brokerId);
      return joins && (view.fenced || truth.offline.includes(brokerId));
    });
    if (!stale && !unfit) {
      this.counts.shrinks += proposal.leaving.length;
      this.counts.grows += proposal.joining.length;
      this.#publish({ isr: proposal.isr.map(({ brokerId }) => brokerId) });
    }
    const { leader } = from;
    if (!answerArrives || !from.alive || leader?.leaderEpoch !== proposal.leaderEpoch) return;
    const moved = leader.isrOutcome(
      proposal,
      stale
        ? { kind: 'unknown' }
        : unfit
          ? { kind: 'refused' }
          : {
              kind: 'accepted',
              isr: this.truth.isr,
              elr: this.truth.elr,
              partitionEpoch: this.truth.partitionEpoch,
            },
      this.nowMs,
    );
    if (moved) this.#watermark(from);
  }

  /** The broker's session ends: it leaves the in-sync set unless it is the last, and cannot lead. */
  fence(id: number): void {
    const { truth } = this;
    const view = defined(truth.brokers.get(id as BrokerId), 'broker');
    if (view.fenced && (truth.isr.length === 1 || !truth.isr.includes(id as BrokerId))) return;
    const brokers = new Map(truth.brokers).set(id as BrokerId, { ...view, fenced: true });
    const others = truth.isr.filter((each) => each !== id);
    this.#publish({ brokers, isr: others.length === 0 ? truth.isr : others });
  }

  unfence(id: number): void {
    const { truth } = this;
    const view = defined(truth.brokers.get(id as BrokerId), 'broker');
    if (!view.fenced || !this.broker(id).alive || view.epoch !== this.broker(id).epoch) return;
    const brokers = new Map(truth.brokers).set(id as BrokerId, { ...view, fenced: false });
    this.#publish({ brokers });
  }

  /** An election that nothing calls for: the preferred leader, say. */
  moveLeader(id: number): void {
    const view = this.truth.brokers.get(id as BrokerId);
    const { truth } = this;
    const may = truth.isr.includes(id as BrokerId) && !truth.offline.includes(id as BrokerId);
    if (view?.fenced !== false || !may || truth.leader === id) return;
    this.#publish({ leader: id });
  }

  crash(id: number, kept: boolean): void {
    const broker = this.broker(id);
    if (!broker.alive) return;
    broker.alive = false;
    broker.leader = undefined;
    broker.follower = undefined;
    broker.link = undefined;
    broker.waiting.drain(() => {});
    broker.log.crash(kept);
    broker.highWatermark = broker.checkpoint;
    for (const other of this.brokers) {
      if (other.image.leader === id) this.disconnect(other.id);
    }
  }

  /** Durable bytes of the replica are damaged, and somebody else has them whole: nobody can use its log. */
  damage(id: number): void {
    const broker = this.broker(id);
    const { isr, elr } = this.truth;
    const others = [...isr, ...elr].filter((each) => each !== id);
    if (!others.some((each) => !this.broker(each).damaged)) return;
    broker.damaged = true;
    broker.leader = undefined;
    broker.follower?.stop();
    broker.follower = undefined;
    broker.waiting.drain(() => {});
    for (const other of this.brokers) {
      if (other.id === id || other.image.leader === id) this.disconnect(other.id);
    }
  }

  /** The broker tells the controller; then it copies the log anew, from wherever somebody leads. */
  report(id: number): void {
    const broker = this.broker(id);
    if (!broker.alive || !broker.damaged) return;
    const { isr, elr, offline } = this.truth;
    const self = broker.id;
    if (!offline.includes(self)) {
      const others = isr.filter((each) => each !== self);
      const isLast = others.length === 0 && elr.every((each) => each === self);
      this.#publish({ offline: [...offline, self], isr: isLast ? isr : others }, self);
      return;
    }
    // As far as it has heard.
    const { image } = broker;
    const isOut = !image.isr.includes(self) && !image.elr.includes(self);
    if (image.leader < 0 || !image.offline.includes(self) || !isOut) return;
    broker.damaged = false;
    broker.log.truncate(0);
    broker.log.sync();
    broker.highWatermark = 0;
    broker.checkpoint = 0;
    this.#publish({ offline: offline.filter((each) => each !== self) });
    this.#become(broker);
  }

  /**
   * Registers anew (fenced until a heartbeat), and stays in the in-sync set: what it had it still has. It
   * knows nothing but its image at the start.
   */
  restart(id: number): void {
    const broker = this.broker(id);
    if (broker.alive) return;
    broker.alive = true;
    broker.epoch = this.#nextBrokerEpoch++ as BrokerEpoch;
    const view = { epoch: broker.epoch, fenced: true };
    // Fenced first: a leader that restarts comes back under a new epoch (P2).
    const brokers = new Map(this.truth.brokers).set(broker.id, view);
    this.#publish({ brokers, offline: this.truth.offline.filter((each) => each !== id) });
    broker.image = this.truth;
    this.#become(broker);
  }

  checkpointWatermark(id: number): void {
    const broker = this.broker(id);
    if (broker.alive) broker.checkpoint = Math.min(broker.highWatermark, broker.log.syncedEnd);
  }

  check(): void {
    for (const broker of this.brokers) {
      for (const [offset, { epoch, value }] of broker.log.entries.entries()) {
        const key = `${epoch}@${offset}`;
        const known = this.#written.get(key);
        assert(known === undefined || known === value, 'P2: one byte string for ever', { key });
        this.#written.set(key, value);
      }
      const { leader } = broker;
      if (leader === undefined) continue;
      for (const member of [...this.truth.isr, ...this.truth.elr]) {
        const { log, damaged } = this.broker(member);
        if (damaged) continue;
        for (let offset = 0; offset < leader.highWatermark; offset++) {
          const [mine, theirs] = [broker.log.entries[offset], log.entries[offset]];
          assert(mine?.value === theirs?.value, 'P1: below the HW all who may lead are the same', {
            leader: broker.id,
            member,
            offset,
            mine: mine?.value,
            theirs: theirs?.value,
          });
        }
      }
    }
  }

  /** One change, one image; a leader that is not fit, or is not in sync any more, is replaced in it. */
  #publish(change: Partial<Image>, lost?: BrokerId): void {
    const { truth } = this;
    const next: Mutable<Image> = {
      ...truth,
      ...change,
      partitionEpoch: (truth.partitionEpoch + 1) as PartitionEpoch,
    };
    const fit = (id: BrokerId): boolean =>
      next.brokers.get(id)?.fenced === false && !next.offline.includes(id);
    const sure = [...truth.isr, ...truth.elr].filter((id) => id !== lost);
    if (!next.isr.some((id) => id === next.leader && fit(id))) {
      const inSync = next.isr.find(fit);
      const beside = next.isr.length < MIN_ISR ? sure.find(fit) : undefined;
      next.leader = inSync ?? beside ?? -1;
      if (inSync === undefined && beside !== undefined) next.isr = [beside];
    }
    next.elr = next.isr.length < MIN_ISR ? sure.filter((id) => !next.isr.includes(id)) : [];
    if (next.leader !== truth.leader) {
      this.counts.elections += 1;
      next.leaderEpoch = (truth.leaderEpoch + 1) as LeaderEpoch;
    }
    this.images.push(next);
  }

  #become(broker: ToyBroker): void {
    const { image, log } = broker;
    this.disconnect(broker.id);
    broker.follower?.stop();
    broker.follower = undefined;
    broker.leader = undefined;
    broker.waiting.drain(() => {});
    if (broker.damaged) return;
    const highWatermark = broker.highWatermark as Offset;
    if (image.leader !== broker.id) {
      broker.follower = new FollowerReplica({
        leaderEpoch: image.leaderEpoch,
        highWatermark,
        syncedEndOffset: log.syncedEnd as Offset,
        committedMayBeLost: false,
      });
      return;
    }
    for (const { offset, entry, epoch } of this.acked) {
      // An election that was overtaken meanwhile serves nobody; its leader may know less.
      if (epoch > image.leaderEpoch || image.leaderEpoch < this.truth.leaderEpoch) continue;
      assert(
        log.entries[offset]?.value === entry.value,
        'P6: every later leader has what was acknowledged',
        { leader: broker.id, epoch: image.leaderEpoch, offset },
      );
    }
    broker.leader = new LeaderReplica(
      { localId: broker.id, replicaLagMs: LAG_MS },
      {
        state: image,
        minIsr: MIN_ISR,
        epochStartOffset: log.logEndOffset,
        syncedEndOffset: log.syncedEnd as Offset,
        highWatermark,
      },
      this.nowMs,
    );
    this.#watermark(broker);
  }

  #watermark(broker: ToyBroker): void {
    const leader = defined(broker.leader, 'leader');
    broker.highWatermark = leader.highWatermark;
    broker.waiting.reach(leader.highWatermark, ({ offset, entry }) => {
      const holders = this.brokers.filter(
        ({ log }) => log.syncedEnd > offset && log.entries[offset]?.value === entry.value,
      );
      assert(holders.length >= MIN_ISR, 'P6: acknowledged means synced on enough', { offset });
      this.acked.push({ offset, entry, epoch: leader.leaderEpoch });
      this.counts.acked += 1;
    });
  }

  #obey(broker: ToyBroker, follower: FollowerReplica, effect: FollowerEffect): void {
    if (effect.kind === 'truncate') {
      this.counts.truncations += 1;
      broker.log.truncate(effect.to);
      follower.truncated(broker.log.logEndOffset);
    }
    assert(effect.kind !== 'restart', 'the toy log keeps everything');
    assert(effect.kind !== 'leaderLacks', 'P5: no leader lacks what is committed', { ...effect });
  }

  #prepared(broker: ToyBroker, follower: FollowerReplica): void {
    const { lastEpoch, endOffset } = broker.log;
    const effect = follower.prepared({ lastEpoch, endOffset }, this.nowMs);
    assert(effect.kind === 'subscribe' && broker.link !== undefined, 'subscribes', { ...effect });
    broker.link.sent = -1;
    broker.link.toLeader.push({
      kind: 'subscribe',
      epoch: follower.leaderEpoch,
      at: effect.position,
    });
  }
}

const said = (leader: LeaderReplica): ToFollower => ({
  leaderEpoch: leader.leaderEpoch,
  error: 'NONE',
  highWatermark: leader.highWatermark,
  logStartOffset: 0 as Offset,
  diverging: undefined,
  hasBatches: false,
  base: 0,
  entries: [],
});

const refusal = (leaderEpoch: LeaderEpoch): ToFollower => ({
  leaderEpoch,
  error: 'NOT_LEADER_OR_FOLLOWER',
  highWatermark: 0 as Offset,
  logStartOffset: 0 as Offset,
  diverging: undefined,
  hasBatches: false,
  base: 0,
  entries: [],
});
