/**
 * The committed image of the cluster on this node, and who is told when it changes. Controllers feed it
 * from their own quorum, other brokers from a `MetadataFollower`. Whatever comes in at once is one delta.
 */
import { AssertionError, assert, defined } from '@relevo/base/assert';
import type { BrokerId, LogIndex, Term } from '@relevo/base/ids';
import type { Gauge, Logger, Metrics } from '@relevo/base/ports';
import type { ClusterImage } from '@relevo/controller/image';
import { EMPTY_IMAGE } from '@relevo/controller/image';
import type { MetadataRecord } from '@relevo/controller/records';
import { ImageDelta, difference } from '@relevo/controller/replay';
import type { MetadataDelta } from '@relevo/controller/replay';
import { decodeRecords, decodeSnapshot, encodeSnapshot } from './record-codec.ts';

/** A committed entry of the metadata log. */
export interface CommittedEntry {
  readonly index: LogIndex;
  readonly term: Term;
  /** Encoded records; empty for entries of the consensus itself. */
  readonly data: Uint8Array;
}

/** The active controller, as far as this node knows. */
export interface ControllerInfo {
  readonly id: BrokerId;
  /** host:port. */
  readonly address: string;
  readonly term: Term;
}

/** `image` is as after the delta. May not throw. */
export type MetadataListener = (delta: MetadataDelta, image: ClusterImage) => void;

/** Undefined: none is known. */
export type ControllerListener = (controller: ControllerInfo | undefined) => void;

export class MetadataPublisher {
  #image: ClusterImage = EMPTY_IMAGE;
  #controller: ControllerInfo | undefined;
  readonly #listeners = new Set<MetadataListener>();
  readonly #controllerListeners = new Set<ControllerListener>();
  readonly #index: Gauge;
  readonly #logger: Logger | undefined;

  constructor(deps: { readonly metrics: Metrics; readonly logger?: Logger }) {
    this.#logger = deps.logger;
    this.#index = deps.metrics.gauge(
      'relevo_metadata_index',
      'Index in the metadata log up to which this node has applied it',
    );
  }

  image(): ClusterImage {
    return this.#image;
  }

  controller(): ControllerInfo | undefined {
    return this.#controller;
  }

  /** Listeners are called in the order of their subscription. Returns how to end it. */
  subscribe(listener: MetadataListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  onController(listener: ControllerListener): () => void {
    this.#controllerListeners.add(listener);
    return () => this.#controllerListeners.delete(listener);
  }

  /** Entries that are in the image already are passed over. */
  applyCommitted(entries: readonly CommittedEntry[]): void {
    let applied: number = this.#image.index;
    const fresh: FreshEntry[] = [];
    for (const { index, term, data } of entries) {
      if (index <= applied) continue;
      assert(index === applied + 1, 'the metadata log has no gaps', { applied, next: index });
      applied = index;
      fresh.push({ index, term, records: decodeRecords(data) });
    }
    if (fresh.length === 0) return;
    const next = foldAll(this.#image, fresh) ?? this.#foldOneByOne(fresh);
    this.#publish(next.delta, next.image);
  }

  /**
   * An entry that contradicts the image is passed over as a whole. The controller proposes none: it replays
   * what it decides before it does. Should there be one all the same, every node finds the same and does
   * the same, and can start with it.
   */
  #foldOneByOne(entries: readonly FreshEntry[]): { image: ClusterImage; delta: MetadataDelta } {
    let image = this.#image;
    for (const entry of entries) {
      const next = foldAll(image, [entry]);
      if (next === undefined) {
        const facts = { index: entry.index, term: entry.term };
        this.#logger?.error(
          'an entry of the metadata log contradicts it: it is passed over',
          facts,
        );
      }
      image = next?.image ?? { ...image, index: entry.index, term: entry.term };
    }
    return { image, delta: difference(this.#image, image) };
  }

  /** Takes the place of everything up to `index`. An older one than the image is passed over. */
  restoreSnapshot(bytes: Uint8Array, index: LogIndex): void {
    const image = decodeSnapshot(bytes);
    assert(image.index === index, 'a snapshot is as of its index', { index, holds: image.index });
    this.restoreImage(image);
  }

  restoreImage(image: ClusterImage): void {
    if (image.index <= this.#image.index) return;
    this.#publish(difference(this.#image, image), image);
  }

  /** Of the image as it is; the same on every node at the same index. */
  takeSnapshot(): { readonly bytes: Uint8Array; readonly index: LogIndex; readonly term: Term } {
    const { index, term } = this.#image;
    return { bytes: encodeSnapshot(this.#image), index, term };
  }

  setController(controller: ControllerInfo | undefined): void {
    const known = this.#controller;
    if (known?.id === controller?.id && known?.term === controller?.term) return;
    this.#controller = controller;
    for (const listener of this.#controllerListeners) listener(controller);
  }

  #publish(delta: MetadataDelta, image: ClusterImage): void {
    this.#image = image;
    this.#index.set(image.index);
    for (const listener of this.#listeners) listener(delta, image);
  }
}

interface FreshEntry {
  readonly index: LogIndex;
  readonly term: Term;
  readonly records: readonly MetadataRecord[];
}

/** Undefined: some record contradicts what was before it. */
function foldAll(
  base: ClusterImage,
  entries: readonly FreshEntry[],
): { image: ClusterImage; delta: MetadataDelta } | undefined {
  const delta = new ImageDelta(base);
  try {
    for (const { records } of entries) for (const record of records) delta.apply(record);
  } catch (error) {
    if (error instanceof AssertionError) return undefined;
    throw error;
  }
  const last = defined(entries.at(-1), 'an entry');
  return delta.finish(last.index, last.term);
}
