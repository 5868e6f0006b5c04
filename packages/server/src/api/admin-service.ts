/** The Admin service: topics and the cluster, from any broker. */
import { RelevoError } from '@relevo/base/errors';
import { uuid, uuidFromBytes } from '@relevo/base/ids';
import type { BrokerId } from '@relevo/base/ids';
import { route } from '@relevo/base/ports';
import type { Clock, Random, Route, TimerHandle, Timers } from '@relevo/base/ports';
import { isEligible } from '@relevo/controller/image';
import type { ClusterImage, TopicImage } from '@relevo/controller/image';
import { describeTopicSettings, type TopicSettings } from '@relevo/controller/topic-config';
import {
  AdminService as methods,
  describeTopicsResponse,
  type CreateTopicRequest,
  type CreateTopicResponse,
  type DescribeClusterResponse,
  type DescribeTopicsResponse,
} from '@relevo/rpc/gen/client/admin';
import { ControllerAdminService as onController } from '@relevo/rpc/gen/cluster/controller-admin';
import { addressOn } from '../partitions/current-leader.ts';
import type { ControllerAdmin } from './controller-admin.ts';
import type { ControllerCalls } from './controller-calls.ts';
import { viewTopic } from './metadata-view.ts';

/** How long an answer waits for this broker to have heard of what it tells. */
const IMAGE_WAIT_MS = 2000;
/** How long a topic waits for brokers to register that its replicas need; below the SDK's patience. */
const REGISTRATION_WAIT_MS = 8000;
/** A node that started so long ago knows all brokers of its cluster that are about to come. */
const STARTING_MS = 10_000;

export interface AdminServiceDeps {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly random: Random;
  readonly calls: ControllerCalls;
  /** For when this node is the active controller. */
  readonly controller: ControllerAdmin;
  readonly image: () => ClusterImage;
  readonly topicDefaults: TopicSettings;
  readonly replicationFactorDefault: number;
  /** Throws LEADER_NOT_AVAILABLE while this node starts, or is out of touch with the controllers. */
  readonly assertCurrent: () => void;
}

interface ImageWaiter {
  readonly reached: (image: ClusterImage) => boolean;
  readonly resume: () => void;
  readonly timer: TimerHandle;
}

export class AdminService {
  readonly #deps: AdminServiceDeps;
  readonly #waiters = new Set<ImageWaiter>();
  readonly #startedMs: number;

  constructor(deps: AdminServiceDeps) {
    this.#deps = deps;
    this.#startedMs = deps.clock.monotonicMs();
  }

  routes(): Route[] {
    const { calls, controller } = this.#deps;
    return [
      route(methods.createTopic, (request) => this.#createTopic(request)),
      route(methods.deleteTopic, async (request) => {
        const answer = await calls.call(onController.deleteTopic, request, (mine) =>
          controller.deleteTopic(mine),
        );
        const id = uuid(answer.topicId);
        await this.#untilImage((image) => !image.topicsById.has(id));
        return answer;
      }),
      route(methods.createPartitions, async (request) => {
        const topic = this.#deps.image().topicsByName.get(request.topic);
        const wanted = topic?.partitions[0]?.replicas.length ?? 0;
        const answer = await this.#whenRegistered(wanted, () =>
          calls.call(onController.createPartitions, request, (mine) =>
            controller.createPartitions(mine),
          ),
        );
        await this.#untilImage((image) => {
          const topic = image.topicsByName.get(request.topic);
          return topic === undefined || topic.partitions.length >= answer.partitions;
        });
        return answer;
      }),
      route(methods.alterTopicConfig, (request) =>
        calls.call(onController.alterTopicConfig, request, (mine) =>
          controller.alterTopicConfig(mine),
        ),
      ),
      route(methods.describeTopics, async ({ topics }) => this.#describeTopics(topics)),
      route(methods.describeCluster, async (request, { listener }) => {
        const answer = await calls.call(onController.describeCluster, request, () =>
          controller.describeCluster(),
        );
        return this.#toldOn(listener, answer);
      }),
      route(methods.electPreferredLeaders, (request) =>
        calls.call(onController.electPreferredLeaders, request, (mine) =>
          controller.electPreferredLeaders(mine),
        ),
      ),
    ];
  }

  /** To be called with every change of the image. */
  imageChanged(image: ClusterImage): void {
    for (const waiter of this.#waiters) {
      if (!waiter.reached(image)) continue;
      this.#waiters.delete(waiter);
      waiter.timer.cancel();
      waiter.resume();
    }
  }

  async #createTopic(request: CreateTopicRequest): Promise<CreateTopicResponse> {
    const { calls, controller, random } = this.#deps;
    // Drawn once, so that a repeated try at another controller makes one topic.
    const topicId = uuidFromBytes(random.bytes(16));
    const { replicationFactor } = request;
    const wanted = replicationFactor > 0 ? replicationFactor : this.#deps.replicationFactorDefault;
    const answer = await this.#whenRegistered(wanted, () =>
      calls.call(onController.createTopic, { request, topicId }, (mine) =>
        controller.createTopic(mine),
      ),
    );
    if (!request.validateOnly) await this.#untilImage((image) => image.topicsById.has(topicId));
    return answer;
  }

  /**
   * After a restart brokers register one by one: what needs more of them than are there waits as long as they
   * may come, instead of failing. `wanted`: how many it needs.
   */
  async #whenRegistered<Answer>(wanted: number, ask: () => Promise<Answer>): Promise<Answer> {
    const { clock, image } = this.#deps;
    const endMs = clock.monotonicMs() + REGISTRATION_WAIT_MS;
    for (;;) {
      const { index } = image();
      try {
        return await ask();
      } catch (error) {
        const lacksBrokers =
          error instanceof RelevoError && error.code === 'INVALID_REPLICATION_FACTOR';
        if (!lacksBrokers || !this.#mayYetRegister(wanted)) throw error;
        const leftMs = endMs - clock.monotonicMs();
        if (leftMs <= 0) throw error;
        const waitMs = Math.min(leftMs, IMAGE_WAIT_MS);
        await this.#untilImage((changed) => changed.index > index, waitMs);
      }
    }
  }

  /** Too few brokers are up; enough are known though, or it is too early to know. */
  #mayYetRegister(wanted: number): boolean {
    const image = this.#deps.image();
    const known = [...image.brokers.keys()];
    if (known.filter((id) => isEligible(image, id)).length >= wanted) return false;
    const ageMs = this.#deps.clock.monotonicMs() - this.#startedMs;
    return known.length >= wanted || ageMs < STARTING_MS;
  }

  #describeTopics(names: readonly string[]): DescribeTopicsResponse {
    this.#deps.assertCurrent();
    const image = this.#deps.image();
    const topics =
      names.length === 0
        ? [...image.topicsById.values()]
        : names.map((name) => topicNamed(image, name));
    return describeTopicsResponse({
      topics: topics.map((topic) => ({
        topic: viewTopic(topic),
        config: describeTopicSettings(topic.config, this.#deps.topicDefaults),
      })),
    });
  }

  /** The controller that answered knows nothing of where the caller comes from. */
  #toldOn(listener: string, answer: DescribeClusterResponse): DescribeClusterResponse {
    const image = this.#deps.image();
    const brokers = answer.brokers.map((told) => {
      const broker = image.brokers.get(told.id as BrokerId);
      return broker === undefined ? told : { ...told, address: addressOn(broker, listener) };
    });
    return { ...answer, brokers };
  }

  /** Resolves when this broker's image is so, or after a while all the same: it is a courtesy. */
  #untilImage(
    reached: (image: ClusterImage) => boolean,
    waitMs: number = IMAGE_WAIT_MS,
  ): Promise<void> {
    if (reached(this.#deps.image())) return Promise.resolve();
    return new Promise((resume) => {
      const timer = this.#deps.timers.after(waitMs, () => {
        this.#waiters.delete(waiter);
        resume();
      });
      const waiter: ImageWaiter = { reached, resume, timer };
      this.#waiters.add(waiter);
    });
  }
}

function topicNamed(image: ClusterImage, name: string): TopicImage {
  const topic = image.topicsByName.get(name);
  if (topic !== undefined) return topic;
  throw new RelevoError(
    'UNKNOWN_TOPIC_OR_PARTITION',
    `topic "${name}" does not exist: relevo topic list shows those that do`,
  );
}
