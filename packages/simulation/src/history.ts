/**
 * What producers sent and consumers read in a run, and the anomalies in it, under the names that the
 * Kafka workload of Jepsen gave them. Values are unique: a value names one send for ever.
 */

export type SendOutcome = 'pending' | 'acknowledged' | 'unknown' | 'failed';

export interface Sent {
  readonly producer: string;
  readonly partition: number;
  /** Order of the call among this producer's sends to this partition. */
  readonly sequence: number;
  readonly value: string;
  outcome: SendOutcome;
  /** Where the acknowledgement says it stands; -1 before, and where it does not say. */
  offset: number;
  leaderEpoch: number;
  /** Why it failed, or why nobody knows. */
  reason: string;
}

export interface Read {
  readonly partition: number;
  readonly offset: number;
  readonly value: string;
}

export interface Gap {
  readonly partition: number;
  readonly from: number;
  readonly to: number;
}

export type AnomalyKind =
  /** Acknowledged, and not in the log. */
  | 'lost-write'
  /** Acknowledged, and never come to a consumer that has read on past it. */
  | 'unseen'
  /** Read at two offsets. */
  | 'duplicate'
  /** One offset with two values, or one value not where its acknowledgement says. */
  | 'inconsistent-offsets'
  /** Read, though nobody sent it. */
  | 'phantom'
  /** Read, though its send failed for good. */
  | 'failed-yet-read'
  /** A producer's later send stands before an earlier one. */
  | 'nonmonotonic-send'
  /** A consumer got an offset again, or a lower one. */
  | 'nonmonotonic-poll'
  /** A consumer got an offset without the one before it. */
  | 'poll-skip'
  /** A send was never settled. */
  | 'unsettled'
  /** A later offset was acknowledged under an earlier leader epoch. */
  | 'epoch-regression';

export interface Anomaly {
  readonly kind: AnomalyKind;
  readonly text: string;
}

export class History {
  readonly #sent: Map<string, Sent> = new Map();
  readonly #sequences: Map<string, number> = new Map();
  readonly #reads: Map<string, Read[]> = new Map();
  readonly #gaps: Map<string, Gap[]> = new Map();

  /** To be called when the send is called, before its outcome is known. */
  send(producer: string, partition: number, value: string): Sent {
    if (this.#sent.has(value)) throw new Error(`the value "${value}" was sent before`);
    const key = `${producer} ${partition}`;
    const sequence = this.#sequences.get(key) ?? 0;
    this.#sequences.set(key, sequence + 1);
    const sent: Sent = {
      ...{ producer, partition, sequence, value },
      ...{ outcome: 'pending', offset: -1, leaderEpoch: -1, reason: '' },
    };
    this.#sent.set(value, sent);
    return sent;
  }

  read(consumer: string, read: Read): void {
    const reads = this.#reads.get(consumer);
    if (reads === undefined) this.#reads.set(consumer, [read]);
    else reads.push(read);
  }

  /** A consumer was told that the offsets from `from` up to `to` were gone before it came to them. */
  gap(consumer: string, gap: Gap): void {
    const gaps = this.#gaps.get(consumer);
    if (gaps === undefined) this.#gaps.set(consumer, [gap]);
    else gaps.push(gap);
  }

  get sent(): readonly Sent[] {
    return [...this.#sent.values()];
  }

  count(outcome: SendOutcome): number {
    return this.sent.filter((sent) => sent.outcome === outcome).length;
  }

  readsOf(consumer: string): readonly Read[] {
    return this.#reads.get(consumer) ?? [];
  }

  /**
   * All anomalies. `complete` names the consumers that read the log as it was in the end, `running` those
   * that read all of it while it grew. `startOf`: where each partition begins, what is before having been
   * deleted by retention.
   */
  check(
    complete: readonly string[],
    running: readonly string[] = [],
    startOf: (partition: number) => number = () => 0,
  ): Anomaly[] {
    const anomalies: Anomaly[] = [];
    const found = (kind: AnomalyKind, text: string): unknown => anomalies.push({ kind, text });
    this.#checkSettled(found);
    const values = this.#checkReads(found);
    this.#checkPolls(found);
    for (const consumer of complete) this.#checkComplete(consumer, 'lost-write', startOf, found);
    for (const consumer of running) this.#checkComplete(consumer, 'unseen', startOf, found);
    this.#checkOrder(values, found);
    this.#checkEpochs(found);
    return anomalies;
  }

  #checkSettled(found: Found): void {
    for (const sent of this.#sent.values()) {
      if (sent.outcome === 'pending') found('unsettled', describe(sent));
    }
  }

  /** Holds the reads of all consumers against each other and against the sends. */
  #checkReads(found: Found): Map<string, Read> {
    const byOffset = new Map<string, string>();
    const byValue = new Map<string, Read>();
    for (const [consumer, reads] of this.#reads) {
      for (const read of reads) {
        const place = `${read.partition}@${read.offset}`;
        const other = byOffset.get(place);
        if (other === undefined) byOffset.set(place, read.value);
        else if (other !== read.value) {
          found(
            'inconsistent-offsets',
            `${place} is "${other}" and, to ${consumer}, "${read.value}"`,
          );
        }
        const before = byValue.get(read.value);
        if (before === undefined) {
          byValue.set(read.value, read);
          this.#checkRead(read, consumer, found);
        } else if (before.offset !== read.offset || before.partition !== read.partition) {
          found(
            'duplicate',
            `"${read.value}" at ${place} and ${before.partition}@${before.offset}`,
          );
        }
      }
    }
    return byValue;
  }

  #checkRead(read: Read, consumer: string, found: Found): void {
    const sent = this.#sent.get(read.value);
    const where = `read at ${read.partition}@${read.offset} by ${consumer}`;
    if (sent === undefined) found('phantom', `"${read.value}" ${where}`);
    else if (sent.outcome === 'failed') found('failed-yet-read', `${describe(sent)}, ${where}`);
    else if (sent.partition !== read.partition) {
      found('inconsistent-offsets', `${describe(sent)}, ${where}`);
    } else if (sent.offset >= 0 && sent.offset !== read.offset) {
      found('inconsistent-offsets', `${describe(sent)}, ${where}`);
    }
  }

  #checkPolls(found: Found): void {
    for (const [consumer, reads] of this.#reads) {
      const last = new Map<number, number>();
      for (const { partition, offset } of reads) {
        const before = last.get(partition);
        last.set(partition, offset);
        if (before === undefined || offset === before + 1) continue;
        if (offset > before && this.#wasTold(consumer, partition, before + 1, offset)) continue;
        const kind = offset <= before ? 'nonmonotonic-poll' : 'poll-skip';
        found(kind, `${consumer} got ${partition}@${offset} after ${partition}@${before}`);
      }
    }
  }

  #wasTold(consumer: string, partition: number, from: number, to: number): boolean {
    const gaps = this.#gaps.get(consumer) ?? [];
    return gaps.some((gap) => gap.partition === partition && gap.from === from && gap.to <= to);
  }

  #checkComplete(
    consumer: string,
    kind: AnomalyKind,
    startOf: (partition: number) => number,
    found: Found,
  ): void {
    const values = new Set(this.readsOf(consumer).map((read) => read.value));
    for (const sent of this.#sent.values()) {
      if (sent.offset < startOf(sent.partition)) continue;
      if (sent.outcome === 'acknowledged' && !values.has(sent.value)) {
        found(kind, `${describe(sent)}, not read by ${consumer}`);
      }
    }
  }

  #checkOrder(values: ReadonlyMap<string, Read>, found: Found): void {
    const last = new Map<string, { sent: Sent; offset: number }>();
    for (const sent of this.#sent.values()) {
      const read = values.get(sent.value);
      if (read === undefined) continue;
      const key = `${sent.producer} ${sent.partition}`;
      const before = last.get(key);
      if (before !== undefined && before.offset >= read.offset) {
        found(
          'nonmonotonic-send',
          `${describe(sent)} at ${read.offset}, sent after "${before.sent.value}" at ${before.offset}`,
        );
      }
      last.set(key, { sent, offset: read.offset });
    }
  }

  #checkEpochs(found: Found): void {
    const partitions = new Map<number, Sent[]>();
    for (const sent of this.#sent.values()) {
      if (sent.offset < 0) continue;
      const list = partitions.get(sent.partition);
      if (list === undefined) partitions.set(sent.partition, [sent]);
      else list.push(sent);
    }
    for (const list of partitions.values()) {
      list.sort((a, b) => a.offset - b.offset);
      for (const [at, sent] of list.entries()) {
        const before = list[at - 1];
        if (before === undefined) continue;
        if (before.offset === sent.offset) {
          found('inconsistent-offsets', `${describe(sent)} and ${describe(before)}`);
        } else if (before.leaderEpoch > sent.leaderEpoch) {
          found('epoch-regression', `${describe(sent)} after ${describe(before)}`);
        }
      }
    }
  }
}

type Found = (kind: AnomalyKind, text: string) => void;

function describe(sent: Sent): string {
  const { value, producer, partition, sequence, outcome, offset, leaderEpoch, reason } = sent;
  const place = offset >= 0 ? ` at ${partition}@${offset} in epoch ${leaderEpoch}` : '';
  const why = reason === '' ? '' : ` (${reason})`;
  return `"${value}" (${producer} #${sequence} to ${partition}) ${outcome}${place}${why}`;
}
