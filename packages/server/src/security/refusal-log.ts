/** Tells of callers that were refused, and is not to be used for filling a disk with lines. */
import type { Clock, LogFields, Logger } from '@relevo/base/ports';

/** Between two lines of one kind; what is refused meanwhile is counted. */
const INTERVAL_MS = 10_000;

export class RefusalLog {
  readonly #deps: { readonly clock: Clock; readonly logger: Logger };
  readonly #kinds = new Map<string, { nextMs: number; untold: number }>();

  constructor(deps: { readonly clock: Clock; readonly logger: Logger }) {
    this.#deps = deps;
  }

  tell(event: string, fields: LogFields): void {
    const { clock, logger } = this.#deps;
    const nowMs = clock.monotonicMs();
    const kind = this.#kinds.get(event) ?? { nextMs: -Infinity, untold: 0 };
    this.#kinds.set(event, kind);
    if (nowMs < kind.nextMs) {
      kind.untold++;
      logger.debug(event, fields);
      return;
    }
    kind.nextMs = nowMs + INTERVAL_MS;
    logger.warn(event, kind.untold === 0 ? fields : { ...fields, untold: kind.untold });
    kind.untold = 0;
  }
}
