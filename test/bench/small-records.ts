/**
 * `small-records.ts HOST:PORT SECONDS`: one process; first how many 100-byte keyed records per second it
 * encodes into batches that go nowhere, then how many one SDK producer gets acknowledged. Prints JSON.
 */
import { performance } from 'node:perf_hooks';
import { Relevo } from '@relevo/client';
import { BatchBuilder, NO_HEADERS } from '@relevo/record/batch-builder';
import { murmur2OfAscii } from '@relevo/record/murmur2';
import { crc32c } from '@relevo/runtime/crc32c';

const [address = '', secondsText = '3'] = process.argv.slice(2);
const seconds = Number(secondsText);
const PARTITIONS = 6;
const BATCH_BYTES = 64 * 1024;
const KEYS = Array.from({ length: 10_000 }, (_, index) => `key-${index}`);
/** With its key a record has about 100 bytes of data. */
const VALUE = 'v'.repeat(92);
const STRIDE = 1000;

function encodeIntoNowhere(): number {
  const builders = Array.from({ length: PARTITIONS }, () => new BatchBuilder(BATCH_BYTES));
  let records = 0;
  let bytes = 0;
  const startMs = performance.now();
  for (;;) {
    for (let i = 0; i < STRIDE; i++, records++) {
      const key = KEYS[records % KEYS.length] ?? '';
      const partition = ((murmur2OfAscii(key) ?? 0) & 0x7fffffff) % PARTITIONS;
      const builder = builders[partition];
      if (builder === undefined) throw new Error('no builder');
      if (!builder.tryAppend(key, VALUE, NO_HEADERS, Date.now(), BATCH_BYTES)) {
        bytes += builder.build({}, crc32c).length;
        builder.append(key, VALUE, NO_HEADERS, Date.now());
      }
    }
    const elapsedMs = performance.now() - startMs;
    if (elapsedMs > seconds * 1000 && bytes > 0) return (records / elapsedMs) * 1000;
  }
}

async function produce(relevo: Relevo, topic: string): Promise<number> {
  let acked = 0;
  let failure: Error | undefined;
  const producer = relevo.producer({
    onDelivery: (delivery) => {
      if (delivery.error !== undefined) failure ??= delivery.error;
      else acked += delivery.recordCount;
    },
  });
  const startMs = performance.now();
  for (let records = 0; performance.now() - startMs < seconds * 1000;) {
    for (let i = 0; i < STRIDE; i++, records++) {
      const key = KEYS[records % KEYS.length] ?? '';
      if (!producer.enqueue({ topic, key, value: VALUE })) await producer.drained();
    }
  }
  await producer.close();
  if (failure !== undefined) throw failure;
  return (acked / (performance.now() - startMs)) * 1000;
}

const relevo = await Relevo.connect({ brokers: address.split(',') });
const topic = 'small';
await relevo.admin.createTopic({ topic, partitions: PARTITIONS, replicationFactor: 1 });
await produce(relevo, topic);
encodeIntoNowhere();
const encodePerS = encodeIntoNowhere();
const producePerS = await produce(relevo, topic);
await relevo.close();
console.log(
  JSON.stringify({
    smallRecordsEncodePerS: encodePerS,
    smallRecordsProducePerS: producePerS,
    smallRecordsRatio: producePerS / encodePerS,
  }),
);
process.exit(0);
