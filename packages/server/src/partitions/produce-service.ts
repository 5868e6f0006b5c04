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
 * Bytes in hand (appended, not answered) are bounded for the whole broker: above the limit the producers'
 * streams are paused, and flow control reaches back to them.
 */
import { ERRORS, RelevoError } from '@relevo/base/errors';
import type { ErrorCode } from '@relevo/base/errors';
import { NO_LEADER_EPOCH } from '@relevo/base/ids';
import type { LeaderEpoch, Offset } from '@relevo/base/ids';
import { route } from '@relevo/base/ports';
import type { Clock, Crc32c, MessageStream, Route, StreamEvents } from '@relevo/base/ports';
import type { ClusterImage } from '@relevo/controller/image';
import { LogError } from '@relevo/log/log-error';
import type { PartitionLog } from '@relevo/log/partition-log';
import { BatchError } from '@relevo/record/batch-error';
import { validateBatch } from '@relevo/record/validate';
import { ProduceService as methods, produceResponse } from '@relevo/rpc/gen/client/produce';
import type { ProduceRequest, ProduceResponse } from '@relevo/rpc/gen/client/produce';
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
import type { ProducerIds } from './producer-ids.ts';

/** The default of `inHandBytesMax`. */
export const IN_HAND_BYTES_MAX: number = 64 * 1024 * 1024;
/** What a waiting batch costs besides its bytes. */
const IN_HAND_OVERHEAD = 256;
export const PRODUCE_TIMEOUT_DEFAULT_MS = 30_000;
export const PRODUCE_TIMEOUT_MAX_MS = 300_000;

export interface ProduceServiceDeps {
  readonly clock: Clock;
  readonly crc32c: Crc32c;
  readonly table: PartitionTable;
  readonly metrics: PartitionMetrics;
  readonly producerIds: ProducerIds;
  readonly image: () => ClusterImage;
  /** The controller has heard of this broker within the session timeout. */
  readonly isLeaseValid: () => boolean;
  /** Bytes appended and not yet answered, over all streams, above which producers are paused. */
  readonly inHandBytesMax: number;
}

export class ProduceService {
  readonly #deps: ProduceServiceDeps;
  readonly #streams = new Set<MessageStream<ProduceResponse>>();
  #inHandBytes = 0;
  #paused = false;
  #stopping = false;

  constructor(deps: ProduceServiceDeps) {
    this.#deps = deps;
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

  /** From now on nothing new is taken. */
  stop(): void {
    this.#stopping = true;
  }

  /** Takes one batch. `request.batch` belongs to this broker from now on: it is patched in place. */
  produce(request: ProduceRequest, reply: ProduceReply): void {
    const { metrics } = this.#deps;
    metrics.produceRequests.add(1);
    const partition = this.#deps.table.find(request.topicId, request.partition);
    try {
      const refusal = refusalOf(this.#deps.image(), request, partition);
      if (refusal !== undefined || partition?.leader === undefined) {
        const { code, message } = refusal ?? { code: 'UNKNOWN_SERVER_ERROR', message: '' };
        this.#refuse(request, reply, code, message);
        return;
      }
      this.#check(request, partition, partition.leader);
      this.#append(request, reply, partition, partition.leader);
    } catch (error) {
      if (error instanceof LogError) {
        const message = `${partition?.name ?? 'partition'}: ${error.message}`;
        this.#refuse(request, reply, error.code, message);
      } else if (error instanceof RelevoError) {
        this.#refuse(request, reply, error.code, error.message);
      } else if (error instanceof BatchError) {
        const message = `${partition?.name ?? 'partition'}: the batch is refused: ${error.message}`;
        this.#refuse(request, reply, error.wireCode, message);
      } else {
        throw error;
      }
    }
  }

  /** Answers those whose time is up; to be called now and then. */
  expire(nowMs: number): void {
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
    this.#streams.add(stream);
    if (this.#paused) stream.pause();
    const reply: ProduceReply = (response) =>
      void stream.send(answerOn(this.#deps.image(), listener, response));
    return {
      onMessage: (request) => {
        this.produce(request, reply);
      },
      onEnd: () => {
        this.#streams.delete(stream);
      },
    };
  }

  #take(bytes: number): void {
    this.#inHandBytes += bytes + IN_HAND_OVERHEAD;
    if (this.#paused || this.#inHandBytes <= this.#deps.inHandBytesMax) return;
    this.#paused = true;
    for (const stream of this.#streams) stream.pause();
  }

  #release(bytes: number): void {
    this.#inHandBytes -= bytes + IN_HAND_OVERHEAD;
    if (!this.#paused || this.#inHandBytes > this.#deps.inHandBytesMax / 2) return;
    this.#paused = false;
    for (const stream of this.#streams) stream.resume();
  }

  // ------------------------------------------------------------------------------- one batch

  #check(request: ProduceRequest, partition: Partition, role: LeaderRole): void {
    const { acks } = request;
    if (acks !== -1 && acks !== 1 && acks !== 0) {
      const message = `acks is ${acks}: use -1 (all in-sync replicas), 1 (the leader) or 0 (none)`;
      throw new RelevoError('INVALID_REQUIRED_ACKS', message);
    }
    if (this.#stopping) {
      throw new RelevoError('SHUTTING_DOWN', 'this broker is stopping: go to another one');
    }
    if (!this.#deps.isLeaseValid()) {
      const message =
        `this broker led ${partition.name}, but has not been heard by the controller for longer ` +
        'than its session: refresh the metadata';
      throw new RelevoError('LEADER_NOT_AVAILABLE', message);
    }
    const { replica } = role;
    if (acks === -1 && !replica.hasEnoughInSync) {
      const message =
        `${partition.name} has ${replica.isr.length} of at least ${replica.minIsr} replicas in ` +
        `sync (${replica.isr.join(', ')}): try again when more are back`;
      throw new RelevoError('NOT_ENOUGH_REPLICAS', message);
    }
  }

  #append(
    request: ProduceRequest,
    reply: ProduceReply,
    partition: Partition,
    role: LeaderRole,
  ): void {
    const { batch, acks, correlationId } = request;
    const { log } = partition;
    const { maxMessageBytes, timestampType } = log.config;
    const header = validateBatch(batch, 0, batch.length, this.#deps.crc32c, {
      maxBytes: maxMessageBytes,
      records: 'whole',
    });
    if (header.isControl || header.isTransactional) {
      const kind = header.isControl ? 'control batches' : 'transactional batches';
      throw new BatchError('BAD_ATTRIBUTES', `${kind} are not taken from producers`);
    }
    const { replica } = role;
    const wallMs = this.#deps.clock.wallMs();
    const result = log.appendAsLeader(batch, replica.leaderEpoch, wallMs);
    const { baseOffset, nextOffset } = result;
    let logAppendTimeMs = -1;
    if (timestampType === 'LogAppendTime') {
      logAppendTimeMs = result.kind === 'duplicate' ? result.timestamp : wallMs;
    }
    const arrivedMs = this.#deps.clock.monotonicMs();
    const waiting: WaitingProduce = {
      correlationId,
      acks,
      baseOffset,
      leaderEpoch: result.kind === 'duplicate' ? epochOf(log, baseOffset) : replica.leaderEpoch,
      bytes: batch.length,
      logAppendTimeMs,
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
    if (error === 'NONE') {
      const role = partition.leader;
      if (waiting.acks === 0) return;
      reply({
        correlationId,
        error: 0,
        message: '',
        baseOffset,
        leaderEpoch,
        logAppendTimeMs,
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

const epochOf = (log: PartitionLog, offset: Offset): LeaderEpoch =>
  log.epochEntries.findLast((entry) => entry.startOffset <= offset)?.epoch ?? NO_LEADER_EPOCH;

const timeoutOf = ({ timeoutMs }: ProduceRequest): number =>
  timeoutMs === 0 ? PRODUCE_TIMEOUT_DEFAULT_MS : Math.min(timeoutMs, PRODUCE_TIMEOUT_MAX_MS);
