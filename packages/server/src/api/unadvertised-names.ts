/**
 * Callers that reach this node under a name that it does not advertise are sent to the advertised one,
 * which may mean nothing where they are. Each such name is logged once, with what to set.
 */
import type { Logger, PeerInfo } from '@relevo/base/ports';
import type { ListenerAddress } from '@relevo/controller/records';

/** Names remembered; a caller that makes them up fills neither the memory nor the log. */
const NAMES_MAX = 64;

export class UnadvertisedNames {
  readonly #logger: Logger;
  readonly #advertised: ReadonlyMap<string, string>;
  readonly #severalListeners: boolean;
  readonly #seen = new Set<string>();

  constructor(logger: Logger, advertised: readonly ListenerAddress[]) {
    this.#logger = logger;
    this.#advertised = new Map(advertised.map(({ listener, address }) => [listener, address]));
    this.#severalListeners = advertised.length > 1;
  }

  /** To be called when a client looks the cluster up. */
  reached({ authority, listener }: PeerInfo): void {
    const advertised = this.#advertised.get(listener);
    if (advertised === undefined || authority === '' || authority === advertised) return;
    const key = `${listener} ${authority}`;
    if (this.#seen.has(key) || this.#seen.size >= NAMES_MAX) return;
    this.#seen.add(key);
    const set = this.#severalListeners ? `${listener}://${authority}` : authority;
    this.#logger.info('reached under a name that is not advertised', {
      listener,
      name: authority,
      advertised,
      hint:
        `its callers are sent on to ${advertised}; where they cannot reach that, set ` +
        `advertised.grpc to ${set}, or give their network a listener of its own`,
    });
  }
}
