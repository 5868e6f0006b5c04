/** What messages carry for the state machine: nothing is stored that could not be applied at a start. */
import type { LogIndex } from '@relevo/base/ids';
import type { Message } from '@relevo/raft/messages';

export interface ContentChecks {
  /** What is wrong with an entry's data from another node; undefined: `onCommitted` can take it. */
  readonly flawOfData?: (data: Uint8Array) => string | undefined;
  /** … and with a snapshot's, for `restoreSnapshot`. */
  readonly flawOfSnapshot?: (bytes: Uint8Array, index: LogIndex) => string | undefined;
}

export function flawOfContent({ body }: Message, checks: ContentChecks): string | undefined {
  const { flawOfData, flawOfSnapshot } = checks;
  if (body.kind === 'snapshot') return flawOfSnapshot?.(body.snapshot.data, body.snapshot.index);
  if (body.kind !== 'append' || flawOfData === undefined) return undefined;
  for (const { index, kind, data } of body.entries) {
    const flaw = kind === 'data' ? flawOfData(data) : undefined;
    if (flaw !== undefined) return `entry ${index}: ${flaw}`;
  }
  return undefined;
}
