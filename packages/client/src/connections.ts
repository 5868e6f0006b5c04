/** One channel per broker address, shared by all that the client does there. */
import type { Channel, Transport } from '@relevo/base/ports';
import { DEFAULT_RETRY } from '@relevo/base/retry';
import type { RetryPolicy } from '@relevo/base/retry';

/** For streams that broke: a dial that is refused costs little, and what waits for it waits long. */
export const RECONNECT_RETRY: RetryPolicy = { ...DEFAULT_RETRY, maxMs: 250 };

export class Connections {
  readonly #transport: Transport;
  readonly #channels = new Map<string, Channel>();
  #closed = false;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** Dialled at the first use. */
  channel(address: string): Channel {
    const known = this.#channels.get(address);
    if (known !== undefined) return known;
    const channel = this.#transport.dial(address);
    if (this.#closed) channel.close();
    else this.#channels.set(address, channel);
    return channel;
  }

  /** Closes the channels to brokers that are no more. */
  keepOnly(addresses: ReadonlySet<string>): void {
    for (const [address, channel] of this.#channels) {
      if (addresses.has(address)) continue;
      this.#channels.delete(address);
      channel.close();
    }
  }

  close(): void {
    this.#closed = true;
    const channels = [...this.#channels.values()];
    this.#channels.clear();
    for (const channel of channels) channel.close();
  }
}
