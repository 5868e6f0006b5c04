/**
 * How long encoding and decoding take, beside protobufjs' own reflected codecs:
 *
 *     node --import tsx --conditions=@relevo/source packages/rpc/test/codec-speed.ts
 */
import { produceRequest, ProduceRequestCodec } from '@relevo/rpc/gen/client/produce';
import { brokerHeartbeat, BrokerHeartbeatCodec } from '@relevo/rpc/gen/cluster/controller';
import {
  followerMessage,
  FollowerMessageCodec,
  followerPosition,
} from '@relevo/rpc/gen/cluster/replication';
import type { Codec } from '@relevo/base/ports';
import { loadRoot } from '../proto-files.ts';

const SECONDS = 0.4;
const root = loadRoot();

function nsPerRun(run: () => unknown): number {
  for (let i = 0; i < 2000; i++) run();
  let runs = 0;
  const start = process.hrtime.bigint();
  const end = start + BigInt(SECONDS * 1e9);
  let now = start;
  while (now < end) {
    for (let i = 0; i < 100; i++) run();
    runs += 100;
    now = process.hrtime.bigint();
  }
  return Math.round(Number(now - start) / runs);
}

function compare<T extends object>(what: string, name: string, codec: Codec<T>, message: T): void {
  const type = root.lookupType(name);
  const bytes = codec.encode(message);
  console.log(what, {
    bytes: bytes.length,
    encodeNs: nsPerRun(() => codec.encode(message)),
    encodeProtobufjsNs: nsPerRun(() => type.encode(message).finish()),
    decodeNs: nsPerRun(() => codec.decode(bytes)),
    decodeProtobufjsNs: nsPerRun(() => type.decode(bytes)),
  });
}

const topicId = 'AAAAAAAAAAAAAAAAAAAAAA';
const produce = (length: number): ReturnType<typeof produceRequest> =>
  produceRequest({
    correlationId: 12345,
    topicId,
    partition: 3,
    leaderEpoch: 4,
    acks: -1,
    timeoutMs: 30_000,
    batch: new Uint8Array(length),
  });
const produceName = 'relevo.client.v1.ProduceRequest';
compare('produce 100 B', produceName, ProduceRequestCodec, produce(100));
compare('produce 64 KiB', produceName, ProduceRequestCodec, produce(65_536));
compare('produce 1 MiB', produceName, ProduceRequestCodec, produce(1 << 20));
compare(
  'heartbeat',
  'relevo.cluster.v1.BrokerHeartbeat',
  BrokerHeartbeatCodec,
  brokerHeartbeat({ brokerId: 1, brokerEpoch: 77, metadataIndex: 123_456, diskSyncMs: 1 }),
);
compare(
  '10 positions',
  'relevo.cluster.v1.FollowerMessage',
  FollowerMessageCodec,
  followerMessage({
    positions: Array.from({ length: 10 }, (_, handle) =>
      followerPosition({ handle, leaderEpoch: 5, syncedEndOffset: 1_000_000 + handle }),
    ),
    creditBytes: 65_536,
  }),
);
