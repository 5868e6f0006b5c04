/**
 * Proof that the data directory can be made durable: a small write and an fsync now and then, unless the
 * log has just synced something there. The heartbeats carry the outcome: a broker whose disk hangs or
 * fails looks alive otherwise (mistake 27).
 *
 * One fsync under way at a time; while it hangs, its age is what is reported. After a failed one the disk
 * is not trusted again until the process has restarted (L3). A disk that is merely full still syncs.
 */
import { messageOf } from '@relevo/base/errors';
import { DiskError } from '@relevo/base/ports';
import type { Clock, Disk, DiskFile, Logger } from '@relevo/base/ports';

/** A success younger than this is proof enough. */
const FRESH_MS = 500;
const FILE_NAME = 'heartbeat';

export interface DiskProofDeps {
  readonly clock: Clock;
  readonly disk: Disk;
  readonly logger: Logger;
}

export class DiskProof {
  readonly #deps: DiskProofDeps;
  readonly #path: string;
  #file: DiskFile | undefined;
  #count = 0;
  #provenAtMs = Number.NEGATIVE_INFINITY;
  #lastTookMs = 0;
  #beganAtMs: number | undefined;
  #failed = false;
  #closed = false;

  constructor(deps: DiskProofDeps, options: { readonly directory: string }) {
    this.#deps = deps;
    this.#path = `${options.directory}/${FILE_NAME}`;
  }

  /** Somebody has just synced a file of the directory, in so many ms. */
  synced(tookMs: number): void {
    this.#provenAtMs = this.#deps.clock.monotonicMs();
    this.#lastTookMs = tookMs;
  }

  /** For a heartbeat: how long an fsync takes, ms; -1: they fail. Begins another where that is due. */
  syncMs(): number {
    if (this.#failed) return -1;
    const nowMs = this.#deps.clock.monotonicMs();
    if (this.#beganAtMs !== undefined) {
      return Math.ceil(Math.max(this.#lastTookMs, nowMs - this.#beganAtMs));
    }
    if (nowMs - this.#provenAtMs >= FRESH_MS && !this.#closed) void this.#prove(nowMs);
    return this.#failed ? -1 : Math.ceil(this.#lastTookMs);
  }

  close(): void {
    this.#closed = true;
    this.#file?.close();
    this.#file = undefined;
  }

  async #prove(nowMs: number): Promise<void> {
    const { clock, disk, logger } = this.#deps;
    this.#beganAtMs = nowMs;
    try {
      this.#file ??= disk.open(this.#path, 'create');
      this.#file.write(Uint8Array.of(this.#count++ & 255), 0);
      await this.#file.datasync();
      this.synced(clock.monotonicMs() - nowMs);
    } catch (error) {
      if (error instanceof DiskError && error.code === 'FULL') {
        this.synced(clock.monotonicMs() - nowMs);
      } else if (!this.#closed) {
        this.#failed = true;
        logger.error('the disk does not sync: this broker is fenced until it is restarted', {
          path: this.#path,
          error: messageOf(error),
        });
      }
    } finally {
      this.#beganAtMs = undefined;
    }
  }
}
