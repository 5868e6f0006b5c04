/** Thousands of idle streams and connections of one client, under load. */
import { once } from 'node:events';
import { connect, type ClientHttp2Session } from 'node:http2';
import type { RpcError } from '@relevo/base/ports';
import type { Channel, MessageStream, Transport } from '@relevo/base/ports';
import type { Relevo } from '@relevo/client';
import { FetchService, consumeRequest } from '@relevo/rpc/gen/client/fetch';
import { MetadataService, watchMetadataRequest } from '@relevo/rpc/gen/client/metadata';
import { ProduceService } from '@relevo/rpc/gen/client/produce';
import type { TestCluster } from '../lib/cluster.ts';
import { pause, until } from '../lib/wait.ts';
import { Workload } from '../lib/workload.ts';
import { percentile, type Figures } from '../chaos/figures.ts';
import { ReadinessProbe, fencings, memoryOver, residentBytes } from './probe.ts';

const TOPIC = 'stress';
const PARTITIONS = 6;
const RATE_PER_SECOND = 200;

export interface IdleOptions {
  readonly streams: number;
  /** Idle connections beside those of the streams. */
  readonly connections: number;
  /** The streams share so many connections. */
  readonly streamConnections: number;
  /** How long all of it is held open. */
  readonly heldMs: number;
}

interface Held {
  readonly channels: readonly Channel[];
  readonly streams: readonly MessageStream<unknown>[];
  readonly sessions: readonly ClientHttp2Session[];
  readonly refused: number;
}

export async function idleClients(
  cluster: TestCluster,
  relevo: Relevo,
  transport: Transport,
  options: IdleOptions,
): Promise<Figures> {
  await relevo.admin.createTopic({ topic: TOPIC, partitions: PARTITIONS, replicationFactor: 3 });
  const workload = new Workload(relevo, {
    topic: TOPIC,
    partitions: PARTITIONS,
    ratePerSecond: RATE_PER_SECOND,
  });
  workload.start();
  await until('there are acknowledgements', () => workload.acks.length > RATE_PER_SECOND * 3);
  const before = await residentBytes(cluster);
  const probe = new ReadinessProbe(cluster);
  probe.start();
  const [target] = cluster.brokers;
  if (target === undefined) throw new Error('the cluster has a broker');
  const held = await open(target.address, transport, options);
  await pause(options.heldMs);
  for (const session of held.sessions) session.destroy();
  for (const channel of held.channels) channel.close();
  await probe.stop();
  const over = await memoryOver(cluster, before, 60_000);
  await workload.stop();
  const verdict = await workload.verify(relevo);
  return {
    idleStreamsOpen: held.streams.length - held.refused,
    idleStreamsRefused: held.refused,
    idleConnectionsOpen: held.sessions.length,
    idleReadyzMsP99: percentile(probe.answersMs, 0.99),
    idleReadyzMsMax: Math.max(...probe.answersMs),
    idleUnready: probe.refusals.length,
    idleFenced: fencings(cluster),
    idleMemoryOverMiB: over / 2 ** 20,
    idleAcked: verdict.acked,
    idleFailed: verdict.failed,
    idleLost: verdict.lost,
    idleDuplicated: verdict.duplicated,
  };
}

async function open(
  address: string,
  transport: Transport,
  { streams: count, connections, streamConnections }: IdleOptions,
): Promise<Held> {
  const channels = Array.from({ length: streamConnections }, () => transport.dial(address));
  let refused = 0;
  const onEnd = (error: RpcError | undefined): void => {
    if (error?.status === 'RESOURCE_EXHAUSTED') refused++;
  };
  const streams: MessageStream<unknown>[] = [];
  for (let index = 0; index < count; index++) {
    const channel = channels[index % channels.length];
    if (channel !== undefined) streams.push(openOne(channel, index, onEnd));
    if (index % 100 === 99) await pause(1);
  }
  const sessions: ClientHttp2Session[] = [];
  for (let index = 0; index < connections; index++) {
    const session = connect(`http://${address}`);
    session.on('error', () => undefined);
    sessions.push(session);
    if (index % 100 === 99) await Promise.all(sessions.slice(-100).map(connected));
  }
  return {
    channels,
    streams,
    sessions,
    get refused() {
      return refused;
    },
  };
}

const connected = async (session: ClientHttp2Session): Promise<void> => {
  if (session.connecting) await once(session, 'connect');
};

/** One of the streams that a client may hold open without saying anything, each kind in turn. */
function openOne(
  channel: Channel,
  index: number,
  onEnd: (error: RpcError | undefined) => void,
): MessageStream<unknown> {
  const events = { onMessage: () => undefined, onEnd };
  switch (index % 4) {
    case 0:
      return channel.open(FetchService.stream, events) as MessageStream<unknown>;
    case 1:
      return channel.open(ProduceService.stream, events) as MessageStream<unknown>;
    case 2:
      return channel.subscribe(MetadataService.watchMetadata, watchMetadataRequest(), events);
    default: {
      const from = { case: 'latest', value: true } as const;
      return channel.subscribe(
        FetchService.consume,
        consumeRequest({ topic: TOPIC, from }),
        events,
      );
    }
  }
}
