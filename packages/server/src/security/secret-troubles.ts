/**
 * Which nodes hold another secret than this one, as calls to them have shown: told in one line, and not
 * again for a minute, and kept for whoever asks why this node does not serve.
 */
import type { Clock, Logger } from '@relevo/base/ports';

const INTERVAL_MS = 60_000;

export class SecretTroubles {
  readonly #deps: { readonly clock: Clock; readonly logger: Logger };
  readonly #differing = new Set<string>();
  #nextMs = -Infinity;

  constructor(deps: { readonly clock: Clock; readonly logger: Logger }) {
    this.#deps = deps;
  }

  /** Neither side takes the other's proof, or one does not. */
  differs(address: string): void {
    this.#differing.add(address);
    const { clock, logger } = this.#deps;
    const nowMs = clock.monotonicMs();
    if (nowMs < this.#nextMs) return;
    this.#nextMs = nowMs + INTERVAL_MS;
    logger.error('the secret here is not that of other nodes: they do not work together', {
      nodes: [...this.#differing],
      do:
        'put the same cluster.secret.file on every node and restart the ones that differ; how a secret is ' +
        'changed while all runs: deploy/README.md, "One secret"',
    });
  }

  /** A call there has come through. */
  fits(address: string): void {
    this.#differing.delete(address);
  }

  /** For people; undefined: nobody is known to differ. */
  get current(): string | undefined {
    if (this.#differing.size === 0) return undefined;
    const nodes = [...this.#differing].join(', ');
    return `its cluster secret is not that of the node at ${nodes}: put the same cluster.secret.file on every node`;
  }
}
