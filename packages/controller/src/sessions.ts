/**
 * The sessions of brokers, as the active controller sees them: who was heard of when, and whose word is
 * still good. Not replicated: a new controller grants every broker one full session.
 *
 *   event                    │ what it does
 *   ─────────────────────────┼──────────────────────────────────────────────────────────────────────
 *   heartbeat that counts    │ the session begins anew; a disk that hangs or fails ends it instead
 *   one that does not        │ the session goes on: the broker is heard, and may not hear
 *   silence for a session    │ expired
 *   stream broken            │ the session goes on, but the broker is to be probed
 *   probe refused, or silent │ ended by the caller, who fences
 *   the controller stalled   │ its own pause is not held against the brokers
 *
 * Fencing is always safe (epochs see to that); sessions only decide when it happens.
 */
import type { BrokerEpoch, BrokerId, LogIndex } from '@relevo/base/ids';
import { logIndex } from '@relevo/base/ids';
import type { BrokerImage } from './image.ts';

export interface SessionOptions {
  /** How long a broker may be silent. Default: 1,500 ms. */
  readonly sessionTimeoutMs: number;
}

export interface Heartbeat {
  readonly brokerId: BrokerId;
  readonly brokerEpoch: BrokerEpoch;
  /** Up to which it has applied the metadata log. */
  readonly metadataIndex: LogIndex;
  /** How long the last fsync took, or the one under way has taken so far; -1: it failed. */
  readonly diskSyncMs: number;
  /** The broker has heard a reply of late. */
  readonly counts: boolean;
}

/** `diskFailed`: the broker cannot make anything durable, so it must not lead (mistake 27). */
export type SessionVerdict = 'alive' | 'diskFailed' | 'unknown';

interface Session {
  readonly brokerId: BrokerId;
  readonly brokerEpoch: BrokerEpoch;
  /** To be unfenced the broker must have applied the log up to here: its registration, its last fencing. */
  appliesUpTo: LogIndex;
  lastHeardMs: number;
  metadataIndex: LogIndex;
  connected: boolean;
  /** Told once; told again only after the broker was heard of again. */
  expired: boolean;
}

export class BrokerSessions {
  readonly #timeoutMs: number;
  readonly #sessions = new Map<BrokerId, Session>();
  #lastTickMs: number | undefined;

  constructor(options: SessionOptions) {
    this.#timeoutMs = options.sessionTimeoutMs;
  }

  /** A new controller: forgets all, and grants every broker a full session from now. */
  takeOver(brokers: Iterable<BrokerImage>, committed: LogIndex, nowMs: number): void {
    this.#sessions.clear();
    this.#lastTickMs = nowMs;
    for (const { id, epoch } of brokers) this.#begin(id, epoch, committed, nowMs);
  }

  /** The broker registered under a new epoch, with the log entry `at`. */
  registered(brokerId: BrokerId, brokerEpoch: BrokerEpoch, at: LogIndex, nowMs: number): void {
    this.#begin(brokerId, brokerEpoch, at, nowMs);
  }

  /**
   * The broker was fenced by the log entry `at`. Unfenced before it has applied that, it would go on as the
   * leader that it was.
   */
  fenced(brokerId: BrokerId, brokerEpoch: BrokerEpoch, at: LogIndex): void {
    const session = this.#session(brokerId, brokerEpoch);
    if (session !== undefined) session.appliesUpTo = at;
  }

  #begin(brokerId: BrokerId, brokerEpoch: BrokerEpoch, at: LogIndex, nowMs: number): void {
    this.#sessions.set(brokerId, {
      brokerId,
      brokerEpoch,
      appliesUpTo: at,
      lastHeardMs: nowMs,
      metadataIndex: logIndex(0),
      connected: false,
      expired: false,
    });
  }

  heard(heartbeat: Heartbeat, nowMs: number): SessionVerdict {
    const session = this.#session(heartbeat.brokerId, heartbeat.brokerEpoch);
    if (session === undefined) return 'unknown';
    session.connected = true;
    if (heartbeat.counts) {
      session.lastHeardMs = nowMs;
      session.expired = false;
    }
    if (heartbeat.metadataIndex > session.metadataIndex) {
      session.metadataIndex = heartbeat.metadataIndex;
    }
    const { diskSyncMs } = heartbeat;
    return diskSyncMs < 0 || diskSyncMs > this.#timeoutMs ? 'diskFailed' : 'alive';
  }

  /** The broker's stream broke. */
  disconnected(brokerId: BrokerId, brokerEpoch: BrokerEpoch): void {
    const session = this.#session(brokerId, brokerEpoch);
    if (session !== undefined) session.connected = false;
  }

  /** Whether the broker has applied its own registration and fencing, and so may be unfenced. */
  isCaughtUp(brokerId: BrokerId, brokerEpoch: BrokerEpoch): boolean {
    const session = this.#session(brokerId, brokerEpoch);
    return session !== undefined && session.metadataIndex >= session.appliesUpTo;
  }

  /** Up to where the broker has said that it has applied the log; 0: it has not said. */
  metadataIndex(brokerId: BrokerId): LogIndex {
    return this.#sessions.get(brokerId)?.metadataIndex ?? logIndex(0);
  }

  /**
   * Whether another incarnation may take the broker's id. Not while its stream is up, nor while it may
   * be on its way back to a new controller; but two processes cannot listen on one address, so whoever
   * comes from the same one has replaced it.
   */
  isGone(brokerId: BrokerId, sameAddress: boolean, nowMs: number): boolean {
    const session = this.#sessions.get(brokerId);
    if (session === undefined) return true;
    if (nowMs - session.lastHeardMs >= this.#timeoutMs) return true;
    return !session.connected && sameAddress;
  }

  /**
   * Brokers whose session has run out since the last call. Call it at `nextDeadlineMs`, and a few times
   * per session besides: a call that comes late shows that this process was paused, and then the brokers
   * could not be heard either; what the pause took is given back to them.
   */
  expired(nowMs: number): BrokerId[] {
    const pauseMs = this.#lastTickMs === undefined ? 0 : nowMs - this.#lastTickMs;
    this.#lastTickMs = nowMs;
    const found: BrokerId[] = [];
    for (const session of this.#sessions.values()) {
      if (pauseMs > this.#timeoutMs / 2) session.lastHeardMs += pauseMs;
      if (session.expired || nowMs - session.lastHeardMs < this.#timeoutMs) continue;
      session.expired = true;
      found.push(session.brokerId);
    }
    return found;
  }

  /** When the next session runs out if nothing is heard; undefined: none is open. */
  nextDeadlineMs(): number | undefined {
    let next: number | undefined;
    for (const session of this.#sessions.values()) {
      if (session.expired) continue;
      const deadline = session.lastHeardMs + this.#timeoutMs;
      if (next === undefined || deadline < next) next = deadline;
    }
    return next;
  }

  #session(brokerId: BrokerId, brokerEpoch: BrokerEpoch): Session | undefined {
    const session = this.#sessions.get(brokerId);
    return session?.brokerEpoch === brokerEpoch ? session : undefined;
  }
}
