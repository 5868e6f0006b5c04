/**
 * Where the active controller is. What an error said counts most, then what this node's metadata says,
 * then every controller in turn: one of them is it, or knows.
 */
import { controllerHint } from '../controller/controller-errors.ts';
import type { ControllerInfo } from '../metadata/metadata-publisher.ts';

export class ControllerLocator {
  readonly #addresses: readonly string[];
  readonly #known: () => ControllerInfo | undefined;
  #next = 0;
  #hint: string | undefined;
  /** What the metadata said, and what turned out not to work. */
  #doubted: ControllerInfo | undefined;

  constructor(options: {
    /** host:port of every controller; at least one. */
    readonly addresses: readonly string[];
    readonly known: () => ControllerInfo | undefined;
  }) {
    this.#addresses = options.addresses;
    this.#known = options.known;
  }

  /** Whom to ask now. */
  address(): string {
    if (this.#hint !== undefined) return this.#hint;
    const known = this.#known();
    if (known !== undefined && known !== this.#doubted) return known.address;
    const address = this.#addresses[this.#next % this.#addresses.length];
    if (address === undefined) throw new RangeError('a broker needs the address of a controller');
    return address;
  }

  /** Asking there failed. True: the error names another one, which may be asked at once. */
  failed(address: string, error: unknown): boolean {
    const hint = controllerHint(error);
    const better = hint !== undefined && hint !== address;
    if (this.#hint === undefined) this.#doubted = this.#known();
    if (!better && this.#hint === undefined) this.#next++;
    this.#hint = better ? hint : undefined;
    return better;
  }

  /** It answered: stay with it until it fails or the metadata names another. */
  worked(address: string): void {
    const known = this.#known();
    this.#hint = known?.address === address ? undefined : address;
    if (this.#hint === undefined) this.#doubted = undefined;
  }

  /** The metadata names another controller. */
  moved(): void {
    this.#hint = undefined;
    this.#doubted = undefined;
  }
}
