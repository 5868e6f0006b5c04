/**
 * Tells the controller which replicas of this broker cannot be used, and which can be again: whatever the
 * image says otherwise is reported, many at once, one request at a time, until the image agrees. So a
 * report that was lost is made again, and one that is overtaken is not.
 *
 *     failed, or copied anew ──> review ──image differs──> queued ──> asked ──> the image tells
 *                                                             ↑─────────┘ unknown: after a pause
 */
import { messageOf } from '@relevo/base/errors';
import { isMutated } from '@relevo/base/mutations';
import type { BrokerEpoch, BrokerId } from '@relevo/base/ids';
import type { Logger, Timers } from '@relevo/base/ports';
import type { ClusterImage } from '@relevo/controller/image';
import type {
  ReplicaReport,
  ReportReplicasRequest,
  ReportReplicasResponse,
} from '@relevo/rpc/gen/cluster/controller';
import { partitionImage } from './current-leader.ts';
import type { Partition } from './partition.ts';
import type { Turn } from './turn.ts';

/** Replicas in one request. */
export const REPORTS_PER_REQUEST = 5_000;
/** Before a request of unknown outcome is made again. */
const UNKNOWN_RETRY_MS = 250;

export interface ReplicaReportsDeps {
  readonly timers: Timers;
  readonly turn: Turn;
  readonly logger: Logger;
  readonly localId: BrokerId;
  readonly image: () => ClusterImage;
  /** Undefined until this broker is registered. */
  readonly brokerEpoch: () => BrokerEpoch | undefined;
  readonly reportReplicas: (request: ReportReplicasRequest) => Promise<ReportReplicasResponse>;
}

export class ReplicaReports {
  readonly #deps: ReplicaReportsDeps;
  readonly #queue = new Set<Partition>();
  #asking = false;
  #closed = false;

  constructor(deps: ReplicaReportsDeps) {
    this.#deps = deps;
  }

  /** To be called when the replica has failed or is in order again, and now and then. */
  review(partition: Partition): void {
    if (this.#closed || this.#reportOf(partition) === undefined) return;
    this.#queue.add(partition);
    this.#deps.turn.atEnd(this.#ask);
  }

  close(): void {
    this.#closed = true;
    this.#queue.clear();
  }

  /** Undefined where the image says what is so, or speaks of an earlier life of this broker. */
  #reportOf(partition: Partition): ReplicaReport | undefined {
    const { image, localId, brokerEpoch } = this.#deps;
    const { topicId, number, failure, isOpen } = partition;
    const epoch = brokerEpoch();
    if (epoch === undefined || image().brokers.get(localId)?.epoch !== epoch) return undefined;
    const known = partitionImage(image(), topicId, number);
    if (known?.replicas.includes(localId) !== true) return undefined;
    const offline = failure !== undefined;
    if (!offline && !isOpen) return undefined;
    if (known.offline.includes(localId) === offline || isMutated('damage-unreported')) {
      return undefined;
    }
    return { topicId, partition: number, offline };
  }

  readonly #ask = (): void => {
    const brokerEpoch = this.#deps.brokerEpoch();
    if (this.#asking || this.#closed || brokerEpoch === undefined) return;
    const asked: Partition[] = [];
    const replicas: ReplicaReport[] = [];
    for (const partition of this.#queue) {
      if (replicas.length === REPORTS_PER_REQUEST) break;
      this.#queue.delete(partition);
      const report = this.#reportOf(partition);
      if (report === undefined) continue;
      asked.push(partition);
      replicas.push(report);
    }
    if (replicas.length === 0) return;
    this.#asking = true;
    this.#deps.reportReplicas({ brokerId: this.#deps.localId, brokerEpoch, replicas }).then(
      () => {
        this.#asking = false;
        this.#ask();
      },
      (error: unknown) => {
        this.#asking = false;
        const facts = { replicas: replicas.length, why: messageOf(error) };
        this.#deps.logger.warn(
          'the controller could not be told which replicas are offline',
          facts,
        );
        this.#deps.timers.after(UNKNOWN_RETRY_MS, () => {
          for (const partition of asked) this.review(partition);
        });
      },
    );
  };
}
