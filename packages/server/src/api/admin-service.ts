/** The Admin service: topics and the cluster, from any broker. */
import { ERRORS, RelevoError } from '@relevo/base/errors';
import { brokerId, uuid, uuidFromBytes } from '@relevo/base/ids';
import type { BrokerId, Uuid } from '@relevo/base/ids';
import { route } from '@relevo/base/ports';
import type { Random, Route, TimerHandle, Timers } from '@relevo/base/ports';
import type { ClusterImage, TopicImage } from '@relevo/controller/image';
import { describeTopicSettings, type TopicSettings } from '@relevo/controller/topic-config';
import {
  AdminService as methods,
  alterTopicConfigResponse,
  createPartitionsResponse,
  createTopicResponse,
  deleteTopicResponse,
  describeTopicsResponse,
  electPreferredLeadersResponse,
  type CreateTopicRequest,
  type CreateTopicResponse,
  type DescribeClusterResponse,
  type DescribeTopicsResponse,
  type ElectPreferredLeadersRequest,
  type ElectPreferredLeadersResponse,
} from '@relevo/rpc/gen/client/admin';
import type { ControllerService } from '../controller/controller-service.ts';
import { addressOn } from '../partitions/current-leader.ts';
import type { ControllerCalls } from './controller-calls.ts';
import { describeCluster, type QuorumView } from './describe-cluster.ts';
import { viewTopic } from './metadata-view.ts';

/** How long an answer waits for this broker to have heard of what it tells. */
const IMAGE_WAIT_MS = 2000;

/** The part of the controller that executes commands; rejects NOT_CONTROLLER where it is not active. */
export type Execute = ControllerService['execute'];

export interface AdminServiceDeps {
  readonly timers: Timers;
  readonly random: Random;
  readonly calls: ControllerCalls;
  readonly execute: Execute;
  readonly image: () => ClusterImage;
  readonly quorum: () => QuorumView;
  readonly clusterId: string;
  readonly topicDefaults: TopicSettings;
  /** Throws LEADER_NOT_AVAILABLE while this node has not caught up with the cluster since its start. */
  readonly assertInformed: () => void;
}

interface ImageWaiter {
  readonly reached: (image: ClusterImage) => boolean;
  readonly resume: () => void;
  readonly timer: TimerHandle;
}

export class AdminService {
  readonly #deps: AdminServiceDeps;
  readonly #waiters = new Set<ImageWaiter>();

  constructor(deps: AdminServiceDeps) {
    this.#deps = deps;
  }

  routes(): Route[] {
    const { calls } = this.#deps;
    return [
      route(methods.createTopic, (request) => this.#createTopic(request)),
      route(methods.deleteTopic, async (request) => {
        const answer = await calls.call(methods.deleteTopic, request, async ({ name }) =>
          deleteTopicResponse(await this.#deps.execute({ kind: 'deleteTopic', name })),
        );
        const id = uuid(answer.topicId);
        await this.#untilImage((image) => !image.topicsById.has(id));
        return answer;
      }),
      route(methods.createPartitions, async (request) => {
        const answer = await calls.call(
          methods.createPartitions,
          request,
          async ({ topic, partitions }) => {
            const seed = this.#seed();
            const command = { kind: 'createPartitions', topic, partitions, seed } as const;
            return createPartitionsResponse(await this.#deps.execute(command));
          },
        );
        await this.#untilImage((image) => {
          const topic = image.topicsByName.get(request.topic);
          return topic === undefined || topic.partitions.length >= answer.partitions;
        });
        return answer;
      }),
      route(methods.alterTopicConfig, (request) =>
        calls.call(methods.alterTopicConfig, request, async ({ topic, set, unset }) => {
          await this.#deps.execute({ kind: 'alterTopicConfig', topic, set, unset });
          return alterTopicConfigResponse();
        }),
      ),
      route(methods.describeTopics, async ({ topics }) => this.#describeTopics(topics)),
      route(methods.describeCluster, async (request, { listener }) => {
        const answer = await calls.call(methods.describeCluster, request, () =>
          Promise.resolve(this.#describeCluster()),
        );
        return this.#toldOn(listener, answer);
      }),
      route(methods.electPreferredLeaders, (request) =>
        calls.call(methods.electPreferredLeaders, request, (mine) => this.#elect(mine)),
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
    // The first broker draws the id, so that a repeated try at another controller makes one topic.
    const topicId =
      request.topicId === ''
        ? uuidFromBytes(this.#deps.random.bytes(16))
        : checkedUuid(request.topicId);
    const named = { ...request, topicId };
    const answer = await this.#deps.calls.call(methods.createTopic, named, async (mine) =>
      createTopicResponse(
        await this.#deps.execute({
          kind: 'createTopic',
          topicId,
          name: mine.name,
          partitions: mine.partitions,
          replicationFactor: mine.replicationFactor,
          config: mine.config,
          assignment: mine.assignment.map(({ replicas }) => replicas.map(checkedBrokerId)),
          validateOnly: mine.validateOnly,
          seed: this.#seed(),
        }),
      ),
    );
    if (!request.validateOnly) await this.#untilImage((image) => image.topicsById.has(topicId));
    return answer;
  }

  async #elect(request: ElectPreferredLeadersRequest): Promise<ElectPreferredLeadersResponse> {
    const { topic, partitions } = request;
    const { results } = await this.#deps.execute({ kind: 'electPreferred', topic, partitions });
    return electPreferredLeadersResponse({
      results: results.map((result) => ({ ...result, error: ERRORS[result.error].number })),
    });
  }

  #describeTopics(names: readonly string[]): DescribeTopicsResponse {
    this.#deps.assertInformed();
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

  #describeCluster(): DescribeClusterResponse {
    const { clusterId, topicDefaults } = this.#deps;
    return describeCluster(this.#deps.image(), this.#deps.quorum(), { clusterId, topicDefaults });
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

  #seed(): number {
    return Math.floor(this.#deps.random.float() * 2 ** 31);
  }

  /** Resolves when this broker's image is so, or after a while all the same: it is a courtesy. */
  #untilImage(reached: (image: ClusterImage) => boolean): Promise<void> {
    if (reached(this.#deps.image())) return Promise.resolve();
    return new Promise((resume) => {
      const timer = this.#deps.timers.after(IMAGE_WAIT_MS, () => {
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

function checkedUuid(text: string): Uuid {
  try {
    return uuid(text);
  } catch {
    throw new RelevoError('INVALID_REQUEST', `"${text}" is not a topic id`);
  }
}

function checkedBrokerId(id: number): ReturnType<typeof brokerId> {
  if (Number.isInteger(id) && id >= 0) return brokerId(id);
  throw new RelevoError('INVALID_REPLICA_ASSIGNMENT', `${id} is not a broker id`);
}
