/**
 * One producer's stream. Requests are read from it while
 *
 *     the broker as a whole has room for them      else `hold` … `release`
 *     and the producer takes its answers           else its answers would pile up here
 *
 * and it is ended when the producer has said all and everything has been answered.
 */
import type { MessageStream } from '@relevo/base/ports';
import type { ProduceResponse } from '@relevo/rpc/gen/client/produce';

export class ProduceStream {
  readonly #stream: MessageStream<ProduceResponse>;
  #isHeld = false;
  #isBlocked = false;
  #isPaused = false;
  #isHalfClosed = false;
  #inHand = 0;

  constructor(stream: MessageStream<ProduceResponse>) {
    this.#stream = stream;
  }

  /** A request was read. */
  took(): void {
    this.#inHand += 1;
  }

  /** A request is done with; undefined: it wants no answer. */
  settle(response: ProduceResponse | undefined): void {
    this.#inHand -= 1;
    if (response !== undefined && !this.#stream.send(response)) {
      this.#isBlocked = true;
      this.#review();
    }
    this.#endIfDone();
  }

  drained(): void {
    this.#isBlocked = false;
    this.#review();
  }

  halfClosed(): void {
    this.#isHalfClosed = true;
    this.#endIfDone();
  }

  hold(): void {
    this.#isHeld = true;
    this.#review();
  }

  release(): void {
    this.#isHeld = false;
    this.#review();
  }

  #review(): void {
    const isPaused = this.#isHeld || this.#isBlocked;
    if (isPaused === this.#isPaused) return;
    this.#isPaused = isPaused;
    if (isPaused) this.#stream.pause();
    else this.#stream.resume();
  }

  #endIfDone(): void {
    if (this.#isHalfClosed && this.#inHand === 0) this.#stream.end();
  }
}
