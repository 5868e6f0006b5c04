/** Tells of callers that were refused, and is not to be used for filling a disk with lines. */
import type { Clock, LogFields, Logger } from '@relevo/base/ports';

/** Between two lines; what is refused meanwhile is counted. */
const INTERVAL_MS = 10_000;

export class RefusalLog {
  readonly #deps: { readonly clock: Clock; readonly logger: Logger };
  #nextMs = -Infinity;
  #untold = 0;

  constructor(deps: { readonly clock: Clock; readonly logger: Logger }) {
    this.#deps = deps;
  }

  tell(event: string, fields: LogFields): void {
    const { clock, logger } = this.#deps;
    const nowMs = clock.monotonicMs();
    if (nowMs < this.#nextMs) {
      this.#untold++;
      logger.debug(event, fields);
      return;
    }
    this.#nextMs = nowMs + INTERVAL_MS;
    logger.warn(event, this.#untold === 0 ? fields : { ...fields, untold: this.#untold });
    this.#untold = 0;
  }
}
