/** Thousands of idle streams and connections of one client, under load. */
import { once } from 'node:events';
import { connect, type ClientHttp2Session } from 'node:http2';
import type { RpcError } from '@relevo/base/ports';
import type { Channel, MessageStream, Transport } from '@relevo/base/ports';
import type { Relevo } from '@relevo/client';
import { FetchService, consumeRequest, type ConsumedRecords } from '@relevo/rpc/gen/client/fetch';
import { MetadataService, watchMetadataRequest } from '@relevo/rpc/gen/client/metadata';
import { ProduceService } from '@relevo/rpc/gen/client/produce';
import type { BrokerProcess, TestCluster } from '../lib/cluster.ts';
import { pause, until } from '../lib/wait.ts';
import { Workload } from '../lib/workload.ts';
import { percentile, type Figures } from '../chaos/figures.ts';
import { ReadinessProbe, fencings, memoryOver, residentBytes } from './probe.ts';

const TOPIC = 'stress';
/** Nothing is written to it: those that follow it are idle. */
const IDLE_TOPIC = 'stress-idle';
const PARTITIONS = 6;
const RATE_PER_SECOND = 200;

export interface FollowersOptions {
  /** `Consume` calls that follow the topic which is written to. */
  readonly followers: number;
  /** They share so many connections. */
  readonly connections: number;
  /** How long all of them are held open. */
  readonly heldMs: number;
}

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
  const { workload, probe, before } = await underWatch(cluster, relevo);
  await relevo.admin.createTopic({ topic: IDLE_TOPIC, partitions: PARTITIONS });
  const held = await open(firstOf(cluster).address, transport, options);
  await pause(options.heldMs);
  for (const session of held.sessions) session.destroy();
  for (const channel of held.channels) channel.close();
  return {
    idleStreamsOpen: held.streams.length - held.refused,
    idleStreamsRefused: held.refused,
    idleConnectionsOpen: held.sessions.length,
    ...(await verdictOn('idle', cluster, relevo, { workload, probe, before })),
  };
}

/** Hundreds that follow one topic take from a broker what is left of it, and no more. */
export async function followers(
  cluster: TestCluster,
  relevo: Relevo,
  transport: Transport,
  { followers: count, connections, heldMs }: FollowersOptions,
): Promise<Figures> {
  const { workload, probe, before } = await underWatch(cluster, relevo);
  const { address } = firstOf(cluster);
  const channels = Array.from({ length: connections }, () => transport.dial(address));
  let records = 0;
  let ended = 0;
  let isOver = false;
  const events = {
    onMessage: (message: ConsumedRecords) => void (records += message.records.length),
    onEnd: () => void (ended += isOver ? 0 : 1),
  };
  const from = { case: 'latest', value: true } as const;
  for (let index = 0; index < count; index++) {
    const request = consumeRequest({ topic: TOPIC, from });
    channels[index % connections]?.subscribe(FetchService.consume, request, events);
    if (index % 100 === 99) await pause(1);
  }
  await pause(heldMs);
  isOver = true;
  for (const channel of channels) channel.close();
  return {
    followersOpen: count,
    followersEnded: ended,
    followersRecords: records,
    ...(await verdictOn('followers', cluster, relevo, { workload, probe, before })),
  };
}

interface Watch {
  readonly workload: Workload;
  readonly probe: ReadinessProbe;
  readonly before: readonly number[];
}

/** A load whose records are told apart, and what the cluster was like before the stress. */
async function underWatch(cluster: TestCluster, relevo: Relevo): Promise<Watch> {
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
  return { workload, probe, before };
}

async function verdictOn(
  prefix: string,
  cluster: TestCluster,
  relevo: Relevo,
  { workload, probe, before }: Watch,
): Promise<Figures> {
  await probe.stop();
  const over = await memoryOver(cluster, before, 60_000);
  await workload.stop();
  const verdict = await workload.verify(relevo);
  const figures: Figures = {
    ReadyzMsP99: percentile(probe.answersMs, 0.99),
    ReadyzMsMax: Math.max(...probe.answersMs),
    Unready: probe.refusals.length,
    Fenced: fencings(cluster),
    MemoryOverMiB: over / 2 ** 20,
    Acked: verdict.acked,
    Failed: verdict.failed,
    Lost: verdict.lost,
    Duplicated: verdict.duplicated,
  };
  return Object.fromEntries(
    Object.entries(figures).map(([name, value]) => [`${prefix}${name}`, value]),
  );
}

function firstOf({ brokers: [first] }: TestCluster): BrokerProcess {
  if (first === undefined) throw new Error('the cluster has a broker');
  return first;
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
        consumeRequest({ topic: IDLE_TOPIC, from }),
        events,
      );
    }
  }
}
