/**
 * Callers that reach this node under a name that it does not advertise are sent to the advertised one,
 * which may mean nothing where they are. Each such name is logged once, with what to set.
 */
import type { Logger, PeerInfo } from '@relevo/base/ports';
import type { ListenerAddress } from '@relevo/controller/records';

/** Names remembered; a caller that makes them up fills neither the memory nor the log. */
const NAMES_MAX = 64;
/** Means another machine or container to each caller. */
const LOOPBACK = /^(localhost|127(\.\d+){3}|\[::1\]):\d+$/i;

export class UnadvertisedNames {
  readonly #logger: Logger;
  readonly #advertised: readonly ListenerAddress[];
  readonly #seen = new Set<string>();

  constructor(logger: Logger, advertised: readonly ListenerAddress[]) {
    this.#logger = logger;
    this.#advertised = advertised;
  }

  /** To be called when a client looks the cluster up. */
  reached({ authority, listener }: PeerInfo): void {
    const advertised = this.#advertised.find((own) => own.listener === listener)?.address;
    if (advertised === undefined || authority === '' || authority === advertised) return;
    const key = `${listener} ${authority}`;
    if (this.#seen.has(key) || this.#seen.size >= NAMES_MAX) return;
    this.#seen.add(key);
    this.#logger.info('reached under a name that is not advertised', {
      listener,
      name: authority,
      advertised,
      hint:
        `its callers are sent on to ${advertised}, which is fine where they can reach that; else ` +
        this.#whatToSet(listener, authority),
    });
  }

  /**
   * The whole value each time: one listener's address alone is refused where there are several. The
   * brokers' own listener keeps its address, under which they find each other.
   */
  #whatToSet(listener: string, name: string): string {
    const further = [...this.#advertised, { listener: 'NAME', address: name }];
    const ownListener =
      `give them a listener of their own: NAME://0.0.0.0:PORT after what listener.grpc has, let ` +
      `${name} lead there, and set advertised.grpc to ${listed(further)}`;
    if (LOOPBACK.test(name)) return ownListener;
    if (this.#advertised.length === 1) {
      return `${ownListener}; or to ${name} alone, if the other brokers reach this one there, too`;
    }
    const replaced = this.#advertised.map((own) =>
      own.listener === listener ? { ...own, address: name } : own,
    );
    return (
      `set advertised.grpc to ${listed(replaced)}, unless ${listener} is the listener that the ` +
      `brokers use among themselves (inter.broker.listener.name); then ${ownListener}`
    );
  }
}

const listed = (addresses: readonly ListenerAddress[]): string =>
  addresses.map(({ listener, address }) => `${listener}://${address}`).join(', ');
