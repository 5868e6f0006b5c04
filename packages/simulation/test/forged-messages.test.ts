/** An outsider calls the cluster's own services: nothing that it says changes anything, or ends a broker. */
import { expect, test } from 'vitest';
import { utf8Encode } from '@relevo/base/bytes';
import { RpcError } from '@relevo/base/ports';
import type { Channel, Ports, StreamEvents, Transport } from '@relevo/base/ports';
import type { Relevo } from '@relevo/client/relevo';
import { ControllerService, registerBrokerRequest } from '@relevo/rpc/gen/cluster/controller';
import { RaftService } from '@relevo/rpc/gen/cluster/raft';
import type { RaftMessage, RaftMessageBody } from '@relevo/rpc/gen/cluster/raft';
import type { RegisterBrokerRequest } from '@relevo/rpc/gen/cluster/controller';
import { ReplicationService, followerMessage } from '@relevo/rpc/gen/cluster/replication';
import { memberPath, rawMethod } from '@relevo/server/security/member-routes';
import { Members } from '@relevo/server/security/members';
import { CLUSTER_SECRET, SimulatedCluster } from '@relevo/simulation/simulated-cluster';
import type { ClusterOptions } from '@relevo/simulation/simulated-cluster';
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
  options: ClusterOptions = { secrets: () => [CLUSTER_SECRET] },
): Promise<void> {
  const world = new World({ seed: 1, limitMs: LIMIT_MS });
  const cluster = new SimulatedCluster(world, options);
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

/** Nothing stands between the outsider and the services but what they check themselves. */
const OPEN: ClusterOptions = { secrets: () => [] };

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
  }, OPEN);
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
  }, OPEN);
});

test('a listener for clients serves none of the services of the cluster', async () => {
  const settings = (id: number): Record<string, string> => ({
    'listener.grpc': `inside://broker-${id}:9093,outside://broker-${id}:19093`,
  });
  await staged(
    async (stage) => {
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
    },
    { settings },
  );
});

// ------------------------------------------------------------------------------------- who proves it

/** The outsider, as if it were node `nodeId`, with a secret. */
function pretender({ outsider }: Stage, nodeId: number, secret: string): Transport {
  const options = { nodeId, clusterId: 'simulated', secrets: [utf8Encode(secret)], required: true };
  return new Members({ ...outsider, others: () => new Map() }, options).transport;
}

const registration = (brokerId: number): RegisterBrokerRequest =>
  registerBrokerRequest({
    clusterId: 'simulated',
    brokerId,
    incarnationId: DISK,
    directoryId: DISK,
    clientAddress: 'outsider:1',
    peerAddress: 'outsider:1',
  });

const register = (channel: Channel, brokerId: number): Promise<unknown> =>
  channel.call(ControllerService.registerBroker, registration(brokerId), { deadlineMs: 1_000 });

test('who proves nothing, or with another secret, is heard by nobody', async () => {
  await staged(async (stage) => {
    const { controllerId } = await stage.client.admin.describeCluster();
    const address = `broker-${controllerId}:9093`;
    const plain = stage.outsider.transport.dial(address);
    await expect(register(plain, 77)).rejects.toMatchObject({
      code: 'CLUSTER_AUTHORIZATION_FAILED',
    });
    expect(await toQuorum(plain, forged(vote(1), { to: controllerId }))).toMatch(/prove that they/);
    const wrong = pretender(stage, 2, 'not the secret, though as long as it').dial(address);
    await expect(register(wrong, 2)).rejects.toThrow(/has not proved that it holds/);
    expect(await toQuorum(wrong, forged(vote(1)))).toMatch(/has not proved that it holds/);
    await stillWell(stage);
  });
});

test('a node speaks for nobody else', async () => {
  await staged(async (stage) => {
    const { controllerId } = await stage.client.admin.describeCluster();
    const own = (controllerId + 1) % 3;
    const other = (controllerId + 2) % 3;
    const channel = pretender(stage, own, CLUSTER_SECRET).dial(`broker-${controllerId}:9093`);
    for (const claimed of [other, 77]) {
      await expect(register(channel, claimed)).rejects.toThrow(
        `is node ${own} and speaks for node ${claimed}`,
      );
      const message = forged(vote(1), { from: claimed, to: controllerId });
      expect(await toQuorum(channel, message)).toMatch(`speaks for node ${claimed}`);
    }
    const hello = {
      clusterId: 'simulated',
      brokerId: other,
      brokerEpoch: 99,
      leaderId: controllerId,
    };
    const ended = new Promise((_, reject) => {
      const events = { onMessage: () => undefined, onEnd: reject };
      channel.open(ReplicationService.replicate, events).send(followerMessage({ hello }));
    });
    await expect(ended).rejects.toThrow(`speaks for node ${other}`);
    await stillWell(stage);
  });
});

test('what was overheard is worth nothing', async () => {
  await staged(async (stage) => {
    const { controllerId } = await stage.client.admin.describeCluster();
    const address = `broker-${controllerId}:9093`;
    const overheard: Uint8Array[] = [];
    const listening: Transport = {
      ...stage.outsider.transport,
      dial: (to) => eavesdropped(stage.outsider.transport.dial(to), overheard),
    };
    const insider = pretender(
      { ...stage, outsider: { ...stage.outsider, transport: listening } },
      2,
      CLUSTER_SECRET,
    );
    await expect(register(insider.dial(address), 77)).rejects.toThrow('speaks for node 77');
    expect(overheard.length).toBe(3);
    const path = memberPath(ControllerService.registerBroker.path);
    const ended = new Promise((_, reject) => {
      const stream = stage.outsider.transport
        .dial(address)
        .open(rawMethod(path, 'bidi'), { onMessage: () => undefined, onEnd: reject });
      for (const bytes of overheard) stream.send(bytes);
    });
    await expect(ended).rejects.toThrow('the proof is wrong');
  });
});

/** Keeps what is sent on streams. */
const eavesdropped = (channel: Channel, sent: Uint8Array[]): Channel => ({
  address: channel.address,
  call: (method, request, options) => channel.call(method, request, options),
  subscribe: (method, request, events) => channel.subscribe(method, request, events),
  open: (method, events) => {
    const stream = channel.open(method, events);
    return {
      send: (message) => {
        sent.push(method.request.encode(message));
        return stream.send(message);
      },
      queuedBytes: () => stream.queuedBytes(),
      end: () => stream.end(),
      cancel: (error) => stream.cancel(error),
      pause: () => stream.pause(),
      resume: () => stream.resume(),
    };
  },
  close: () => channel.close(),
});

test('a cluster gets its secret in one rolling restart, and another one in three', async () => {
  const held = new Map<number, readonly string[]>();
  const one = 'the first secret, which nobody can guess';
  const two = 'the second secret, which is not the first';
  await staged(
    async (stage) => {
      const { world, cluster, client } = stage;
      const roll = async (secrets: readonly string[]): Promise<void> => {
        for (const id of cluster.ids) {
          held.set(id, secrets);
          await cluster.stop(id);
          cluster.boot(id);
          await client.producer().send({ topic: 'orders', value: 'meanwhile' });
          await world.until(
            `broker ${id} serves again`,
            () => cluster.node(id)?.unready() === undefined,
            60_000,
          );
        }
      };
      const isRefused = async (): Promise<boolean> => {
        const { controllerId } = await client.admin.describeCluster();
        const plain = stage.channel(controllerId);
        const error = await register(plain, -1).catch((thrown: unknown) => thrown);
        return error instanceof RpcError && error.code === 'CLUSTER_AUTHORIZATION_FAILED';
      };
      await roll([one]);
      await world.sleep(5_000);
      expect(await isRefused()).toBe(true);
      await roll([one, two]);
      await roll([two, one]);
      await roll([two]);
      await world.sleep(5_000);
      expect(await isRefused()).toBe(true);
    },
    {
      secrets: (id) => held.get(id) ?? [],
      settings: () => ({ 'cluster.auth.required': 'auto' }),
    },
  );
});
