/** Says which leader the quorum has, and, now and then, that it has none and whom it waits for. */
import type { BrokerId } from '@relevo/base/ids';
import type { Logger } from '@relevo/base/ports';
import type { Configuration } from '@relevo/raft/configuration';
import type { SoftState } from '@relevo/raft/ready';

/** Without a leader for so long, an operator wants to know. */
const PATIENCE_MS = 2000;
const REPEAT_MS = 10_000;

export class LeaderWatch {
  readonly #logger: Logger;
  #leaderId: BrokerId | undefined;
  #term = 0;
  #complainAtMs: number | undefined;

  constructor(logger: Logger) {
    this.#logger = logger;
  }

  observe({ leaderId, term }: SoftState, nowMs: number): void {
    if (leaderId !== undefined && (leaderId !== this.#leaderId || term !== this.#term)) {
      this.#logger.info('leader of the quorum elected', { leader: leaderId, term });
    } else if (leaderId === undefined && this.#leaderId !== undefined) {
      this.#logger.info('the quorum has no leader', { before: this.#leaderId, term });
    }
    this.#leaderId = leaderId;
    this.#term = term;
    if (leaderId !== undefined) this.#complainAtMs = undefined;
    else this.#complainAtMs ??= nowMs + PATIENCE_MS;
  }

  /** `reachable`: whether another voter has been heard of late. */
  tick(
    nowMs: number,
    self: BrokerId,
    configuration: () => Configuration,
    reachable: (id: BrokerId) => boolean,
  ): void {
    if (this.#complainAtMs === undefined || nowMs < this.#complainAtMs) return;
    this.#complainAtMs = nowMs + REPEAT_MS;
    const others = configuration().voters.filter(({ id }) => id !== self);
    const missing = others.filter(({ id }) => !reachable(id));
    const facts = { reachable: others.filter(({ id }) => reachable(id)).map(({ id }) => id) };
    if (missing.length === 0) {
      this.#logger.warn('waiting for a leader of the quorum, or to be let in', facts);
    } else {
      this.#logger.warn('waiting for a majority of the controllers', {
        ...facts,
        missing: missing.map(({ id, address }) => `${id} at ${address}`),
      });
    }
  }
}
