/**
 * The active controller's way from commands to committed records.
 *
 * A command is decided at once, against an image that holds all that was decided before it, committed or
 * not (the speculative image); its answer waits until its records are committed. While an entry is under
 * way to the quorum, further decisions gather, and the next entry takes them all.
 *
 * A refusal, or a decision that changes nothing, is an answer too (K3). It waits for what it was decided
 * upon ("the topic exists" is true only once the topic is), and for a majority to confirm that this node
 * still led after the question had come: a controller that was cut off or frozen knows only the past.
 * Confirmations are shared: those that ask in one turn, or while two are under way, wait for the same one.
 *
 * When leadership or a proposal is lost, so is everything speculative: all who wait are told
 * NOT_CONTROLLER, which means that the outcome is unknown, and `lost` is called.
 */
import { assert } from '@relevo/base/assert';
import { RelevoError, messageOf } from '@relevo/base/errors';
import { isMutated } from '@relevo/base/mutations';
import type { LogIndex } from '@relevo/base/ids';
import { logIndex } from '@relevo/base/ids';
import type { Timers } from '@relevo/base/ports';
import type {
  AnswerOf,
  ClusterDefaults,
  CommandKind,
  CommandOf,
} from '@relevo/controller/commands';
import { decide } from '@relevo/controller/decide';
import type { ClusterImage } from '@relevo/controller/image';
import type { MetadataRecord } from '@relevo/controller/records';
import { replay } from '@relevo/controller/replay';
import { encodeRecords } from '../metadata/record-codec.ts';

/** Entries above this are split, where the decisions in them allow it. */
export const ENTRY_BYTES_MAX: number = 1024 * 1024;
/** Proposals under way at a time; what comes meanwhile gathers for the next one. */
const IN_FLIGHT_MAX = 2;
/** Confirmations of leadership under way at a time; who asks meanwhile shares the next one. */
const CONFIRMATIONS_MAX = 2;

export interface ProposalsDeps {
  readonly timers: Timers;
  readonly defaults: ClusterDefaults;
  /** Resolves when the entry is committed and in the committed image of this node. */
  readonly propose: (data: Uint8Array) => Promise<LogIndex>;
  /**
   * Resolves when a majority has confirmed, since the call, that this node leads the quorum. Rejects with
   * a RelevoError.
   */
  readonly confirm: () => Promise<void>;
  readonly committed: () => ClusterImage;
  /** Called after everything that waited has been rejected. */
  readonly lost: (reason: string) => void;
}

interface Waiter {
  readonly resolve: () => void;
  readonly reject: (error: RelevoError) => void;
}

/** Records of one decision. */
interface Unit {
  readonly records: readonly MetadataRecord[];
  readonly atomic: boolean;
}

interface Batch {
  readonly units: Unit[];
  readonly waiters: Waiter[];
}

export class Proposals {
  readonly #deps: ProposalsDeps;
  /** Undefined: not active. */
  #speculative: ClusterImage | undefined;
  #open: Batch = { units: [], waiters: [] };
  readonly #inFlight = new Set<Batch>();
  #flushing = false;
  /** Who waits for the next confirmation, and for those under way. */
  #unconfirmed: Waiter[] = [];
  readonly #confirming = new Set<readonly Waiter[]>();
  #confirmScheduled = false;
  /** Tells what came back from an earlier term apart. */
  #generation = 0;

  constructor(deps: ProposalsDeps) {
    this.#deps = deps;
  }

  get active(): boolean {
    return this.#speculative !== undefined;
  }

  /** Everything decided so far, committed or not. */
  speculative(): ClusterImage {
    assert(this.#speculative !== undefined, 'only an active controller speculates');
    return this.#speculative;
  }

  /** Begins to decide, on the committed image of a node that has just become leader. */
  begin(image: ClusterImage): void {
    assert(!this.active, 'an active controller does not begin again');
    this.#generation++;
    this.#speculative = image;
  }

  /** Ends, rejecting all who wait. */
  end(reason: string): void {
    if (!this.active) return;
    this.#speculative = undefined;
    this.#generation++;
    const batches = [...this.#inFlight, this.#open];
    this.#inFlight.clear();
    this.#open = { units: [], waiters: [] };
    this.#flushing = false;
    const unconfirmed = [...this.#confirming, this.#unconfirmed];
    this.#confirming.clear();
    this.#unconfirmed = [];
    this.#confirmScheduled = false;
    const error = new RelevoError(
      'NOT_CONTROLLER',
      `this node is no longer the active controller (${reason}): whether the request was carried out ` +
        'is unknown; ask the new one',
    );
    for (const { waiters } of batches) for (const waiter of waiters) waiter.reject(error);
    for (const waiters of unconfirmed) for (const waiter of waiters) waiter.reject(error);
  }

  /** Rejects with a RelevoError: the refusal, or NOT_CONTROLLER. */
  async execute<Kind extends CommandKind>(
    command: CommandOf<Kind> & { readonly kind: Kind },
  ): Promise<AnswerOf<Kind>> {
    const image = this.#speculative;
    if (image === undefined) {
      throw new RelevoError('NOT_CONTROLLER', 'this node is not the active controller');
    }
    let decision;
    try {
      decision = decide<Kind>(image, command, this.#deps.defaults);
    } catch (refusal) {
      await this.#settled();
      throw refusal;
    }
    const { records, atomic, response } = decision;
    if (records.length === 0) {
      // Nobody is told what became of the activation, and a failover waits for it.
      if (command.kind !== 'activate') await this.#settled();
      return response;
    }
    const at = { index: logIndex(image.index + 1), term: image.term };
    this.#speculative = replay(image, records, at).image;
    this.#open.units.push({ records, atomic });
    await this.#join(this.#open);
    return response;
  }

  /**
   * Resolves when a majority has confirmed that this node led after the call (K3). Rejects with
   * NOT_CONTROLLER, or with why the quorum cannot tell.
   */
  confirmed(): Promise<void> {
    if (!this.active) {
      return Promise.reject(
        new RelevoError('NOT_CONTROLLER', 'this node is not the active controller'),
      );
    }
    return new Promise((resolve, reject) => {
      this.#unconfirmed.push({ resolve, reject });
      this.#scheduleConfirm();
    });
  }

  /** Resolves when everything decided until now is committed, and the leadership since now confirmed. */
  async #settled(): Promise<void> {
    // An entry that is still to be proposed confirms by its commit; one under way may have been
    // acknowledged before the question came.
    if (this.#open.units.length > 0) return this.#join(this.#open);
    const last = [...this.#inFlight].at(-1);
    await Promise.all([
      last === undefined ? undefined : this.#join(last),
      isMutated('refusals-unconfirmed') ? undefined : this.confirmed(),
    ]);
  }

  #scheduleConfirm(): void {
    if (this.#confirmScheduled || this.#unconfirmed.length === 0) return;
    if (this.#confirming.size >= CONFIRMATIONS_MAX) return;
    this.#confirmScheduled = true;
    const generation = this.#generation;
    this.#deps.timers.soon(() => {
      if (generation === this.#generation) this.#confirm(generation);
    });
  }

  #confirm(generation: number): void {
    const waiters = this.#unconfirmed;
    this.#unconfirmed = [];
    this.#confirmScheduled = false;
    this.#confirming.add(waiters);
    const settle = (tell: (waiter: Waiter) => void): void => {
      if (generation !== this.#generation) return;
      this.#confirming.delete(waiters);
      for (const waiter of waiters) tell(waiter);
      this.#scheduleConfirm();
    };
    this.#deps.confirm().then(
      () => settle((waiter) => waiter.resolve()),
      (error: unknown) => {
        const known = error instanceof RelevoError;
        const told = known ? error : new RelevoError('NOT_CONTROLLER', messageOf(error));
        settle((waiter) => waiter.reject(told));
      },
    );
  }

  #join(batch: Batch): Promise<void> {
    return new Promise((resolve, reject) => {
      batch.waiters.push({ resolve, reject });
      this.#scheduleFlush();
    });
  }

  /** With nothing under way the committed image is the speculative one; from then on they share memory. */
  #rejoin(): void {
    const mine = this.#speculative;
    if (mine === undefined || this.#inFlight.size > 0 || this.#open.units.length > 0) return;
    const committed = this.#deps.committed();
    const same =
      committed.nextBrokerEpoch === mine.nextBrokerEpoch &&
      committed.nextProducerId === mine.nextProducerId &&
      committed.topicsById.size === mine.topicsById.size &&
      committed.brokers.size === mine.brokers.size;
    assert(same, 'what was decided is what was committed', { index: committed.index });
    this.#speculative = committed;
  }

  /** Not at once: what is decided in the same turn goes along. */
  #scheduleFlush(): void {
    if (this.#flushing || this.#open.units.length === 0) return;
    if (this.#inFlight.size >= IN_FLIGHT_MAX) return;
    this.#flushing = true;
    const generation = this.#generation;
    this.#deps.timers.soon(() => {
      if (generation !== this.#generation) return;
      this.#flushing = false;
      this.#flush(generation);
    });
  }

  #flush(generation: number): void {
    const batch = this.#open;
    this.#open = { units: [], waiters: [] };
    this.#inFlight.add(batch);
    // The quorum keeps the order of proposals, so the last one stands for all.
    const proposals = entriesOf(batch.units).map((data) => this.#deps.propose(data));
    Promise.all(proposals).then(
      () => {
        if (generation !== this.#generation) return;
        this.#inFlight.delete(batch);
        this.#rejoin();
        for (const waiter of batch.waiters) waiter.resolve();
        this.#scheduleFlush();
      },
      (error: unknown) => {
        if (generation !== this.#generation) return;
        this.end(messageOf(error));
        this.#deps.lost(messageOf(error));
      },
    );
  }
}

/** As few entries as the limit allows. Every prefix of a decision that may be split keeps the invariants. */
function entriesOf(units: readonly Unit[]): Uint8Array[] {
  const data = encodeRecords(units.flatMap((unit) => [...unit.records]));
  if (data.length <= ENTRY_BYTES_MAX) return [data];
  const halves = halvesOf(units);
  return halves === undefined ? [data] : halves.flatMap(entriesOf);
}

function halvesOf(units: readonly Unit[]): [Unit[], Unit[]] | undefined {
  if (units.length > 1) {
    const middle = units.length >> 1;
    return [units.slice(0, middle), units.slice(middle)];
  }
  const [unit] = units;
  if (unit === undefined || unit.atomic || unit.records.length < 2) return undefined;
  const middle = unit.records.length >> 1;
  return [
    [{ records: unit.records.slice(0, middle), atomic: false }],
    [{ records: unit.records.slice(middle), atomic: false }],
  ];
}
