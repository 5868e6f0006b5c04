/**
 * Calls of `Produce.Send` that their callers number (producer id, epoch, partition, sequence). Each becomes
 * one batch under the caller's own numbers, so that the partition's log knows a repeat of it, whichever
 * broker it comes through, and nothing is remembered here. Such a batch may be sent to leaders as often as it
 * takes:
 *
 *     wait for one's turn ─> leader ─> its answer, or none in time ─┬─> receipt, or a refusal
 *                              ↑                                    │
 *                              └────── later, while there is time ──┘
 *
 * Calls of one producer to one partition take turns in the order in which they came: one that had to try
 * again would else be overtaken, and those after it be refused for the hole.
 */
import { RelevoError, errorCodeOf, messageOf, ERRORS } from '@relevo/base/errors';
import type { ErrorCode } from '@relevo/base/errors';
import { NO_BROKER, partitionName } from '@relevo/base/ids';
import type { Uuid } from '@relevo/base/ids';
import type { Clock, Crc32c, Random, Timers } from '@relevo/base/ports';
import { backoffMs } from '@relevo/base/retry';
import type { ClusterImage } from '@relevo/controller/image';
import { isProducerIdIssued } from '@relevo/controller/producer-id-commands';
import { SEQUENCE_MAX } from '@relevo/record/batch-header';
import {
  produceRequest,
  type ProduceRequest,
  type ProduceResponse,
  type SendRequest,
} from '@relevo/rpc/gen/client/produce';
import { answerWithin } from './leader-calls.ts';
import type { LeaderCalls } from './leader-calls.ts';
import { buildBatch } from './plain-jobs.ts';
import type { BatchProducer, JobRecord } from './plain-jobs.ts';

/** A leader that answers nothing for so long is asked again, or the next one is. */
export const ATTEMPT_MS = 3_000;
/** So long another broker may know of a producer id that this one does not know of. */
const ISSUED_LAG_MS = 2_000;
const RETRY = { initialMs: 10, maxMs: 250, factor: 2, jitter: 0.2 };
const EPOCH_MAX = 32_767;

/** The caller's numbers. */
export interface Numbers {
  readonly producer: BatchProducer;
  readonly partition: number;
}

export interface NumberedSend extends Numbers {
  readonly topicId: Uuid;
  readonly topic: string;
  readonly records: readonly JobRecord[];
  /** On the monotonic clock. */
  readonly endMs: number;
}

export interface NumberedSendsDeps {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly random: Random;
  readonly crc32c: Crc32c;
  readonly image: () => ClusterImage;
  readonly calls: LeaderCalls<ProduceRequest, ProduceResponse>;
}

/** What became of a batch so far. */
interface Attempts {
  /** An attempt may have been written. */
  uncertain: boolean;
  /** Why the last one failed. */
  last: string;
  code: ErrorCode;
}

/** Undefined: the call is not numbered. Throws a RelevoError where the numbers are not whole. */
export function numbersOf(request: SendRequest, acks: number): Numbers | undefined {
  // -1 is what callers send who set every field.
  const { producerId = -1, producerEpoch = -1, partition = -1, sequence = -1 } = request;
  const numbers = { producer_id: producerId, producer_epoch: producerEpoch, partition, sequence };
  const missing = Object.entries(numbers).flatMap(([name, value]) => (value === -1 ? [name] : []));
  if (missing.length === 4) return undefined;
  if (missing.length > 0) {
    throw invalid(
      `a numbered call needs all of producer_id, producer_epoch, partition and sequence, ` +
        `${missing.join(' and ')} ${missing.length === 1 ? 'is' : 'are'} missing`,
    );
  }
  const isInRange =
    producerId >= 0 &&
    producerEpoch >= 0 &&
    producerEpoch <= EPOCH_MAX &&
    sequence >= 0 &&
    sequence <= SEQUENCE_MAX;
  if (!isInRange) {
    throw invalid(
      `producer_id ${producerId}, producer_epoch ${producerEpoch}, sequence ${sequence}: use an id from ` +
        `InitProducerId, an epoch from 0 to ${EPOCH_MAX}, a sequence from 0 to ${SEQUENCE_MAX}`,
    );
  }
  if (acks !== -1) {
    const message = `acks is ${acks} in a numbered call: use -1 (all in-sync replicas)`;
    throw new RelevoError('INVALID_REQUIRED_ACKS', message);
  }
  checkRecords(request, partition);
  return { producer: { id: producerId, epoch: producerEpoch, sequence }, partition };
}

function checkRecords({ records }: SendRequest, partition: number): void {
  const other = records.find((record) => (record.partition ?? partition) !== partition);
  if (other !== undefined) {
    throw invalid(
      `a record names partition ${other.partition}, the numbered call partition ${partition}: ` +
        'send a call for each partition',
    );
  }
  const stamped = records.filter(({ timestampMs }) => timestampMs !== undefined).length;
  if (stamped === 0 || stamped === records.length) return;
  // Else a repeat could not be told what the others were given.
  throw invalid(
    `${stamped} of ${records.length} records bear a timestamp_ms: in a numbered call give one to each ` +
      'of them, or to none',
  );
}

export class NumberedSends {
  readonly #deps: NumberedSendsDeps;
  /** By partition and producer: ends with the last one's turn. */
  readonly #turns = new Map<string, Promise<void>>();

  constructor(deps: NumberedSendsDeps) {
    this.#deps = deps;
  }

  /** Resolves with the leader's receipt. Rejects with a RelevoError that tells what is known. */
  async write(send: NumberedSend): Promise<ProduceResponse> {
    const key = `${send.topicId}/${send.partition}/${send.producer.id}`;
    const before = this.#turns.get(key);
    let done = (): void => undefined;
    const mine = new Promise<void>((resolve) => (done = resolve));
    const turn = before === undefined ? mine : before.then(() => mine);
    this.#turns.set(key, turn);
    try {
      const state: Attempts = { uncertain: false, last: NO_TURN, code: 'REQUEST_TIMED_OUT' };
      if (before !== undefined && !(await this.#inTime(before, send))) throw tooLate(send, state);
      return await this.#insist(send, state);
    } finally {
      done();
      if (this.#turns.get(key) === turn) this.#turns.delete(key);
    }
  }

  async #insist(send: NumberedSend, state: Attempts): Promise<ProduceResponse> {
    const { clock, random, timers } = this.#deps;
    const startMs = clock.monotonicMs();
    for (let attempt = 0; ; attempt++) {
      const nowMs = clock.monotonicMs();
      if (nowMs >= send.endMs) throw tooLate(send, state);
      const address = this.#leaderAddress(send);
      const known = this.#isIssued(send, nowMs - startMs);
      if (address !== undefined && known) {
        const response = await this.#try(send, state, address);
        if (response !== undefined) return response;
      } else {
        state.last = known ? NO_LEADER : NOT_ISSUED;
        state.code = 'LEADER_NOT_AVAILABLE';
      }
      const waitMs = Math.min(
        Math.max(0, send.endMs - clock.monotonicMs()),
        backoffMs(RETRY, attempt, random),
      );
      await new Promise<void>((resume) => timers.after(waitMs, resume));
    }
  }

  /** Undefined: to be tried again. */
  async #try(
    send: NumberedSend,
    state: Attempts,
    address: string,
  ): Promise<ProduceResponse | undefined> {
    const { clock, timers, crc32c, calls } = this.#deps;
    const leftMs = send.endMs - clock.monotonicMs();
    const timeoutMs = Math.max(1, Math.floor(Math.min(leftMs, ATTEMPT_MS)));
    // Built anew for each attempt: the leader may be this process, which patches the bytes.
    const batch = buildBatch([send], send.producer, crc32c);
    const { topicId, partition } = send;
    const answer = calls.call(address, (correlationId) =>
      produceRequest({
        correlationId,
        topicId,
        partition,
        leaderEpoch: -1,
        acks: -1,
        timeoutMs,
        batch,
      }),
    );
    let response: ProduceResponse;
    try {
      response = await answerWithin(timers, timeoutMs, answer);
    } catch (error) {
      state.uncertain = true;
      state.last = messageOf(error);
      return undefined;
    }
    return judged(send, state, response);
  }

  /** False: the time was up before. */
  #inTime(event: Promise<void>, { endMs }: { readonly endMs: number }): Promise<boolean> {
    const { clock, timers } = this.#deps;
    return new Promise((resolve) => {
      const leftMs = Math.max(0, endMs - clock.monotonicMs());
      const timer = timers.after(leftMs, () => resolve(false));
      void event.then(() => {
        timer.cancel();
        resolve(true);
      });
    });
  }

  /** False: this broker may be about to hear of it. Throws where nobody was given the id. */
  #isIssued({ producer, topic, partition }: NumberedSend, sinceMs: number): boolean {
    if (isProducerIdIssued(this.#deps.image(), producer.id)) return true;
    if (producer.id > 0 && sinceMs < ISSUED_LAG_MS) return false;
    throw new RelevoError(
      'UNKNOWN_PRODUCER_ID',
      `${partitionName(topic, partition)}: producer_id ${producer.id} has not been given to anybody ` +
        'as far as this broker knows, nothing was written: get one from InitProducerId',
    );
  }

  #leaderAddress({ topicId, topic, partition }: NumberedSend): string | undefined {
    const image = this.#deps.image();
    const partitions = image.topicsById.get(topicId)?.partitions;
    if (partitions === undefined) {
      const message = `topic "${topic}" was deleted while the call was under way`;
      throw new RelevoError('UNKNOWN_TOPIC_OR_PARTITION', message);
    }
    const leader = partitions[partition]?.leader ?? NO_BROKER;
    return leader === NO_BROKER ? undefined : image.brokers.get(leader)?.peerAddress;
  }
}

/** Leaders give these before they write anything. */
const REFUSED_BEFORE_APPEND: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'DISK_FULL',
  'LEADER_NOT_AVAILABLE',
  'NOT_ENOUGH_REPLICAS',
  'UNKNOWN_TOPIC_ID',
  'UNKNOWN_TOPIC_OR_PARTITION',
]);
const NO_LEADER = 'the partition has no leader';
const NOT_ISSUED = 'this broker does not know yet that the producer_id was given to somebody';
const NO_TURN = 'calls of the same producer were before it';

/** The receipt; undefined where another attempt may help; throws where none does. */
function judged(
  send: NumberedSend,
  state: Attempts,
  response: ProduceResponse,
): ProduceResponse | undefined {
  if (response.error === 0) return response;
  const code = errorCodeOf(response.error);
  state.last = response.message;
  state.code = code;
  if (!ERRORS[code].retriable) throw refused(send, state, code);
  if (!REFUSED_BEFORE_APPEND.has(code)) state.uncertain = true;
  return undefined;
}

/** A sequence error is what the log says now; of any other refusal an earlier attempt knew nothing. */
function refused(send: NumberedSend, state: Attempts, code: ErrorCode): RelevoError {
  const isCertain = !state.uncertain || code === 'DUPLICATE_SEQUENCE_NUMBER';
  return new RelevoError(code, isCertain ? state.last : `${unknownOf(send)}: ${state.last}`);
}

function tooLate(send: NumberedSend, { uncertain, last, code }: Attempts): RelevoError {
  if (uncertain) return new RelevoError('REQUEST_TIMED_OUT', `${unknownOf(send)}: ${last}`);
  const name = partitionName(send.topic, send.partition);
  return new RelevoError(code, `${name} took nothing in time, nothing was written: ${last}`);
}

const unknownOf = ({ topic, partition }: NumberedSend): string =>
  `${partitionName(topic, partition)} did not confirm the records, whether they were written is unknown ` +
  '(to know, repeat the call as it is)';

const invalid = (message: string): RelevoError => new RelevoError('INVALID_REQUEST', message);
