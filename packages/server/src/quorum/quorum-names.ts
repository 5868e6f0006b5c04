/**
 * Asks at the start whether the quorum's host names can be resolved here, until those of a majority can.
 * Names of containers and pods come into being with them, in any order, so an unknown name alone is no
 * mistake; when a majority stays unknown, this node will never work, and says so by ending.
 */
import type { Clock, Logger, TimerHandle, Timers, Transport } from '@relevo/base/ports';
import type { Voter } from '../config/node-config.ts';

const ASK_AGAIN_MS = 1000;
const ANSWER_TIMEOUT_MS = 2000;

export interface QuorumNamesDeps {
  readonly transport: Pick<Transport, 'probe'>;
  readonly clock: Clock;
  readonly timers: Timers;
  readonly logger: Logger;
}

export interface QuorumNamesOptions {
  readonly voters: readonly Pick<Voter, 'id' | 'address'>[];
  /** A majority unknown for so long is not waited for any longer. */
  readonly timeoutMs: number;
  /** Called once, with what to do. */
  readonly onUnknown: (reason: string) => void;
}

export class QuorumNames {
  readonly #deps: QuorumNamesDeps;
  readonly #options: QuorumNamesOptions;
  #timer: TimerHandle | undefined;
  #endMs = 0;
  #closed = false;

  constructor(deps: QuorumNamesDeps, options: QuorumNamesOptions) {
    this.#deps = deps;
    this.#options = options;
  }

  start(): void {
    this.#endMs = this.#deps.clock.monotonicMs() + this.#options.timeoutMs;
    void this.#ask();
  }

  close(): void {
    this.#closed = true;
    this.#timer?.cancel();
  }

  async #ask(): Promise<void> {
    const { voters, timeoutMs, onUnknown } = this.#options;
    const { transport, clock, timers } = this.#deps;
    const results = await Promise.all(
      voters.map(({ address }) => transport.probe(address, ANSWER_TIMEOUT_MS)),
    );
    if (this.#closed) return;
    const unknown = voters.filter((_, index) => results[index] === 'unknown');
    const known = voters.length - unknown.length;
    if (known * 2 > voters.length) {
      this.#tellOf(unknown);
      return;
    }
    if (clock.monotonicMs() < this.#endMs) {
      this.#timer = timers.after(ASK_AGAIN_MS, () => void this.#ask());
      return;
    }
    const names = unknown.map(({ id, address }) => `${id}@${address}`).join(', ');
    onUnknown(
      `no majority of the quorum can be found: for ${timeoutMs} ms the host names of ${names} could not be ` +
        'resolved here; set controller.quorum.voters to names or addresses that every node can ' +
        'resolve, and see that the nodes that bear them have been started',
    );
  }

  #tellOf(unknown: QuorumNamesOptions['voters']): void {
    for (const { id, address } of unknown) {
      this.#deps.logger.warn('the host name of a controller is not known here', {
        controller: id,
        address,
        hint: 'if it stays so, correct controller.quorum.voters',
      });
    }
  }
}
