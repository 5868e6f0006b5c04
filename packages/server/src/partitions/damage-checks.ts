/**
 * Others say that what this broker sent them as leader was damaged when it arrived: followers, and clients,
 * who may say anything. The leader reads it again and checks it. Damage of its own takes the log
 * offline, and another leads; otherwise it came about on the way, and a line says so.
 *
 *     said ──> not led here, not a committed record's place, one under way, or too soon: nothing
 *          └─> check ──> damaged: the log is offline
 *                    └─> whole: a line, and no check of the partition for a while
 *
 * A check costs one read, and every read for a fetch is checked anyway: what is left out is no
 * loss. Followers and clients have pauses of their own, so that nobody who invents damage keeps a
 * follower's word from being looked into.
 */
import { LogError } from '@relevo/log/log-error';
import type { Clock, Logger } from '@relevo/base/ports';
import type { BrokerId, Offset } from '@relevo/base/ids';
import type { Partition } from './partition.ts';
import type { PartitionMetrics } from './partition-metrics.ts';

/** After a check that found nothing, before the next one of that partition. */
export const WHOLE_PAUSE_MS = 10_000;
/** Read from the offset on that was told: followers and clients say where what arrived began. */
const CHECKED_BYTES = 1024 * 1024;
/** Checks under way that clients have asked for, of all partitions. */
export const CLIENT_CHECKS_MAX = 4;

export interface DamageChecksDeps {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly metrics: PartitionMetrics;
}

export type Teller = { readonly follower: BrokerId } | 'client';

/** When checks have found nothing, monotonic ms. */
interface Found {
  follower: number;
  client: number;
}

export class DamageChecks {
  readonly #deps: DamageChecksDeps;
  readonly #underWay = new Set<Partition>();
  readonly #whole = new WeakMap<Partition, Found>();
  #forClients = 0;

  constructor(deps: DamageChecksDeps) {
    this.#deps = deps;
  }

  /** `offset`: from where on it was sent what was damaged. */
  said(partition: Partition, offset: number, by: Teller): void {
    const isClient = by === 'client';
    const kind = isClient ? 'client' : 'follower';
    this.#deps.metrics.damageReports.add(1);
    if (partition.leader === undefined || !partition.isOpen || partition.failure !== undefined) {
      return;
    }
    const { log, highWatermark } = partition;
    const end = isClient ? highWatermark : log.logEndOffset;
    if (offset < log.logStartOffset || offset >= end) return;
    if (this.#underWay.has(partition)) return;
    if (isClient && this.#forClients >= CLIENT_CHECKS_MAX) return;
    const found = this.#whole.get(partition);
    const nowMs = this.#deps.clock.monotonicMs();
    if (found !== undefined && nowMs - found[kind] < WHOLE_PAUSE_MS) return;
    this.#underWay.add(partition);
    if (isClient) this.#forClients += 1;
    const settled = (): void => {
      this.#underWay.delete(partition);
      if (isClient) this.#forClients -= 1;
    };
    log.check(offset as Offset, CHECKED_BYTES).then(
      () => {
        settled();
        this.#foundWhole(partition, offset, by);
      },
      (error: unknown) => {
        settled();
        // A log that is damaged has gone offline, and that tells of it.
        if (!(error instanceof LogError)) throw error;
      },
    );
  }

  #foundWhole(partition: Partition, offset: number, by: Teller): void {
    const found = this.#whole.get(partition) ?? { follower: -Infinity, client: -Infinity };
    found[by === 'client' ? 'client' : 'follower'] = this.#deps.clock.monotonicMs();
    this.#whole.set(partition, found);
    this.#deps.logger.warn('records arrived damaged; the log here is whole', {
      partition: partition.name,
      offset,
      ...(by === 'client' ? { at: 'a client' } : { at: `broker ${by.follower}` }),
      do: 'look at the memory and the network of both hosts',
    });
  }
}
