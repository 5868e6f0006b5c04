/**
 * What this broker may say of the partitions that it leads, by when a controller was last known to count
 * on it (P7). A heartbeat that counted was sent at some moment; from then on
 *
 *   up to a third of a session   nobody can have fenced this broker: its word on the ends of its logs is good
 *   up to a session              it serves the records that it knows to be committed
 *   later                        it may have been deposed long ago: it serves nothing
 *
 * A controller fences a silent broker a third of a session after its stream broke, at the earliest. Until
 * then this broker is in every in-sync set that it leads, and nothing is committed without it.
 */
import type { Refusal } from './current-leader.ts';

export interface Lease {
  /** Whether records may be served and acknowledged at this moment. */
  isValid(): boolean;
  /** Whether this broker may say, at this moment, where its logs end and what is not in them. */
  isCertain(): boolean;
  /** Asks the controller; resolves when `isCertain`, or when it takes too long. */
  untilCertain(): Promise<void>;
  /** Why it is not valid, and what to do. */
  outOfTouch(): string;
}

/** For whoever asks a broker whose lease is not valid. */
export const outOfTouch = (lease: Lease): Refusal => ({
  code: 'LEADER_NOT_AVAILABLE',
  message: lease.outOfTouch(),
});
