/**
 * `FollowMetadata`: the metadata log for brokers that are no controllers. Any controller serves it, from
 * a window of the entries committed last; whoever is behind the window, or asks for what is not in the
 * log, gets a snapshot. A follower that does not keep up is sent nothing until it has drained, and then
 * what it missed.
 */
import { RelevoError } from '@relevo/base/errors';
import type { LogIndex } from '@relevo/base/ids';
import { logIndex } from '@relevo/base/ids';
import type { MessageStream, StreamEvents, TimerHandle, Timers } from '@relevo/base/ports';
import { metadataLogPart } from '@relevo/rpc/gen/cluster/controller';
import type { FollowMetadataRequest, MetadataLogPart } from '@relevo/rpc/gen/cluster/controller';
import type { CommittedEntry, MetadataPublisher } from '../metadata/metadata-publisher.ts';
import { snapshotOf } from '../metadata/record-codec.ts';

/** A part comes at least this often. */
const PART_INTERVAL_MS = 250;
const WINDOW_ENTRIES_MAX = 10_000;
const WINDOW_BYTES_MAX = 8 * 1024 * 1024;
/** Entries in one part. */
const PART_BYTES_MAX = 1024 * 1024;

interface Follower {
  readonly stream: MessageStream<MetadataLogPart>;
  /** Sent so far. */
  sentIndex: LogIndex;
  /** Its buffer is full. */
  full: boolean;
  heardSinceTick: boolean;
}

export interface MetadataStreamsDeps {
  readonly timers: Timers;
  readonly publisher: MetadataPublisher;
  readonly clusterId: string;
}

export class MetadataStreams {
  readonly #deps: MetadataStreamsDeps;
  readonly #followers = new Set<Follower>();
  /** Gapless, up to the committed index. */
  #window: CommittedEntry[] = [];
  #windowBytes = 0;
  #timer: TimerHandle | undefined;
  #closed = false;

  constructor(deps: MetadataStreamsDeps) {
    this.#deps = deps;
  }

  /** After the publisher has applied them. */
  committed(entries: readonly CommittedEntry[]): void {
    for (const entry of entries) {
      this.#window.push(entry);
      this.#windowBytes += entry.data.length;
    }
    if (this.#window.length > WINDOW_ENTRIES_MAX || this.#windowBytes > WINDOW_BYTES_MAX) {
      this.#trim();
    }
    for (const follower of this.#followers) if (!follower.full) this.#advance(follower);
  }

  /** After the publisher has taken over a snapshot: the log goes on behind it. */
  restored(): void {
    this.#window = [];
    this.#windowBytes = 0;
    for (const follower of this.#followers) if (!follower.full) this.#advance(follower);
  }

  controllerChanged(): void {
    for (const follower of this.#followers) this.#send(follower, {});
  }

  follow(
    request: FollowMetadataRequest,
    stream: MessageStream<MetadataLogPart>,
  ): Pick<StreamEvents<never>, 'onDrain' | 'onEnd'> {
    const { clusterId } = this.#deps;
    if (request.clusterId !== clusterId) {
      throw new RelevoError(
        'INCONSISTENT_CLUSTER_ID',
        `broker ${request.brokerId} is configured for cluster "${request.clusterId}", this is ` +
          `"${clusterId}": correct cluster.id or the addresses of the controllers`,
      );
    }
    const sentIndex = logIndex(request.afterIndex);
    const follower: Follower = { stream, sentIndex, full: false, heardSinceTick: true };
    this.#followers.add(follower);
    this.#send(follower, {});
    this.#advance(follower);
    if (this.#timer === undefined && !this.#closed) this.#tick();
    return {
      onDrain: () => {
        follower.full = false;
        this.#advance(follower);
      },
      onEnd: () => this.#followers.delete(follower),
    };
  }

  close(): void {
    this.#closed = true;
    this.#timer?.cancel();
    for (const { stream } of this.#followers) stream.end();
    this.#followers.clear();
  }

  #advance(follower: Follower): void {
    const image = this.#deps.publisher.image();
    while (!follower.full && follower.sentIndex < image.index) {
      const first = this.#window[0]?.index;
      if (first === undefined || follower.sentIndex + 1 < first) {
        follower.sentIndex = image.index;
        this.#send(follower, { snapshot: snapshotOf(image) });
        continue;
      }
      const entries: CommittedEntry[] = [];
      let bytes = 0;
      for (let at = follower.sentIndex + 1 - first; at < this.#window.length; at++) {
        const entry = this.#window[at];
        if (
          entry === undefined ||
          (entries.length > 0 && bytes + entry.data.length > PART_BYTES_MAX)
        ) {
          break;
        }
        entries.push(entry);
        bytes += entry.data.length;
      }
      const last = entries.at(-1);
      if (last === undefined) return;
      follower.sentIndex = last.index;
      this.#send(follower, { entries });
    }
  }

  #send(follower: Follower, content: Pick<Partial<MetadataLogPart>, 'snapshot' | 'entries'>): void {
    const { publisher } = this.#deps;
    const controller = publisher.controller();
    follower.heardSinceTick = true;
    const roomLeft = follower.stream.send(
      metadataLogPart({
        ...content,
        committedIndex: publisher.image().index,
        controllerId: controller?.id ?? -1,
        controllerAddress: controller?.address ?? '',
        controllerTerm: controller?.term ?? 0,
      }),
    );
    if (!roomLeft) follower.full = true;
  }

  #trim(): void {
    let drop = Math.floor(this.#window.length / 2);
    let bytes = this.#windowBytes;
    this.#window.forEach(({ data }, at) => {
      if (at < drop || bytes > WINDOW_BYTES_MAX) {
        bytes -= data.length;
        drop = Math.max(drop, at + 1);
      }
    });
    this.#window = this.#window.slice(drop);
    this.#windowBytes = bytes;
  }

  #tick(): void {
    this.#timer = this.#deps.timers.after(PART_INTERVAL_MS, () => {
      this.#timer = undefined;
      for (const follower of this.#followers) {
        if (!follower.heardSinceTick) this.#send(follower, {});
        follower.heardSinceTick = false;
      }
      if (this.#followers.size > 0 && !this.#closed) this.#tick();
    });
  }
}
