/**
 * What clients may hold open at a broker: calls and streams, of one connection and in all, and connections.
 * The cluster's own calls are not counted and not refused.
 */
import { RpcError } from '@relevo/base/ports';

export interface ClientLimits {
  /** Connections of all listeners together, 1 or more. Default: 10,000. */
  readonly connections: number;
  /** Calls and streams open at a time, of all connections together, 1 or more. Default: 10,000. */
  readonly calls: number;
  /** Of one connection, 1 or more. Default: 500. */
  readonly callsPerConnection: number;
}

export const CLIENT_LIMITS: ClientLimits = {
  connections: 10_000,
  calls: 10_000,
  callsPerConnection: 500,
};

/** A connection as the limits see it. */
export interface ClientConnection {
  close(): void;
}

interface Open {
  readonly connection: ClientConnection;
  /** Of clients and of the cluster's nodes. */
  calls: number;
  clientCalls: number;
}

export class ClientBook {
  readonly #limits: ClientLimits;
  readonly #onRefused: (why: string) => void;
  /** By the peer's address and port; those that were busy last at the end. */
  readonly #connections: Map<string, Open> = new Map();
  #clientCalls = 0;

  /** `onRefused` hears of each call that is refused and each connection that is closed. */
  constructor(
    limits: ClientLimits = CLIENT_LIMITS,
    onRefused: (why: string) => void = () => undefined,
  ) {
    this.#limits = limits;
    this.#onRefused = onRefused;
  }

  get connections(): number {
    return this.#connections.size;
  }

  /** Open calls of clients. */
  get calls(): number {
    return this.#clientCalls;
  }

  /**
   * Notes a connection. Where there are too many, the one that has been without a call for longest is
   * closed; where all have calls, the new one.
   */
  connected(peer: string, connection: ClientConnection): void {
    this.#connections.set(peer, { connection, calls: 0, clientCalls: 0 });
    if (this.#connections.size <= this.#limits.connections) return;
    for (const [address, { calls, connection: idle }] of this.#connections) {
      if (calls > 0) continue;
      this.disconnected(address);
      this.#onRefused(
        `${this.#limits.connections} connections are open: one of ${address} was closed`,
      );
      idle.close();
      return;
    }
  }

  disconnected(peer: string): void {
    this.#connections.delete(peer);
  }

  /** Counts a call, or says why it is refused. What was counted must be released. */
  open(peer: string, audience: 'client' | 'cluster'): RpcError | undefined {
    const from = this.#connections.get(peer);
    if (audience === 'client') {
      const { calls, callsPerConnection } = this.#limits;
      if ((from?.clientCalls ?? 0) >= callsPerConnection) {
        return this.#refuse(peer, `this connection has ${callsPerConnection} calls open`);
      }
      if (this.#clientCalls >= calls)
        return this.#refuse(peer, `clients have ${calls} calls open here`);
      this.#clientCalls += 1;
    }
    if (from === undefined) return undefined;
    from.calls += 1;
    if (audience === 'client') from.clientCalls += 1;
    return undefined;
  }

  release(peer: string, audience: 'client' | 'cluster'): void {
    if (audience === 'client') this.#clientCalls -= 1;
    const from = this.#connections.get(peer);
    if (from === undefined) return;
    from.calls -= 1;
    if (audience === 'client') from.clientCalls -= 1;
    if (from.calls > 0) return;
    // It is idle from now on: others have been so for longer.
    this.#connections.delete(peer);
    this.#connections.set(peer, from);
  }

  #refuse(peer: string, what: string): RpcError {
    this.#onRefused(`a call of ${peer}: ${what}`);
    const message = `${what}, which is the most: end some that are not needed, or use another broker`;
    return new RpcError('RESOURCE_EXHAUSTED', message, { code: 'THROTTLED' });
  }
}
