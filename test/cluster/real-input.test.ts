/**
 * Real logs, line by line through a three-broker cluster whose leaders are killed in the middle, by the
 * command line and by the SDK: the same bytes come out, in order, every line, once.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { Relevo } from '@relevo/client';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { TestCluster } from '../lib/cluster.ts';
import { realInput, type InputFile } from '../lib/real-input.ts';
import { until } from '../lib/wait.ts';
import { leaderTable, untilHandedBack } from '../lib/workload.ts';

const CLI = fileURLToPath(new URL('../../packages/cli/bin/launch.cjs', import.meta.url));
const PARTITIONS = 6;
const KILLS = 3;

let cluster: TestCluster;
let relevo: Relevo;
const files = realInput();

beforeAll(async () => {
  cluster = await TestCluster.start();
  relevo = await Relevo.connect({ brokers: cluster.bootstrap });
}, 60_000);

afterAll(async () => {
  await relevo.close();
  await cluster.destroy();
});

/** Kills the leader of partition `round` of the topic, and starts it again at once. */
async function killALeader(topic: string, round: number): Promise<void> {
  const { leaders } = await leaderTable(relevo, topic);
  const victim = cluster.broker(leaders[round % PARTITIONS] ?? -1);
  await victim.kill();
  victim.start();
}

/** Feeds the lines of all files in four parts, with a kill after each of the first three. */
async function inParts(
  topics: readonly {
    topic: string;
    file: InputFile;
    feed: (part: readonly Buffer[]) => Promise<void>;
  }[],
): Promise<void> {
  const first = topics[0]?.topic ?? '';
  for (let part = 0; part <= KILLS; part++) {
    const feeding = topics.map(({ file, feed }) => {
      const size = Math.ceil(file.lines.length / (KILLS + 1));
      return feed(file.lines.slice(part * size, (part + 1) * size));
    });
    // The kill comes while this part is under way.
    if (part < KILLS) await killALeader(first, part);
    await Promise.all(feeding);
    await untilHandedBack(relevo, 60_000);
  }
}

async function readBack(topic: string, count: number): Promise<Buffer[][]> {
  const partitions: Buffer[][] = Array.from({ length: PARTITIONS }, () => []);
  const ends = await relevo.admin.listOffsets({ topic, at: 'latest' });
  expect(ends.reduce((sum, { offset }) => sum + offset, 0)).toBe(count);
  let read = 0;
  for await (const record of relevo.consumer({ topics: [topic], from: 'earliest' })) {
    partitions[record.partition]?.push(Buffer.from(record.value ?? new Uint8Array()));
    if (++read === count) break;
  }
  return partitions;
}

test('the SDK: every line is at the place its receipt told, once, through three kills', async () => {
  const producer = relevo.producer();
  const topics = await Promise.all(
    files.map(async (file) => {
      const topic = `sdk-${file.name}`;
      await relevo.admin.createTopic({ topic, partitions: PARTITIONS, replicationFactor: 3 });
      const expected: (Buffer | undefined)[][] = Array.from({ length: PARTITIONS }, () => []);
      const order: number[] = Array.from({ length: PARTITIONS }, () => -1);
      const feed = async (lines: readonly Buffer[]): Promise<void> => {
        await Promise.all(
          lines.map(async (line) => {
            const receipt = await producer.send({ topic, value: line });
            const places = expected[receipt.partition] ?? [];
            expect(places[receipt.offset], `offset ${receipt.offset} given twice`).toBeUndefined();
            places[receipt.offset] = line;
            order[receipt.partition] = Math.max(order[receipt.partition] ?? -1, receipt.offset);
          }),
        );
      };
      return { topic, file, feed, expected };
    }),
  );
  await inParts(topics);
  await producer.close();
  for (const { topic, file, expected } of topics) {
    const partitions = await readBack(topic, file.lines.length);
    expect(partitions.map((lines) => lines.length)).toEqual(expected.map((lines) => lines.length));
    partitions.forEach((lines, p) =>
      lines.forEach((line, o) => {
        if (!line.equals(expected[p]?.[o] ?? Buffer.alloc(0))) {
          expect.fail(
            `${topic}-${p} offset ${o}: "${line.toString()}" instead of "${String(expected[p]?.[o])}"`,
          );
        }
      }),
    );
  }
}, 240_000);

test('the command line: every line once, in the order of the file, through three kills', async () => {
  const topics = await Promise.all(
    files.map(async (file) => {
      const topic = `cli-${file.name}`;
      await relevo.admin.createTopic({ topic, partitions: PARTITIONS, replicationFactor: 3 });
      const child = spawn(
        process.execPath,
        [CLI, 'produce', topic, '--bootstrap', cluster.bootstrap.join(',')],
        { stdio: ['pipe', 'pipe', 'pipe'] },
      );
      let output = '';
      child.stderr.on('data', (chunk: Buffer) => (output += chunk.toString()));
      child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()));
      const ended = once(child, 'exit').then(([code]: unknown[]) => code);
      const endsWithNewline = file.bytes.at(-1) === 0x0a;
      let fed = 0;
      const feed = async (lines: readonly Buffer[]): Promise<void> => {
        for (const line of lines) {
          fed++;
          const last = fed === file.lines.length && !endsWithNewline;
          const bytes = last ? line : Buffer.concat([line, Buffer.from('\n')]);
          if (!child.stdin.write(bytes)) await once(child.stdin, 'drain');
        }
        const goal = fed;
        await until(
          `${fed} lines of ${topic} in the log`,
          async () => {
            const ends = await relevo.admin.listOffsets({ topic, at: 'latest' });
            // A line without its newline is held back until the input ends.
            const waiting = goal === file.lines.length && !endsWithNewline ? 1 : 0;
            return ends.reduce((sum, { offset }) => sum + offset, 0) >= goal - waiting;
          },
          { deadlineMs: 60_000, everyMs: 100, state: () => output.slice(-500) },
        );
      };
      return { topic, file, feed, child, ended, output: () => output };
    }),
  );
  await inParts(topics);
  for (const { topic, file, child, ended, output } of topics) {
    child.stdin.end();
    expect(await ended, output()).toBe(0);
    const partitions = await readBack(topic, file.lines.length);
    const inFile = new Map<string, number>();
    for (const line of file.lines) count(inFile, line, 1);
    for (const lines of partitions) {
      for (const line of lines) count(inFile, line, -1);
      expect(isSubsequence(lines, file.lines), `${topic}: order within a partition`).toBe(true);
    }
    expect([...inFile].filter(([, left]) => left !== 0)).toEqual([]);
  }
}, 240_000);

function count(lines: Map<string, number>, line: Buffer, by: number): void {
  const key = line.toString('latin1');
  lines.set(key, (lines.get(key) ?? 0) + by);
}

function isSubsequence(some: readonly Buffer[], all: readonly Buffer[]): boolean {
  let at = 0;
  for (const line of some) {
    while (at < all.length && !all[at]?.equals(line)) at++;
    if (at++ >= all.length) return false;
  }
  return true;
}
