/**
 * The ControllerAdmin service: what clients ask of the cluster, carried out on the active controller. Its
 * broker calls it directly, the others over the cluster's own service.
 */
import { ERRORS, RelevoError } from '@relevo/base/errors';
import { brokerId, uuid } from '@relevo/base/ids';
import type { BrokerId, Uuid } from '@relevo/base/ids';
import { route } from '@relevo/base/ports';
import type { Random, Route } from '@relevo/base/ports';
import type { ClusterImage } from '@relevo/controller/image';
import type { TopicSettings } from '@relevo/controller/topic-config';
import {
  alterTopicConfigResponse,
  createPartitionsResponse,
  createTopicRequest,
  createTopicResponse,
  deleteTopicResponse,
  electPreferredLeadersResponse,
  type AlterTopicConfigRequest,
  type AlterTopicConfigResponse,
  type CreatePartitionsRequest,
  type CreatePartitionsResponse,
  type CreateTopicResponse,
  type DeleteTopicRequest,
  type DeleteTopicResponse,
  type DescribeClusterResponse,
  type ElectPreferredLeadersRequest,
  type ElectPreferredLeadersResponse,
} from '@relevo/rpc/gen/client/admin';
import {
  ControllerAdminService as methods,
  type NamedTopicCreation,
} from '@relevo/rpc/gen/cluster/controller-admin';
import type { ControllerService } from '../controller/controller-service.ts';
import { describeCluster, type QuorumView } from './describe-cluster.ts';

/** The part of the controller that executes commands; rejects NOT_CONTROLLER where it is not active. */
export type Execute = ControllerService['execute'];

export interface ControllerAdminDeps {
  readonly random: Random;
  readonly execute: Execute;
  /** Resolves when this node is known to be the active controller since the call; else NOT_CONTROLLER. */
  readonly confirmed: () => Promise<void>;
  readonly image: () => ClusterImage;
  readonly quorum: () => QuorumView;
  readonly clusterId: string;
  readonly topicDefaults: TopicSettings;
}

export class ControllerAdmin {
  readonly #deps: ControllerAdminDeps;

  constructor(deps: ControllerAdminDeps) {
    this.#deps = deps;
  }

  routes(): Route[] {
    return [
      route(methods.createTopic, (request) => this.createTopic(request)),
      route(methods.deleteTopic, (request) => this.deleteTopic(request)),
      route(methods.createPartitions, (request) => this.createPartitions(request)),
      route(methods.alterTopicConfig, (request) => this.alterTopicConfig(request)),
      route(methods.describeCluster, () => this.describeCluster()),
      route(methods.electPreferredLeaders, (request) => this.electPreferredLeaders(request)),
    ];
  }

  async createTopic({ topicId, request }: NamedTopicCreation): Promise<CreateTopicResponse> {
    const { name, partitions, replicationFactor, config, assignment, validateOnly } =
      request ?? createTopicRequest();
    return createTopicResponse(
      await this.#deps.execute({
        kind: 'createTopic',
        topicId: checkedUuid(topicId),
        name,
        partitions,
        replicationFactor,
        config,
        assignment: assignment.map(({ replicas }) => replicas.map(checkedBrokerId)),
        validateOnly,
        seed: this.#seed(),
      }),
    );
  }

  async deleteTopic({ name }: DeleteTopicRequest): Promise<DeleteTopicResponse> {
    return deleteTopicResponse(await this.#deps.execute({ kind: 'deleteTopic', name }));
  }

  async createPartitions(request: CreatePartitionsRequest): Promise<CreatePartitionsResponse> {
    const { topic, partitions } = request;
    const command = { kind: 'createPartitions', topic, partitions, seed: this.#seed() } as const;
    return createPartitionsResponse(await this.#deps.execute(command));
  }

  async alterTopicConfig(request: AlterTopicConfigRequest): Promise<AlterTopicConfigResponse> {
    const { topic, set, unset } = request;
    await this.#deps.execute({ kind: 'alterTopicConfig', topic, set, unset });
    return alterTopicConfigResponse();
  }

  async describeCluster(): Promise<DescribeClusterResponse> {
    const { confirmed, image, quorum, clusterId, topicDefaults } = this.#deps;
    await confirmed();
    return describeCluster(image(), quorum(), { clusterId, topicDefaults });
  }

  async electPreferredLeaders(
    request: ElectPreferredLeadersRequest,
  ): Promise<ElectPreferredLeadersResponse> {
    const { topic, partitions } = request;
    const { results } = await this.#deps.execute({ kind: 'electPreferred', topic, partitions });
    return electPreferredLeadersResponse({
      results: results.map((result) => ({ ...result, error: ERRORS[result.error].number })),
    });
  }

  #seed(): number {
    return Math.floor(this.#deps.random.float() * 2 ** 31);
  }
}

function checkedUuid(text: string): Uuid {
  try {
    return uuid(text);
  } catch {
    throw new RelevoError('INVALID_REQUEST', `"${text}" is not a topic id`);
  }
}

function checkedBrokerId(id: number): BrokerId {
  if (Number.isInteger(id) && id >= 0) return brokerId(id);
  throw new RelevoError('INVALID_REPLICA_ASSIGNMENT', `${id} is not a broker id`);
}
