/**
 * Writing, as leader. Per batch, all in the turn in which it came:
 *
 *     find the partition ─> epoch, lease, in-sync size ─> header, CRC, records ─> page cache
 *        ─> the same bytes to the followers' streams ─> fdatasync when the turn ends (group commit)
 *
 * and the answer when what `acks` asks for is so: -1 the high watermark has passed the batch, 1 the own
 * log is synced, 0 none but for errors. Nothing is decoded beyond the walk that validates the records,
 * nothing is copied, no promise is made per batch.
 *
 * The files of a new log are made, off the loop, before its first batch is appended. A compressed batch is unpacked between the CRC and the page cache, off the loop, only to be checked;
 * see unpack-lanes.ts. What was true of the partition when it came is asked once more before the append.
 *
 * Bytes in hand (taken, not answered) are bounded for the whole broker: above the limit the producers'
 * streams are paused, and flow control reaches back to them.
 */
import { defined } from '@relevo/base/assert';
import { ERRORS, RelevoError, messageOf } from '@relevo/base/errors';
import type { ErrorCode } from '@relevo/base/errors';
import { NO_LEADER_EPOCH, NO_PRODUCER_ID } from '@relevo/base/ids';
import type { LeaderEpoch, Offset } from '@relevo/base/ids';
import { isMutated } from '@relevo/base/mutations';
import { route } from '@relevo/base/ports';
import type {
  Clock,
  Crc32c,
  Logger,
  MessageStream,
  Route,
  StreamEvents,
  Timers,
} from '@relevo/base/ports';
import type { ClusterImage } from '@relevo/controller/image';
import { isProducerIdIssued } from '@relevo/controller/producer-id-commands';
import { LogError } from '@relevo/log/log-error';
import type { PartitionLog } from '@relevo/log/partition-log';
import { BatchError } from '@relevo/record/batch-error';
import type { BatchHeader } from '@relevo/record/batch-header';
import type { CompressionCodecs } from '@relevo/record/compression';
import { validateBatch } from '@relevo/record/validate';
import type { BatchLimits } from '@relevo/record/validate';
import { ProduceService as methods, produceResponse } from '@relevo/rpc/gen/client/produce';
import type { ProduceRequest, ProduceResponse } from '@relevo/rpc/gen/client/produce';
import { outOfTouch } from './lease.ts';
import type { Lease } from './lease.ts';
import { answerOn, leaderOf, refusalOf } from './current-leader.ts';
import type {
  AnswerProduce,
  LeaderRole,
  Partition,
  ProduceReply,
  WaitingProduce,
} from './partition.ts';
import type { PartitionMetrics } from './partition-metrics.ts';
import type { PartitionTable } from './partition-table.ts';
import { ProduceStream } from './produce-stream.ts';
import type { ProducerIds } from './producer-ids.ts';
import { UnpackLanes } from './unpack-lanes.ts';
import type { CheckedBatch } from './unpack-lanes.ts';

/** The default of `inHandBytesMax`. */
export const IN_HAND_BYTES_MAX: number = 64 * 1024 * 1024;
/** What a waiting batch costs besides its bytes. */
const IN_HAND_OVERHEAD = 256;
export const PRODUCE_TIMEOUT_DEFAULT_MS = 30_000;
export const PRODUCE_TIMEOUT_MAX_MS = 300_000;

export interface ProduceServiceDeps {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly logger: Logger;
  readonly codecs: Pick<CompressionCodecs, 'decompress'>;
  readonly crc32c: Crc32c;
  readonly table: PartitionTable;
  readonly metrics: PartitionMetrics;
  readonly producerIds: ProducerIds;
  readonly image: () => ClusterImage;
  /** Somebody wants the partition now: it need not wait for its turn, if it waits for one. */
  readonly takeUp: (topicId: string, partition: number) => void;
  /** The controller has heard of this broker within the session timeout. */
  readonly lease: Lease;
  /** Bytes taken and not yet answered, over all streams, above which producers are paused. */
  readonly inHandBytesMax: number;
}

/** A batch that is not appended yet: it, or one before it, is being unpacked, or the log has no files yet. */
interface Unpacking extends CheckedBatch {
  readonly request: ProduceRequest;
  readonly reply: ProduceReply;
  readonly arrivedMs: number;
}

export class ProduceService {
  readonly #deps: ProduceServiceDeps;
  readonly #lanes: UnpackLanes<Unpacking>;
  readonly #streams = new Set<ProduceStream>();
  #inHandBytes = 0;
  #paused = false;
  #stopping = false;

  constructor(deps: ProduceServiceDeps) {
    this.#deps = deps;
    const { timers, codecs } = deps;
    this.#lanes = new UnpackLanes({ timers, codecs, ready: this.#unpacked });
  }

  routes(): Route[] {
    return [
      route(methods.stream, (stream, { listener }) => this.#open(stream, listener)),
      route(methods.initProducerId, (request) => this.#deps.producerIds.init(request)),
    ];
  }

  get inHandBytes(): number {
    return this.#inHandBytes;
  }

  /** From now on nothing new is taken; what has not been appended is refused. */
  stop(): void {
    this.#stopping = true;
    this.#lanes.drain((partition, batch) => {
      this.#release(batch.bytes.length);
      const message = `${partition.name}: this broker is stopping, nothing was written: go to another one`;
      this.#refuse(batch.request, batch.reply, 'SHUTTING_DOWN', message);
    });
  }

  /** Takes one batch. `request.batch` belongs to this broker from now on: it is patched in place. */
  produce(request: ProduceRequest, reply: ProduceReply): void {
    this.#deps.metrics.produceRequests.add(1);
    const { batch } = request;
    try {
      this.#deps.takeUp(request.topicId, request.partition);
      const partition = this.#led(request);
      const limits: BatchLimits = {
        maxBytes: partition.log.config.maxMessageBytes,
        records: 'whole',
      };
      const header = validateBatch(batch, 0, batch.length, this.#deps.crc32c, limits);
      checkKind(header);
      this.#checkProducer(header);
      const arrivedMs = this.#deps.clock.monotonicMs();
      const mayGoOn = header.compression === 'none' && partition.log.takes(batch.length);
      if (mayGoOn && !this.#lanes.isBusy(partition)) {
        this.#append(request, reply, partition, arrivedMs);
        return;
      }
      const deadlineMs = arrivedMs + timeoutOf(request);
      this.#take(batch.length);
      this.#lanes.put(partition, {
        bytes: batch,
        header,
        limits,
        deadlineMs,
        request,
        reply,
        arrivedMs,
      });
    } catch (error) {
      if (!this.#refuseFor(error, request, reply)) throw error;
    }
  }

  /** The batch has been checked, and those that came before it have had their turn. */
  readonly #unpacked = (at: Partition, batch: Unpacking, failure: Error | undefined): void => {
    const { request, reply, arrivedMs } = batch;
    this.#release(request.batch.length);
    try {
      if (failure !== undefined) throw failure;
      // Meanwhile the replica may have lost its leadership, or have been removed.
      this.#append(request, reply, this.#led(request), arrivedMs);
    } catch (error) {
      if (this.#refuseFor(error, request, reply)) return;
      // Nobody above can tell the caller.
      const message = `${at.name}: the batch could not be taken: ${messageOf(error)}`;
      this.#deps.logger.error('a produce failed', { partition: at.name, error: messageOf(error) });
      this.#refuse(request, reply, 'UNKNOWN_SERVER_ERROR', message);
    }
  };

  /** Answers those whose time is up; to be called now and then. */
  expire(nowMs: number): void {
    this.#lanes.expire(nowMs, (partition, batch) => {
      this.#release(batch.bytes.length);
      const message = `${partition.name}: the batch could not be taken up in time, nothing was written`;
      this.#refuse(batch.request, batch.reply, 'REQUEST_TIMED_OUT', message);
    });
    for (const partition of this.#deps.table.values()) {
      const role = partition.leader;
      if (role === undefined) continue;
      const timedOut = (waiting: WaitingProduce, endOffset: Offset): void => {
        waiting.answer(partition, waiting, 'REQUEST_TIMED_OUT', endOffset);
      };
      role.waitingForAll.expire(nowMs, timedOut);
      role.waitingForOwn.expire(nowMs, timedOut);
    }
  }

  // ---------------------------------------------------------------------------------- streams

  #open(stream: MessageStream<ProduceResponse>, listener: string): StreamEvents<ProduceRequest> {
    const own = new ProduceStream(stream);
    this.#streams.add(own);
    if (this.#paused) own.hold();
    const reply: ProduceReply = (response) => {
      own.settle(response && answerOn(this.#deps.image(), listener, response));
    };
    return {
      onMessage: (request) => {
        own.took();
        this.produce(request, reply);
      },
      onDrain: () => own.drained(),
      onHalfClose: () => own.halfClosed(),
      onEnd: () => {
        this.#streams.delete(own);
      },
    };
  }

  #take(bytes: number): void {
    this.#inHandBytes += bytes + IN_HAND_OVERHEAD;
    if (this.#paused || this.#inHandBytes <= this.#deps.inHandBytesMax) return;
    this.#paused = true;
    for (const stream of this.#streams) stream.hold();
  }

  #release(bytes: number): void {
    this.#inHandBytes -= bytes + IN_HAND_OVERHEAD;
    if (!this.#paused || this.#inHandBytes > this.#deps.inHandBytesMax / 2) return;
    this.#paused = false;
    for (const stream of this.#streams) stream.release();
  }

  // ------------------------------------------------------------------------------- one batch

  /** The partition, of which this broker may append the batch now; throws a RelevoError otherwise. */
  #led(request: ProduceRequest): Partition {
    const { acks } = request;
    if (this.#stopping) {
      throw new RelevoError('SHUTTING_DOWN', 'this broker is stopping: go to another one');
    }
    const partition = this.#deps.table.find(request.topicId, request.partition);
    const { lease, image } = this.#deps;
    const refusal = lease.isValid() ? refusalOf(image(), request, partition) : outOfTouch(lease);
    if (refusal !== undefined) throw new RelevoError(refusal.code, refusal.message);
    const led = defined(partition, 'what is not refused is here');
    const { replica } = roleOf(led);
    if (acks !== -1 && acks !== 1 && acks !== 0) {
      const message = `acks is ${acks}: use -1 (all in-sync replicas), 1 (the leader) or 0 (none)`;
      throw new RelevoError('INVALID_REQUIRED_ACKS', message);
    }
    if (acks === -1 && !replica.hasEnoughInSync) {
      const message =
        `${led.name} has ${replica.isr.length} of at least ${replica.minIsr} replicas in ` +
        `sync (${replica.isr.join(', ')}): try again when more are back`;
      throw new RelevoError('NOT_ENOUGH_REPLICAS', message);
    }
    return led;
  }

  /**
   * An id that is yet to be given out must not be written under: its holder's first batch would be taken
   * for a repeat, acknowledged and lost (I0).
   */
  #checkProducer({ producerId }: BatchHeader): void {
    if (producerId === NO_PRODUCER_ID || isMutated('producer-id-to-come-taken')) return;
    const image = this.#deps.image();
    if (isProducerIdIssued(image, producerId)) return;
    // Another broker may have given it out a moment ago.
    const isToCome = producerId >= image.nextProducerId;
    throw new RelevoError(
      isToCome ? 'LEADER_NOT_AVAILABLE' : 'UNKNOWN_PRODUCER_ID',
      `producer id ${producerId} has not been given to anybody as far as this broker knows, nothing was ` +
        'written: use one from InitProducerId' +
        (isToCome ? '; if it is from there, try again shortly' : ''),
    );
  }

  #append(
    request: ProduceRequest,
    reply: ProduceReply,
    partition: Partition,
    arrivedMs: number,
  ): void {
    const { batch, acks, correlationId } = request;
    const { log } = partition;
    const role = roleOf(partition);
    const { replica } = role;
    const wallMs = this.#deps.clock.wallMs();
    const result = log.appendAsLeader(batch, replica.leaderEpoch, wallMs);
    const { baseOffset, nextOffset } = result;
    let logAppendTimeMs = -1;
    if (log.config.timestampType === 'LogAppendTime') {
      logAppendTimeMs = result.kind === 'duplicate' ? result.timestamp : wallMs;
    }
    const waiting: WaitingProduce = {
      correlationId,
      acks,
      baseOffset,
      leaderEpoch: result.kind === 'duplicate' ? epochOf(log, baseOffset) : replica.leaderEpoch,
      bytes: batch.length,
      logAppendTimeMs,
      repeatedTimestampMs: result.kind === 'duplicate' ? result.timestamp : undefined,
      arrivedMs,
      reply,
      answer: this.#answer,
    };
    this.#take(batch.length);
    // The repeat of an earlier batch waits like any other: what it repeats may not be committed yet.
    const deadlineMs = arrivedMs + timeoutOf(request);
    if (acks === -1) role.waitingForAll.add(nextOffset, deadlineMs, waiting);
    else role.waitingForOwn.add(nextOffset, deadlineMs, waiting);
    if (result.kind === 'appended') {
      this.#deps.metrics.producedBytes.add(batch.length);
      partition.appendedAsLeader(role, batch, baseOffset, nextOffset);
    } else {
      partition.answerReached(role);
    }
  }

  readonly #answer: AnswerProduce = (partition, waiting, error, endOffset) => {
    const { metrics, clock, image } = this.#deps;
    this.#release(waiting.bytes);
    metrics.produceSeconds.observe((clock.monotonicMs() - waiting.arrivedMs) / 1000);
    const { correlationId, baseOffset, leaderEpoch, logAppendTimeMs, reply } = waiting;
    const { repeatedTimestampMs } = waiting;
    if (error === 'NONE') {
      const role = partition.leader;
      if (waiting.acks === 0) {
        reply(undefined);
        return;
      }
      reply({
        correlationId,
        error: 0,
        message: '',
        baseOffset,
        leaderEpoch,
        logAppendTimeMs,
        repeatedTimestampMs,
        logStartOffset: partition.logStartOffset,
        syncedOn: role?.replica.syncedOn(endOffset) ?? [],
        currentLeader: undefined,
      });
      return;
    }
    metrics.produceErrors.add(1);
    const { topicId, number } = partition;
    reply(
      produceResponse({
        correlationId,
        error: ERRORS[error].number,
        message: `${partition.name}: ${AFTER_APPEND[error] ?? ERRORS[error].meaning}`,
        baseOffset: -1,
        leaderEpoch: -1,
        logAppendTimeMs: -1,
        currentLeader: leaderOf(image(), topicId, number),
      }),
    );
  };

  /** False: the error is none that callers are told of. */
  #refuseFor(error: unknown, request: ProduceRequest, reply: ProduceReply): boolean {
    const partition = this.#deps.table.find(request.topicId, request.partition);
    const name = partition?.name ?? 'partition';
    if (error instanceof LogError) {
      if (error.kind === 'diskFull' && partition?.leader !== undefined) {
        partition.leader.lacksRoom = true;
      }
      this.#refuse(request, reply, error.code, `${name}: ${error.message}`);
    } else if (error instanceof RelevoError) {
      this.#refuse(request, reply, error.code, error.message);
    } else if (error instanceof BatchError) {
      const message = `${name}: the batch is refused: ${error.message}`;
      this.#refuse(request, reply, error.wireCode, message);
    } else {
      return false;
    }
    return true;
  }

  /** Nothing was appended. */
  #refuse(request: ProduceRequest, reply: ProduceReply, code: ErrorCode, message: string): void {
    this.#deps.metrics.produceErrors.add(1);
    const { correlationId, topicId, partition } = request;
    reply(
      produceResponse({
        correlationId,
        error: ERRORS[code].number,
        message,
        baseOffset: -1,
        leaderEpoch: -1,
        logAppendTimeMs: -1,
        currentLeader: leaderOf(this.#deps.image(), topicId, partition),
      }),
    );
  }
}

/** The batch is in this log, and may or may not survive. */
const AFTER_APPEND: Partial<Record<ErrorCode, string>> = {
  NOT_LEADER_OR_FOLLOWER:
    'leadership moved while the batch was being replicated: whether it was kept is unknown; send it ' +
    'again with the same sequence',
  REQUEST_TIMED_OUT:
    'the in-sync replicas did not confirm the batch in time: whether it was kept is unknown; send it ' +
    'again with the same sequence',
  SHUTTING_DOWN:
    'the broker stopped while the batch was being replicated: whether it was kept is unknown; send it ' +
    'again with the same sequence',
  STORAGE_ERROR: 'the log failed while the batch was being written: whether it was kept is unknown',
};

const roleOf = (partition: Partition): LeaderRole =>
  defined(partition.leader, 'what is not refused is led');

function checkKind(header: BatchHeader): void {
  if (!header.isControl && !header.isTransactional) return;
  const kind = header.isControl ? 'control batches' : 'transactional batches';
  throw new BatchError('BAD_ATTRIBUTES', `${kind} are not taken from producers`);
}

const epochOf = (log: PartitionLog, offset: Offset): LeaderEpoch =>
  log.epochEntries.findLast((entry) => entry.startOffset <= offset)?.epoch ?? NO_LEADER_EPOCH;

const timeoutOf = ({ timeoutMs }: ProduceRequest): number =>
  timeoutMs === 0 ? PRODUCE_TIMEOUT_DEFAULT_MS : Math.min(timeoutMs, PRODUCE_TIMEOUT_MAX_MS);
