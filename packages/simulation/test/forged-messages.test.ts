/** An outsider calls the cluster's own services: nothing that it says changes anything, or ends a broker. */
import { expect, test } from 'vitest';
import type { Channel, Ports, StreamEvents } from '@relevo/base/ports';
import type { Relevo } from '@relevo/client/relevo';
import { ControllerService, registerBrokerRequest } from '@relevo/rpc/gen/cluster/controller';
import { RaftService } from '@relevo/rpc/gen/cluster/raft';
import type { RaftMessage, RaftMessageBody } from '@relevo/rpc/gen/cluster/raft';
import { ReplicationService } from '@relevo/rpc/gen/cluster/replication';
import { SimulatedCluster } from '@relevo/simulation/simulated-cluster';
import { connectClient } from '@relevo/simulation/workload';
import { World } from '@relevo/simulation/world';

const DISK = 'AAAAAAAAAAAAAAAAAAAAAA';
const TERM_MAX = 2 ** 31 - 1;
const LIMIT_MS = 300_000;

interface Stage {
  readonly world: World;
  readonly cluster: SimulatedCluster;
  readonly client: Relevo;
  readonly outsider: Ports;
  readonly channel: (id: number, port?: number) => Channel;
}

/** Three brokers, a topic with a record, and somebody who should have no say. */
async function staged(
  act: (stage: Stage) => Promise<void>,
  settings: (id: number) => Readonly<Record<string, string>> = () => ({}),
): Promise<void> {
  const world = new World({ seed: 1, limitMs: LIMIT_MS });
  const cluster = new SimulatedCluster(world, { settings });
  await world.run(async () => {
    cluster.bootAll();
    const client = await connectClient(world, 'client', cluster.addresses);
    for (;;) {
      const { brokers } = await client.admin.describeCluster();
      if (brokers.length === 3 && brokers.every(({ fenced }) => !fenced)) break;
      await world.sleep(20);
    }
    await client.admin.createTopic({ topic: 'orders', partitions: 3, replicationFactor: 3 });
    await client.producer().send({ topic: 'orders', value: 'paid' });
    const outsider = await new Promise<Ports>((booted) => world.process('outsider').boot(booted));
    const channel = (id: number, port = 9093): Channel =>
      outsider.transport.dial(`broker-${id}:${port}`);
    await act({ world, cluster, client, outsider, channel });
    await client.close();
    for (const id of cluster.ids) await cluster.stop(id);
  });
}

/** What they hold outlives a restart of all, and they go on. */
async function stillWell({ world, cluster, client }: Stage): Promise<void> {
  for (const id of cluster.ids) {
    await cluster.process(id).kill({ unsynced: 'keep' });
    cluster.boot(id);
  }
  await client.producer().send({ topic: 'orders', value: 'shipped' });
  await world.until(
    'all serve',
    () => cluster.ids.every((id) => cluster.node(id)?.unready() === undefined),
    60_000,
  );
  expect((await client.admin.listTopics()).map(({ topic }) => topic)).toEqual(['orders']);
  const { brokers } = await client.admin.describeCluster();
  expect(new Set(brokers.map(({ id }) => id))).toEqual(new Set([0, 1, 2]));
}

/** Sends it on a stream of its own; gives the answer, or why the stream ended. */
const toQuorum = (channel: Channel, message: RaftMessage): Promise<string> =>
  new Promise((resolve) => {
    const stream = channel.open(RaftService.peer, {
      onMessage: ({ refusal }) => resolve(refusal),
      onEnd: (error) => resolve(error?.message ?? 'ended'),
    });
    stream.send(message);
  });

const forged = (
  body: RaftMessageBody,
  envelope: Partial<Omit<RaftMessage, 'body'>> = {},
): RaftMessage => ({
  clusterId: 'simulated',
  from: 2,
  fromDirectoryId: DISK,
  to: 0,
  toDirectoryId: '',
  term: 3,
  ...envelope,
  body,
});

const vote = (lastTerm: number): RaftMessageBody => ({
  case: 'voteRequest',
  value: { preVote: false, lastIndex: 10 ** 9, lastTerm, forced: true, nextTerm: 0 },
});
const append = (
  entries: readonly { index: number; term: number; kind: number; data: Uint8Array }[],
): RaftMessageBody => ({
  case: 'appendRequest',
  value: { previousIndex: 0, previousTerm: 0, commitIndex: 10 ** 9, entries },
});
const HUGE: RaftMessageBody = {
  case: 'snapshotRequest',
  value: {
    lastIndex: 9,
    lastTerm: 1,
    membership: new Uint8Array(0),
    data: new Uint8Array(1),
    offset: 0,
    totalBytes: 2 ** 30,
  },
};
const NO_RECORD = Uint8Array.of(255, 255, 255);

test.each([
  ['an unknown voter, whatever its term', forged(vote(1), { from: 77, term: TERM_MAX })],
  ['the last term there is', forged(vote(TERM_MAX - 1), { term: TERM_MAX })],
  ['a term that no election can have led to', forged(vote(9), { term: TERM_MAX - 9 })],
  ['an entry that is no record', forged(append([{ index: 1, term: 3, kind: 0, data: NO_RECORD }]))],
  ['members that are none', forged(append([{ index: 1, term: 3, kind: 1, data: NO_RECORD }]))],
  ['entries with a gap', forged(append([{ index: 5, term: 3, kind: 2, data: new Uint8Array(0) }]))],
  ['an entry of a term to come', forged(append([{ index: 1, term: 9, kind: 2, data: NO_RECORD }]))],
  ['a snapshot of a byte that claims a gibibyte', forged(HUGE)],
])('%s is refused, and every broker starts again', async (_what, message) => {
  await staged(async (stage) => {
    for (const id of stage.cluster.ids) {
      const from = message.from === id ? (id + 1) % 3 : message.from;
      expect(await toQuorum(stage.channel(id), { ...message, from, to: id })).toMatch(
        /no member|cannot be|is not|does not/,
      );
    }
    await stillWell(stage);
  });
});

test('a broker that cannot be is not registered', async () => {
  await staged(async (stage) => {
    const { controllerId } = await stage.client.admin.describeCluster();
    const channel = stage.channel(controllerId);
    const broker = {
      clusterId: 'simulated',
      incarnationId: DISK,
      directoryId: DISK,
      clientAddress: 'outsider:1',
      peerAddress: 'outsider:1',
    };
    for (const [claim, says] of [
      [{ brokerId: -1 }, 'no broker is -1'],
      [{ brokerId: 77, peerAddress: 'nowhere' }, 'not host:port'],
      [{ brokerId: 77, rack: 'r'.repeat(1_000_000) }, '1000000 characters'],
      [{ brokerId: 77, rack: 'a\u001b[2J' }, 'control character'],
    ] as const) {
      const request = registerBrokerRequest({ ...broker, ...claim });
      const answer = channel.call(ControllerService.registerBroker, request, { deadlineMs: 1_000 });
      await expect(answer).rejects.toThrow(says);
    }
    await stillWell(stage);
  });
});

test('a listener for clients serves none of the services of the cluster', async () => {
  const settings = (id: number): Record<string, string> => ({
    'listener.grpc': `inside://broker-${id}:9093,outside://broker-${id}:19093`,
  });
  await staged(async (stage) => {
    const outside = stage.channel(0, 19093);
    const says = /for the nodes of the cluster; the listener "outside" serves clients alone/;
    expect(await toQuorum(outside, forged(vote(1)))).toMatch(says);
    const events = (reject: (error: unknown) => void): StreamEvents<unknown> => ({
      onMessage: () => undefined,
      onEnd: reject,
    });
    for (const open of [
      (end: (error: unknown) => void) => outside.open(ControllerService.session, events(end)),
      (end: (error: unknown) => void) => outside.open(ReplicationService.replicate, events(end)),
    ]) {
      await expect(new Promise((_, reject) => open(reject))).rejects.toMatchObject({
        status: 'PERMISSION_DENIED',
        code: 'CLUSTER_AUTHORIZATION_FAILED',
      });
    }
    const request = registerBrokerRequest({ clusterId: 'simulated', brokerId: 77 });
    const answer = outside.call(ControllerService.registerBroker, request, { deadlineMs: 1_000 });
    await expect(answer).rejects.toThrow(says);
  }, settings);
});
