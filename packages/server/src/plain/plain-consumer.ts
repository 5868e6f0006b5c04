/**
 * One `Consume` call: fetches from the leaders of its partitions, one want under way for each, and sends
 * what it decodes. It fetches no faster than the caller takes.
 */
import { RelevoError, errorCodeOf, messageOf, ERRORS } from '@relevo/base/errors';
import { NO_BROKER, partitionName } from '@relevo/base/ids';
import { RpcError } from '@relevo/base/ports';
import type { Clock, MessageStream, Random, Timers } from '@relevo/base/ports';
import { backoffMs } from '@relevo/base/retry';
import type { ClusterImage, TopicImage } from '@relevo/controller/image';
import {
  consumedRecords,
  fetchPartition,
  type ConsumedRecord,
  type ConsumedRecords,
  type ConsumeRequest,
  type EpochEnd,
  type FetchedPartition,
} from '@relevo/rpc/gen/client/fetch';
import { whyNoLeader } from '../partitions/current-leader.ts';
import { inMessages } from './consumed-messages.ts';
import type { BatchDecoder } from './decoded-batches.ts';
import type { LeaderFetches } from './leader-fetches.ts';
import type { LeaderOffsets } from './leader-offsets.ts';

const PARTITION_BYTES = 256 * 1024;
/** How long a partition may not be readable before the caller is told, and the call ends. */
export const UNREADABLE_MAX_MS = 10_000;
/** How often what arrived damaged from the leader is fetched anew before the call ends. */
const REFETCHES_MAX = 5;
const RETRY = { initialMs: 20, maxMs: 500, factor: 2, jitter: 0.2 };
const EARLIEST = -2;
const LATEST = -1;

export interface PlainConsumerDeps {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly random: Random;
  readonly decoder: BatchDecoder;
  readonly fetches: LeaderFetches;
  readonly offsets: LeaderOffsets;
  readonly image: () => ClusterImage;
  /** Throws LEADER_NOT_AVAILABLE while this broker cannot say what there is not. */
  readonly assertCurrent: () => void;
}

interface Position {
  readonly partition: number;
  /** Undefined: still to be looked up. */
  offset: number | undefined;
  /** Where to stop; undefined: never. */
  endOffset: number | undefined;
  /** The leader has found the offset to be in its log: nothing else tells one that is beyond its end. */
  isInLog: boolean;
  /** The leader epoch of the record before the offset; undefined: none was read. */
  lastEpoch: number | undefined;
  busy: boolean;
  failures: number;
  /** Since when it cannot be read, monotonic ms; undefined: it can, or nothing was tried. */
  failsSinceMs: number | undefined;
  /** How often what comes next has arrived damaged. */
  refetches: number;
  /** The leader is to be told so with the next fetch. */
  mustTellDamage: boolean;
}

export class PlainConsumer {
  readonly #deps: PlainConsumerDeps;
  readonly #request: ConsumeRequest;
  readonly #stream: MessageStream<ConsumedRecords>;
  readonly #topic: TopicImage;
  readonly #positions: readonly Position[];
  #blocked = false;
  #ended = false;
  #sent = 0;

  /** Throws a RelevoError when there is no such topic or partition. */
  constructor(
    deps: PlainConsumerDeps,
    request: ConsumeRequest,
    stream: MessageStream<ConsumedRecords>,
  ) {
    this.#deps = deps;
    this.#request = request;
    this.#stream = stream;
    checkFrom(request);
    const topic = deps.image().topicsByName.get(request.topic);
    if (topic === undefined) {
      deps.assertCurrent();
      const message = `topic "${request.topic}" does not exist: create it with relevo topic create`;
      throw new RelevoError('UNKNOWN_TOPIC_OR_PARTITION', message);
    }
    this.#topic = topic;
    const all = topic.partitions.map((_, number) => number);
    const wanted = request.partitions.length > 0 ? [...new Set(request.partitions)] : all;
    for (const number of wanted) {
      if (topic.partitions[number] !== undefined) continue;
      deps.assertCurrent();
      const message = `${topic.name} has no partition ${number}: it has 0 to ${all.length - 1}`;
      throw new RelevoError('UNKNOWN_TOPIC_OR_PARTITION', message);
    }
    const offset = request.from.case === 'offset' ? request.from.value : undefined;
    this.#positions = wanted.map((partition) => ({
      partition,
      offset,
      endOffset: undefined,
      isInLog: false,
      lastEpoch: offset === undefined ? undefined : knownEpoch(request.leaderEpoch),
      busy: false,
      failures: 0,
      failsSinceMs: undefined,
      refetches: 0,
      mustTellDamage: false,
    }));
  }

  start(): void {
    this.#go();
  }

  drained(): void {
    this.#blocked = false;
    this.#go();
  }

  /** The caller is gone, or the broker stops. */
  stop(): void {
    this.#ended = true;
  }

  /** Whatever can be asked for now is asked for, a request per leader. */
  #go(): void {
    if (this.#ended || this.#blocked) return;
    if (this.#isDone()) {
      this.#ended = true;
      this.#stream.end();
      return;
    }
    const byLeader = new Map<string, Position[]>();
    for (const position of this.#positions) {
      if (position.busy || this.#isAtEnd(position)) continue;
      const address = this.#leaderAddress(position.partition);
      if (address === undefined) {
        this.#later([position], this.#whyNotLed(position));
        continue;
      }
      const others = byLeader.get(address);
      if (others === undefined) byLeader.set(address, [position]);
      else others.push(position);
    }
    for (const [address, positions] of byLeader) {
      for (const position of positions) position.busy = true;
      void this.#ask(address, positions);
    }
  }

  async #ask(address: string, positions: readonly Position[]): Promise<void> {
    const lookUp = positions.filter((position) => this.#needsLookUp(position));
    const refused = new Map<number, RpcError>();
    try {
      if (lookUp.length > 0) await this.#lookUp(address, lookUp, refused);
    } catch (error) {
      this.#failedWith(error, positions);
      return;
    }
    if (this.#ended) return;
    const unknown = positions.filter((position) => this.#needsLookUp(position));
    for (const position of positions) {
      if (unknown.includes(position)) continue;
      if (this.#isAtEnd(position)) position.busy = false;
      else this.#fetch(address, position);
    }
    for (const position of unknown) {
      this.#later([position], refused.get(position.partition) ?? this.#whyNotLed(position));
    }
    this.#go();
  }

  #failedWith(error: unknown, positions: readonly Position[]): void {
    if (this.#ended) return;
    if (error instanceof RelevoError) this.#fail(error);
    else if (!(error instanceof RpcError)) this.#fail(asRelevoError(error));
    else if (error.status === 'DATA_LOSS') this.#end(error);
    else this.#later(positions, error);
  }

  #needsLookUp(position: Position): boolean {
    return (
      position.offset === undefined || (this.#request.stopAtEnd && position.endOffset === undefined)
    );
  }

  /** Where to begin, and with `stop_at_end` where to stop. `refused`: by partition, for now. */
  async #lookUp(
    address: string,
    positions: readonly Position[],
    refused: Map<number, RpcError>,
  ): Promise<void> {
    const { from, stopAtEnd } = this.#request;
    const ask = async (timestampMs: number): Promise<Map<number, number>> => {
      const topicId = this.#topic.id;
      const answers = await Promise.all(
        positions.map(({ partition }) =>
          this.#deps.offsets.lookUp(address, { topicId, partition, timestampMs }),
        ),
      );
      return new Map(
        answers.flatMap(({ partition, error, offset, message }): [number, number][] => {
          const code = errorCodeOf(error);
          if (code === 'NONE') return [[partition, offset]];
          if (!ERRORS[code].retriable) throw new RelevoError(code, message);
          refused.set(partition, new RpcError(ERRORS[code].status, message, { code }));
          return [];
        }),
      );
    };
    const latest = await ask(LATEST);
    const begin =
      from.case === 'earliest' || from.case === 'timestampMs'
        ? await ask(from.case === 'earliest' ? EARLIEST : from.value)
        : latest;
    for (const position of positions) {
      const end = latest.get(position.partition);
      const start = begin.get(position.partition);
      if (end === undefined || start === undefined) continue;
      // No record is so late: begin with what comes.
      position.offset ??= start < 0 ? end : start;
      if (stopAtEnd) position.endOffset ??= end;
    }
  }

  /** The partitions are answered one by one, as there is something of each. */
  #fetch(address: string, position: Position): void {
    const failed = (error: unknown): void => this.#failedWith(error, [position]);
    const taken = (): void => {
      position.busy = false;
      this.#go();
    };
    const at = fetchPartition({
      topicId: this.#topic.id,
      partition: position.partition,
      leaderEpoch: -1,
      offset: position.offset ?? 0,
      lastEpoch: position.lastEpoch,
      maxBytes: PARTITION_BYTES,
      damaged: position.mustTellDamage,
    });
    position.mustTellDamage = false;
    this.#deps.fetches.fetch(address, at, {
      isGone: () => this.#ended,
      wantsEmpty: !position.isInLog,
      fetched: (answer) => {
        this.#take(position, answer).then(taken).catch(failed);
      },
      failed,
    });
  }

  async #take(position: Position, fetched: FetchedPartition): Promise<void> {
    const code = errorCodeOf(fetched.error);
    if (code !== 'NONE') {
      const name = partitionName(this.#topic.name, position.partition);
      if (!ERRORS[code].retriable) throw new RelevoError(code, fetched.message || name);
      throw new RpcError(ERRORS[code].status, fetched.message, { code });
    }
    if (fetched.diverging !== undefined) throw truncated(this.#topic, position, fetched.diverging);
    position.failures = 0;
    position.failsSinceMs = undefined;
    position.isInLog = true;
    const records: ConsumedRecord[] = [];
    const damage = await this.#decodeAll(position, fetched, records);
    const { maxRecords } = this.#request;
    const left = maxRecords === 0 ? records.length : maxRecords - this.#sent;
    const some = records.slice(0, Math.max(0, left));
    if (this.#ended) return;
    const name = partitionName(this.#topic.name, position.partition);
    const { messages, tooLarge } = inMessages(some, name);
    for (const message of messages) {
      this.#sent += message.length;
      if (!this.#stream.send(consumedRecords({ records: message }))) this.#blocked = true;
    }
    if (tooLarge !== undefined) {
      this.#end(tooLarge);
      return;
    }
    // What comes before the damage is sent all the same, and may be all that is wanted.
    if (damage === undefined || this.#hasEnough()) return;
    if (this.#request.stopAtEnd && this.#isAtEnd(position)) return;
    if (!damage.onTheWay || position.refetches >= REFETCHES_MAX) throw damage.error;
    // The leader checks what it gives out. It looks once more, and what comes then may be whole.
    position.mustTellDamage = true;
    position.failures = position.refetches++;
    throw new RpcError('UNAVAILABLE', damage.error.message, { code: 'CORRUPT_MESSAGE' });
  }

  /** The records from the position on, which moves past them; returns why one cannot be read. */
  async #decodeAll(
    position: Position,
    fetched: FetchedPartition,
    into: ConsumedRecord[],
  ): Promise<Damage | undefined> {
    const { batches, damage, afterDamage } = await this.#deps.decoder.decode(fetched);
    for (const { nextOffset, leaderEpoch, records } of batches) {
      const from = position.offset ?? 0;
      const end = position.endOffset ?? Infinity;
      for (const record of records) {
        if (record.offset >= from && record.offset < end) into.push(record);
      }
      position.offset = Math.max(from, nextOffset);
      position.lastEpoch = leaderEpoch;
      position.refetches = 0;
    }
    if (damage === undefined) return undefined;
    const name = partitionName(this.#topic.name, position.partition);
    const past = afterDamage === undefined ? '' : `; begin at offset ${afterDamage} to go past it`;
    const message = `${name} at offset ${position.offset ?? 0}: the stored batch cannot be read: ${damage.message}${past}`;
    // One whose CRC is right is as it was written.
    const onTheWay = afterDamage === undefined || damage.code === 'BAD_CRC';
    return { onTheWay, error: new RpcError('DATA_LOSS', message, { code: damage.wireCode }) };
  }

  /** Tries these again after a while. */
  #later(positions: readonly Position[], why: RpcError): void {
    const attempt = Math.max(0, ...positions.map(({ failures }) => failures));
    const nowMs = this.#deps.clock.monotonicMs();
    for (const position of positions) {
      position.busy = true;
      position.failures = attempt + 1;
      position.failsSinceMs ??= nowMs;
      // The next answer says so anew, and that it can be read again.
      position.isInLog = false;
    }
    if (!this.#deps.image().topicsById.has(this.#topic.id)) {
      const message = `topic "${this.#topic.name}" was deleted`;
      this.#fail(new RelevoError('UNKNOWN_TOPIC_OR_PARTITION', message));
      return;
    }
    const stuck = positions.find(
      ({ failsSinceMs }) => nowMs - (failsSinceMs ?? nowMs) >= UNREADABLE_MAX_MS,
    );
    if (stuck !== undefined) {
      this.#end(unreadable(partitionName(this.#topic.name, stuck.partition), why));
      return;
    }
    this.#deps.timers.after(backoffMs(RETRY, attempt, this.#deps.random), () => {
      for (const position of positions) position.busy = false;
      this.#go();
    });
  }

  #fail(error: RelevoError): void {
    const { status } = ERRORS[error.code];
    this.#end(new RpcError(status, messageOf(error), { code: error.code }));
  }

  #end(error: RpcError): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#stream.cancel(error);
  }

  #isAtEnd({ offset, endOffset, isInLog, lastEpoch }: Position): boolean {
    if (offset === undefined || endOffset === undefined) return false;
    // The leader has yet to say whether the record before the offset is the one that the caller has read.
    if (lastEpoch !== undefined && !isInLog) return false;
    return offset === endOffset || (offset > endOffset && isInLog);
  }

  /** What is being taken of a partition may have moved its position, and not be sent yet: it is busy. */
  #isDone(): boolean {
    if (this.#hasEnough()) return true;
    const isRead = (position: Position): boolean => !position.busy && this.#isAtEnd(position);
    return this.#request.stopAtEnd && this.#positions.every(isRead);
  }

  #hasEnough(): boolean {
    const { maxRecords } = this.#request;
    return maxRecords > 0 && this.#sent >= maxRecords;
  }

  #whyNotLed({ partition }: Position): RpcError {
    const known = this.#deps.image().topicsById.get(this.#topic.id)?.partitions[partition];
    const name = partitionName(this.#topic.name, partition);
    const message =
      known === undefined || known.leader !== NO_BROKER
        ? 'its leader gave no answer'
        : `${name} has no leader: ${whyNoLeader(known)}`;
    return new RpcError('UNAVAILABLE', message, { code: 'LEADER_NOT_AVAILABLE' });
  }

  #leaderAddress(partition: number): string | undefined {
    const image = this.#deps.image();
    const leader = image.topicsById.get(this.#topic.id)?.partitions[partition]?.leader ?? NO_BROKER;
    return leader === NO_BROKER ? undefined : image.brokers.get(leader)?.peerAddress;
  }
}

/** Why what was fetched cannot be read; `onTheWay`: the bytes are not those that the leader sent. */
interface Damage {
  readonly onTheWay: boolean;
  readonly error: RpcError;
}

const unreadable = (name: string, why: RpcError): RpcError =>
  new RpcError(
    'UNAVAILABLE',
    `${name} could not be read for ${UNREADABLE_MAX_MS / 1000} s: ${why.message}. Begin again after the last ` +
      'record that came, or name the other partitions to read them without it',
    { code: why.code ?? 'LEADER_NOT_AVAILABLE' },
  );

function checkFrom({ from }: ConsumeRequest): void {
  if ((from.case !== 'earliest' && from.case !== 'latest') || from.value) return;
  const other = from.case === 'earliest' ? 'leave it out to begin with what comes' : 'leave it out';
  throw new RelevoError(
    'INVALID_REQUEST',
    `${from.case} is false, which says nothing of where to begin: set it to true, or ${other}`,
  );
}

const knownEpoch = (epoch: number | undefined): number | undefined =>
  epoch === undefined || epoch < 0 ? undefined : epoch;

/** What was sent before is in the log no more; the caller has to know. */
const truncated = (topic: TopicImage, { partition, offset }: Position, at: EpochEnd): RelevoError =>
  new RelevoError(
    'LOG_TRUNCATED',
    `${partitionName(topic.name, partition)}: records from offset ${Math.min(at.endOffset, offset ?? 0)} on that ` +
      `were read before offset ${offset ?? 0} are gone from the log (an unclean election, or a disk that lost ` +
      'what was not synced): begin again at that offset, without leader_epoch, to go on with what took their place',
  );

/** Trying again would meet it again. */
const asRelevoError = (error: unknown): RelevoError =>
  new RelevoError('UNKNOWN_SERVER_ERROR', `records cannot be read: ${messageOf(error)}`, {
    cause: error,
  });
