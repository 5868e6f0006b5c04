/**
 * `GetMetadata`, `WatchMetadata` and `GetNode`. A watcher gets everything first and then each change. One that
 * cannot keep up is not queued for without end: it is sent the whole once it has drained.
 */
import type {
  MessageStream,
  PeerInfo,
  Route,
  StreamEvents,
  TimerHandle,
  Timers,
} from '@relevo/base/ports';
import { RpcError, route } from '@relevo/base/ports';
import type { ClusterImage } from '@relevo/controller/image';
import type { MetadataDelta } from '@relevo/controller/replay';
import {
  clusterMetadata,
  metadataUpdate,
  MetadataService as methods,
  type MetadataUpdate,
  type NodeDescription,
  type TopicMetadata,
  type WatchMetadataRequest,
} from '@relevo/rpc/gen/client/metadata';
import { viewBrokers, viewDelta, viewTopics } from './metadata-view.ts';

/** A watcher hears something at least this often; silence means a broker that hangs. */
export const WATCH_HEARTBEAT_MS = 250;

interface Watcher {
  readonly stream: MessageStream<MetadataUpdate>;
  readonly names: ReadonlySet<string>;
  readonly listener: string;
  /** Its buffer is full, and what it misses meanwhile comes as a whole afterwards. */
  behind: boolean;
  heardSinceHeartbeat: boolean;
}

export interface MetadataServiceDeps {
  readonly timers: Timers;
  readonly clusterId: string;
  readonly image: () => ClusterImage;
  /** -1: none is known. */
  readonly controllerId: () => number;
  /** Throws LEADER_NOT_AVAILABLE while this node has not caught up with the cluster since its start. */
  readonly assertInformed: () => void;
  /** False: it may not have heard of everything, so it cannot say what there is not. */
  readonly isCurrent: () => boolean;
  /** A client looks the cluster up. */
  readonly reached: (peer: PeerInfo) => void;
  /** As callers of that listener are told. */
  readonly describeNode: (listener: string) => NodeDescription;
}

export class MetadataService {
  readonly #deps: MetadataServiceDeps;
  readonly #watchers = new Set<Watcher>();
  #heartbeat: TimerHandle | undefined;
  #closed = false;

  constructor(deps: MetadataServiceDeps) {
    this.#deps = deps;
  }

  routes(): Route[] {
    return [
      route(methods.getMetadata, async (request, peer) => {
        this.#deps.reached(peer);
        this.#deps.assertInformed();
        return clusterMetadata({
          clusterId: this.#deps.clusterId,
          version: this.#deps.image().index,
          controllerId: this.#deps.controllerId(),
          brokers: viewBrokers(this.#deps.image(), peer.listener),
          topics: this.#viewTopics(request.topics),
        });
      }),
      route(methods.watchMetadata, (request, stream, peer) => {
        this.#deps.reached(peer);
        this.#deps.assertInformed();
        return this.#watch(request, stream, peer.listener);
      }),
      route(methods.getNode, (_, { listener }) =>
        Promise.resolve(this.#deps.describeNode(listener)),
      ),
    ];
  }

  /** To be called with every change of the image, after the node has acted on it. */
  imageChanged(delta: MetadataDelta, image: ClusterImage): void {
    // Most watchers watch everything: their message is made once for each listener.
    const forAll = new Map<string, MetadataUpdate | undefined>();
    for (const watcher of this.#watchers) {
      if (watcher.behind) continue;
      let update: MetadataUpdate | undefined;
      if (watcher.names.size === 0) {
        if (!forAll.has(watcher.listener)) {
          forAll.set(watcher.listener, viewDelta(delta, image, watcher.names, watcher.listener));
        }
        update = forAll.get(watcher.listener);
      } else {
        update = viewDelta(delta, image, watcher.names, watcher.listener);
      }
      if (update !== undefined) this.#tell(watcher, update);
    }
  }

  controllerChanged(): void {
    for (const watcher of this.#watchers) {
      if (!watcher.behind) this.#tell(watcher, metadataUpdate());
    }
  }

  /**
   * This broker is cut off from the controllers, or may be: what it tells is no news. Its watchers go to
   * others; one that finds nobody better may come back.
   */
  sendElsewhere(): void {
    const watchers = [...this.#watchers];
    this.#watchers.clear();
    const message = 'this broker is fenced, or cut off from the controllers: watch another one';
    for (const { stream } of watchers) {
      stream.cancel(new RpcError('UNAVAILABLE', message, { code: 'LEADER_NOT_AVAILABLE' }));
    }
  }

  close(): void {
    this.#closed = true;
    this.#heartbeat?.cancel();
    for (const watcher of this.#watchers) watcher.stream.end();
    this.#watchers.clear();
  }

  #watch(
    request: WatchMetadataRequest,
    stream: MessageStream<MetadataUpdate>,
    listener: string,
  ): Pick<StreamEvents<never>, 'onDrain' | 'onEnd'> {
    const watcher: Watcher = {
      stream,
      names: new Set(request.topics),
      listener,
      behind: false,
      heardSinceHeartbeat: true,
    };
    this.#watchers.add(watcher);
    this.#tellAll(watcher);
    if (this.#heartbeat === undefined && !this.#closed) this.#beat();
    return {
      onDrain: () => {
        if (watcher.behind) this.#tellAll(watcher);
      },
      onEnd: () => this.#watchers.delete(watcher),
    };
  }

  #tellAll(watcher: Watcher): void {
    watcher.behind = false;
    const image = this.#deps.image();
    const topics = this.#viewTopics([...watcher.names]);
    this.#tell(
      watcher,
      metadataUpdate({ full: true, brokers: viewBrokers(image, watcher.listener), topics }),
    );
  }

  #viewTopics(names: readonly string[]): TopicMetadata[] {
    const absent = this.#deps.isCurrent() ? 'UNKNOWN_TOPIC_OR_PARTITION' : 'LEADER_NOT_AVAILABLE';
    return viewTopics(this.#deps.image(), names, absent);
  }

  #tell(watcher: Watcher, update: MetadataUpdate): void {
    watcher.heardSinceHeartbeat = true;
    const roomLeft = watcher.stream.send({
      ...update,
      version: this.#deps.image().index,
      clusterId: this.#deps.clusterId,
      controllerId: this.#deps.controllerId(),
    });
    if (!roomLeft) watcher.behind = true;
  }

  #beat(): void {
    this.#heartbeat = this.#deps.timers.after(WATCH_HEARTBEAT_MS, () => {
      this.#heartbeat = undefined;
      for (const watcher of this.#watchers) {
        if (!watcher.heardSinceHeartbeat && !watcher.behind) this.#tell(watcher, metadataUpdate());
        watcher.heardSinceHeartbeat = false;
      }
      if (this.#watchers.size > 0 && !this.#closed) this.#beat();
    });
  }
}
