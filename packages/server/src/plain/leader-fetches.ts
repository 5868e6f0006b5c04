/**
 * The fetches of all plain consumers of this broker, a few requests for each leader:
 *
 *     wanted ─> queued ─> in a request ─┬─> records or an error: the waiting consumers are told
 *                 ↑                     └─> nothing new: back into the queue
 *                 └──────────────────────────┘
 *
 * Consumers that want the same offset of a partition share one want. New wants are sent at once. What was
 * found to have nothing new gathers in one long request: while that one is under way, others come back
 * soon, and are sent again together. So thousands of idle consumers cost a broker little more than one.
 *
 * Answers are given out over as many turns of the loop as they take: thousands of consumers that follow one
 * partition leave room for heartbeats and replication, and get more records at a time.
 */
import { messageOf } from '@relevo/base/errors';
import { RpcError } from '@relevo/base/ports';
import type { Timers } from '@relevo/base/ports';
import { fetchRequest } from '@relevo/rpc/gen/client/fetch';
import type {
  FetchPartition,
  FetchRequest,
  FetchResponse,
  FetchedPartition,
} from '@relevo/rpc/gen/client/fetch';
import type { LeaderCalls } from './leader-calls.ts';

/** How long a leader holds the only request under way while it has nothing for it. */
const LONG_WAIT_MS = 2000;
/** And any other one. */
const SHORT_WAIT_MS = 50;
/** Requests under way to one leader; FetchService takes sixteen on a stream. */
const REQUESTS_MAX = 12;
/** Wants in one request. */
const WANTS_PER_REQUEST_MAX = 1_000;
/** Bytes of one answer. */
const FETCH_BYTES = 1024 * 1024;
/** Wants that come within this time go in one request, ms. */
const GATHER_MS = 1;
/** What is given to consumers in one turn of the loop, bytes; the rest waits for the next turn. */
const TURN_BYTES = 512 * 1024;
/** An answer counts for so many bytes more: what a message costs, however small. */
const DELIVERY_BYTES = 16 * 1024;

/** A consumer that waits for one partition. */
export interface FetchWaiter {
  /** Nobody waits any more. */
  readonly isGone: () => boolean;
  /** To be told also that there is nothing new. */
  readonly wantsEmpty: boolean;
  readonly fetched: (answer: FetchedPartition) => void;
  /** The request's outcome is not known, as the leader could not be reached or has gone. */
  readonly failed: (error: RpcError) => void;
}

interface Want {
  readonly at: FetchPartition;
  waiters: FetchWaiter[];
  /** One of the waiters has not been in a request yet. */
  isNew: boolean;
}

interface Delivery {
  readonly waiter: FetchWaiter;
  readonly answer: FetchedPartition;
}

interface Lane {
  readonly address: string;
  /** By what is wanted. */
  readonly queued: Map<string, Want>;
  underWay: number;
  /** Of those, how many come back soon. */
  short: number;
  scheduled: boolean;
}

export interface LeaderFetchesDeps {
  readonly timers: Timers;
  readonly calls: LeaderCalls<FetchRequest, FetchResponse>;
}

export class LeaderFetches {
  readonly #deps: LeaderFetchesDeps;
  readonly #lanes = new Map<string, Lane>();
  #deliveries: Delivery[] = [];
  #delivered = 0;
  #delivering = false;

  constructor(deps: LeaderFetchesDeps) {
    this.#deps = deps;
  }

  /** Asks the leader at `address`; the waiter is told once, unless it is gone. */
  fetch(address: string, at: FetchPartition, waiter: FetchWaiter): void {
    let lane = this.#lanes.get(address);
    if (lane === undefined) {
      lane = { address, queued: new Map(), underWay: 0, short: 0, scheduled: false };
      this.#lanes.set(address, lane);
    }
    this.#queue(lane, at, [waiter], true);
  }

  #queue(lane: Lane, at: FetchPartition, waiters: readonly FetchWaiter[], isNew: boolean): void {
    const key = keyOf(at);
    const known = lane.queued.get(key);
    if (known === undefined) lane.queued.set(key, { at, waiters: [...waiters], isNew });
    else {
      known.waiters.push(...waiters);
      known.isNew ||= isNew;
    }
    this.#schedule(lane);
  }

  #schedule(lane: Lane): void {
    if (lane.scheduled || lane.underWay >= REQUESTS_MAX) return;
    lane.scheduled = true;
    this.#deps.timers.after(GATHER_MS, () => {
      lane.scheduled = false;
      this.#send(lane);
    });
  }

  #send(lane: Lane): void {
    // What has waited before waits for the next request that comes back, and goes with it.
    if (lane.short > 0 && ![...lane.queued.values()].some(({ isNew }) => isNew)) return;
    const wants = takeWants(lane);
    if (wants.size === 0) {
      if (lane.queued.size === 0 && lane.underWay === 0) this.#lanes.delete(lane.address);
      return;
    }
    const isShort = lane.underWay > 0;
    lane.underWay += 1;
    if (isShort) lane.short += 1;
    const settled = (): void => {
      lane.underWay -= 1;
      if (isShort) lane.short -= 1;
      this.#schedule(lane);
    };
    this.#deps.calls
      .call(lane.address, (correlationId) =>
        fetchRequest({
          correlationId,
          maxWaitMs: isShort ? SHORT_WAIT_MS : LONG_WAIT_MS,
          minBytes: 1,
          maxBytes: FETCH_BYTES,
          partitions: [...wants.values()].map(({ at }) => at),
        }),
      )
      .then(
        (response) => {
          this.#answered(lane, wants, response);
          settled();
        },
        (error: unknown) => {
          const failure =
            error instanceof RpcError ? error : new RpcError('INTERNAL', messageOf(error));
          for (const { waiters } of wants.values()) {
            for (const waiter of waiters) if (!waiter.isGone()) waiter.failed(failure);
          }
          settled();
        },
      );
    // What is left wants a partition that this request asks for already, at another offset.
    if (lane.queued.size > 0) this.#schedule(lane);
  }

  #answered(lane: Lane, wants: ReadonlyMap<string, Want>, response: FetchResponse): void {
    const told = new Set<Want>();
    for (const fetched of response.partitions) {
      const want = wants.get(nameOf(fetched.topicId, fetched.partition));
      if (want === undefined || told.has(want)) continue;
      told.add(want);
      this.#settle(lane, want, fetched);
    }
    for (const want of wants.values())
      if (!told.has(want)) this.#requeue(lane, want.at, want.waiters);
  }

  #settle(lane: Lane, { at, waiters }: Want, fetched: FetchedPartition): void {
    const isEmpty = fetched.error === 0 && fetched.batches.length === 0;
    const waiting: FetchWaiter[] = [];
    for (const waiter of waiters) {
      if (isEmpty && !waiter.wantsEmpty) waiting.push(waiter);
      else this.#deliveries.push({ waiter, answer: fetched });
    }
    this.#requeue(lane, at, waiting);
    if (this.#delivering) return;
    this.#delivering = true;
    this.#deliver();
  }

  #deliver(): void {
    let room = TURN_BYTES;
    while (room > 0) {
      const next = this.#deliveries[this.#delivered];
      if (next === undefined) {
        this.#deliveries = [];
        this.#delivered = 0;
        this.#delivering = false;
        return;
      }
      this.#delivered += 1;
      if (next.waiter.isGone()) continue;
      room -= next.answer.batches.length + DELIVERY_BYTES;
      next.waiter.fetched(next.answer);
    }
    if (this.#delivered > this.#deliveries.length / 2) {
      this.#deliveries = this.#deliveries.slice(this.#delivered);
      this.#delivered = 0;
    }
    this.#deps.timers.soon(() => this.#deliver());
  }

  #requeue(lane: Lane, at: FetchPartition, waiters: readonly FetchWaiter[]): void {
    const live = waiters.filter((waiter) => !waiter.isGone());
    if (live.length > 0) this.#queue(lane, at, live, false);
  }
}

/** Takes wants off the queue for one request, by partition: an answer names no offset. */
function takeWants(lane: Lane): Map<string, Want> {
  const wants = new Map<string, Want>();
  for (const [key, want] of lane.queued) {
    if (wants.size >= WANTS_PER_REQUEST_MAX) break;
    const name = nameOf(want.at.topicId, want.at.partition);
    want.waiters = want.waiters.filter((waiter) => !waiter.isGone());
    if (want.waiters.length > 0 && wants.has(name)) continue;
    lane.queued.delete(key);
    if (want.waiters.length > 0) wants.set(name, want);
  }
  return wants;
}

const nameOf = (topicId: string, partition: number): string => `${topicId}/${partition}`;

/** Wants are the same when all that is asked for is. */
const keyOf = (at: FetchPartition): string => Object.values(at).join('/');
