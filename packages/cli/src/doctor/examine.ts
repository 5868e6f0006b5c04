/**
 * Looks at the given addresses and at every address that the brokers behind them advertise. Each is
 * looked at once, all of them side by side.
 */
import { RpcError } from '@relevo/base/ports';
import type { Channel, Logger, Method, Transport } from '@relevo/base/ports';
import {
  AdminService,
  describeClusterRequest,
  describeTopicsRequest,
} from '@relevo/rpc/gen/client/admin';
import {
  MetadataService,
  getMetadataRequest,
  getNodeRequest,
} from '@relevo/rpc/gen/client/metadata';
import type { ClusterMetadata, NodeDescription } from '@relevo/rpc/gen/client/metadata';
import { GrpcTransport } from '@relevo/runtime/grpc-transport';
import { VERSION } from '@relevo/base/version';
import type { AddressFacts, Answerer, Facts, GivenFacts, Sample, Service } from './facts.ts';
import {
  CALL_MS,
  CONNECT_MS,
  Deadline,
  FURTHER_CONNECTIONS,
  IPS_MAX,
  RECOGNISE_MS,
  RESOLVE_MS,
  RUN_MS,
  SAMPLES,
  SAMPLING_MS,
} from './limits.ts';
import { recognise } from './recognise.ts';
import { isNode } from './troubles.ts';
import { hostAndPort, joined, resolveHost, tryConnection } from './reach.ts';

/** Topics that lack replicas whose settings are asked for. */
const TOPICS_MAX = 200;

/** Never rejects for what it meets; takes RUN_MS at most. */
export async function examine(given: readonly string[]): Promise<Facts> {
  const examination = new Examination();
  const told = await Promise.all(given.map((address) => examination.begin(address)));
  const addresses = await examination.addresses();
  return { version: VERSION, given: told, addresses, minInSync: examination.minInSync };
}

class Examination {
  readonly minInSync = new Map<string, number>();
  readonly #deadline = new Deadline(RUN_MS);
  readonly #transport: Transport = new GrpcTransport({ logger: QUIET });
  readonly #looks = new Map<string, Promise<AddressFacts>>();

  /** Looks at `address`, and at all that the broker there tells of. */
  async begin(address: string): Promise<GivenFacts> {
    const nothing: GivenFacts = {
      address,
      metadata: undefined,
      refusal: undefined,
      cluster: undefined,
      clusterRefusal: undefined,
    };
    const { service } = await this.#look(address);
    if (service?.kind !== 'relevo' && service?.kind !== 'older') return nothing;
    return this.#over(address, async (channel) => {
      const asked = await this.#ask(channel, MetadataService.getMetadata, getMetadataRequest());
      const metadata = asked.answer;
      if (metadata === undefined) return { ...nothing, refusal: asked.error?.message };
      const looks = metadata.brokers.map((broker) => this.#look(broker.address));
      const cluster = await this.#ask(
        channel,
        AdminService.describeCluster,
        describeClusterRequest(),
      );
      if ((cluster.answer?.underMinIsr ?? 0) > 0) await this.#askMinInSync(channel, metadata);
      await Promise.all(looks);
      await this.#lookForOtherWays(service, metadata);
      return {
        ...nothing,
        metadata,
        cluster: cluster.answer,
        clusterRefusal: cluster.error?.message,
      };
    });
  }

  /** Where a node sends callers to an address that leads nowhere, another listener of it may do. */
  async #lookForOtherWays(service: Service, { brokers }: ClusterMetadata): Promise<void> {
    if (service.kind !== 'relevo') return;
    const { node } = service;
    const told = brokers.find(({ id }) => id === node.nodeId);
    if (told === undefined || isNode((await this.#look(told.address)).service)) return;
    await Promise.all(node.advertised.map(({ address }) => this.#look(address)));
  }

  async addresses(): Promise<ReadonlyMap<string, AddressFacts>> {
    const looked = await Promise.all(this.#looks.values());
    return new Map(looked.map((facts) => [facts.address, facts]));
  }

  #look(address: string): Promise<AddressFacts> {
    const begun = this.#looks.get(address) ?? this.#lookAt(address);
    this.#looks.set(address, begun);
    return begun;
  }

  async #lookAt(address: string): Promise<AddressFacts> {
    const parts = hostAndPort(address);
    if (parts === undefined) {
      const resolution = { kind: 'failed', reason: `"${address}" is no host:port` } as const;
      return { ...UNSEEN, address, host: address, port: 0, resolution };
    }
    const { host, port } = parts;
    const resolution = await resolveHost(host, this.#deadline.left(RESOLVE_MS));
    const ips = resolution.kind === 'resolved' ? resolution.ips.slice(0, IPS_MAX) : [];
    const endpoints = await Promise.all(
      ips.map(async (ip) => ({
        ip,
        connection: await tryConnection(ip, port, this.#deadline.left(CONNECT_MS)),
      })),
    );
    const seen = { ...UNSEEN, address, host, port, resolution, endpoints };
    const open = endpoints.filter(({ connection }) => connection.kind === 'connected');
    const [first] = open;
    if (first === undefined) return seen;
    const { service, samples } = await this.#over(address, (channel) =>
      this.#recognise(channel, { host, ip: first.ip, port }),
    );
    if (service.kind !== 'relevo') return { ...seen, service };
    const answerers = await this.#answerers(
      open.map(({ ip }) => ip),
      port,
    );
    return { ...seen, service, samples, answerers };
  }

  async #recognise(
    channel: Channel,
    endpoint: { readonly host: string; readonly ip: string; readonly port: number },
  ): Promise<{ readonly service: Service; readonly samples: readonly Sample[] }> {
    const asked = await this.#ask(channel, MetadataService.getNode, getNodeRequest());
    if (asked.answer !== undefined) {
      const service = { kind: 'relevo', node: asked.answer } as const;
      return { service, samples: await this.#samples(channel) };
    }
    const { error } = asked;
    if (error?.status === 'UNIMPLEMENTED') {
      const request = getMetadataRequest({ topics: [] });
      const metadata = await this.#ask(channel, MetadataService.getMetadata, request);
      const isRelevo = metadata.answer !== undefined || metadata.error?.code !== undefined;
      if (isRelevo) return { service: { kind: 'older' }, samples: [] };
    }
    const ended = error !== undefined && error.status === 'UNIMPLEMENTED';
    const said = ended && !/HTTP status/i.test(error.message) ? error.message : undefined;
    const service = await recognise(endpoint, said, this.#deadline.left(RECOGNISE_MS));
    return { service, samples: [] };
  }

  /** The first call has made the connection; these go over it. */
  async #samples(channel: Channel): Promise<Sample[]> {
    const samples: Sample[] = [];
    const limit = new Deadline(this.#deadline.left(SAMPLING_MS));
    while (samples.length < SAMPLES) {
      const sentMs = Date.now();
      const startMs = performance.now();
      const deadlineMs = limit.left(CALL_MS);
      if (deadlineMs <= 1) break;
      try {
        const node = await channel.call(MetadataService.getNode, getNodeRequest(), { deadlineMs });
        samples.push({ sentMs, roundTripMs: performance.now() - startMs, node });
      } catch (error) {
        if (!(error instanceof RpcError)) throw error;
        break;
      }
    }
    return samples;
  }

  /** Who answers on connections of their own: behind a load balancer it is not always the same. */
  async #answerers(ips: readonly string[], port: number): Promise<Answerer[]> {
    const rounds = Math.ceil(FURTHER_CONNECTIONS / ips.length);
    const targets = Array.from({ length: rounds }, () => ips).flat();
    const answers = await Promise.all(
      targets.map((ip) =>
        this.#over(joined(ip, port), async (channel) => {
          const asked = await this.#ask(channel, MetadataService.getNode, getNodeRequest());
          return { ip, node: asked.answer };
        }),
      ),
    );
    return answers.flatMap(({ ip, node }) => (node === undefined ? [] : [answerer(ip, node)]));
  }

  /** For the topics that lack replicas. */
  async #askMinInSync(channel: Channel, metadata: ClusterMetadata): Promise<void> {
    const lacking = metadata.topics
      .filter(({ partitions }) =>
        partitions.some(({ isr, replicas }) => isr.length < replicas.length),
      )
      .slice(0, TOPICS_MAX)
      .map(({ name }) => name);
    const request = describeTopicsRequest({ topics: lacking });
    const { answer } = await this.#ask(channel, AdminService.describeTopics, request);
    for (const { topic, config } of answer?.topics ?? []) {
      const entry = config.find(({ name }) => name === 'min.insync.replicas');
      if (topic !== undefined && entry !== undefined) {
        this.minInSync.set(topic.name, Number(entry.value));
      }
    }
  }

  async #ask<Request, Response>(
    channel: Channel,
    method: Method<Request, Response, 'unary'>,
    request: Request,
  ): Promise<{ readonly answer?: Response; readonly error?: RpcError }> {
    try {
      const deadlineMs = this.#deadline.left(CALL_MS);
      return { answer: await channel.call(method, request, { deadlineMs }) };
    } catch (error) {
      if (error instanceof RpcError) return { error };
      throw error;
    }
  }

  async #over<Result>(
    address: string,
    use: (channel: Channel) => Promise<Result>,
  ): Promise<Result> {
    const channel = this.#transport.dial(address);
    try {
      return await use(channel);
    } finally {
      channel.close();
    }
  }
}

/** Whoever only dials has nothing to log. */
const QUIET: Logger = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
  child: () => QUIET,
};

const UNSEEN = { endpoints: [], service: undefined, samples: [], answerers: [] } as const;

const answerer = (ip: string, { nodeId, clusterId }: NodeDescription): Answerer => ({
  ip,
  nodeId,
  clusterId,
});
