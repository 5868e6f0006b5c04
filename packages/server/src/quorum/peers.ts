/**
 * The links to the other members, and what their breaking means: whether a peer's process is gone is asked
 * by a bare dial, at once. A refusal is certain. Else it is asked again shortly, because a dying process may
 * close its connections before its listener. Silence is as good as a refusal when it lasts: a kernel takes
 * dials for a process that is only slow, and a container takes its address with it.
 */
import type { BrokerId } from '@relevo/base/ids';
import type { Clock, Logger, Random, Timers, Transport } from '@relevo/base/ports';
import type { Message } from '@relevo/raft/messages';
import { PeerLink } from './peer-link.ts';

export interface PeersDeps {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly random: Random;
  readonly transport: Transport;
  readonly logger: Logger;
}

export interface PeersOptions {
  readonly nodeId: BrokerId;
  readonly clusterId: string;
  readonly addressOf: (id: BrokerId) => string | undefined;
  readonly onUnreachable: (id: BrokerId, refused: boolean) => void;
  readonly onSnapshotGoesOn: (id: BrokerId) => void;
}

const PROBE_TIMEOUT_MS = 100;
/** So many dials one after the other that met nothing. */
const SILENCES_MAX = 2;
/** Waits between the probes after a break. */
const PROBE_AGAIN_MS: readonly number[] = [30, 100];

interface Peer {
  readonly id: BrokerId;
  link: PeerLink | undefined;
  /** It has spoken since the last break: another one is worth a probe. */
  isUp: boolean;
  probing: boolean;
}

export class Peers {
  readonly #deps: PeersDeps;
  readonly #options: PeersOptions;
  readonly #peers = new Map<BrokerId, Peer>();
  #closed = false;

  constructor(deps: PeersDeps, options: PeersOptions) {
    this.#deps = deps;
    this.#options = options;
  }

  send(messages: readonly Message[]): void {
    for (const message of messages) {
      if (!this.#closed) this.#linkTo(message.to.id)?.send(message);
    }
  }

  /** It has dialled us. */
  called(id: BrokerId): void {
    const peer = this.#peer(id);
    peer.isUp = true;
    this.#linkTo(id)?.peerCalled();
  }

  /** It has sent us a message. */
  heard(id: BrokerId): void {
    const peer = this.#peer(id);
    peer.isUp = true;
    peer.link?.heard();
  }

  /** One of the two streams between us broke. */
  broken(id: BrokerId): void {
    const peer = this.#peer(id);
    if (this.#closed) return;
    if (!peer.isUp) {
      this.#options.onUnreachable(id, false);
      return;
    }
    peer.isUp = false;
    if (!peer.probing) void this.#probe(peer);
  }

  /** It has spoken since its streams last broke. */
  isUp(id: BrokerId): boolean {
    return this.#peers.get(id)?.isUp ?? false;
  }

  close(): void {
    this.#closed = true;
    for (const { link } of this.#peers.values()) link?.close();
    this.#peers.clear();
  }

  async #probe(peer: Peer): Promise<void> {
    const address = this.#options.addressOf(peer.id);
    if (address === undefined) return;
    peer.probing = true;
    let silences = 0;
    for (const againMs of [...PROBE_AGAIN_MS, undefined]) {
      const result = await this.#deps.transport.probe(address, PROBE_TIMEOUT_MS);
      if (this.#closed || peer.isUp) break;
      silences = result === 'accepted' ? 0 : silences + 1;
      const isGone = result === 'refused' || silences === SILENCES_MAX;
      this.#options.onUnreachable(peer.id, isGone);
      if (isGone || againMs === undefined) break;
      await new Promise<void>((resolve) => this.#deps.timers.after(againMs, resolve));
    }
    peer.probing = false;
  }

  #peer(id: BrokerId): Peer {
    let peer = this.#peers.get(id);
    if (peer === undefined) {
      peer = { id, link: undefined, isUp: false, probing: false };
      this.#peers.set(id, peer);
    }
    return peer;
  }

  #linkTo(id: BrokerId): PeerLink | undefined {
    const { nodeId, clusterId, addressOf } = this.#options;
    const address = addressOf(id);
    if (address === undefined || id === nodeId) return undefined;
    const peer = this.#peer(id);
    if (peer.link !== undefined && peer.link.address !== address) {
      peer.link.close();
      peer.link = undefined;
    }
    peer.link ??= new PeerLink(this.#deps, {
      peer: id,
      address,
      clusterId,
      onBroken: () => this.broken(id),
      onSnapshotGoesOn: () => this.#options.onSnapshotGoesOn(id),
    });
    return peer.link;
  }
}
