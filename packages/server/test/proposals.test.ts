import { RelevoError } from '@relevo/base/errors';
import { brokerId, logIndex, term } from '@relevo/base/ids';
import type { LogIndex, Uuid } from '@relevo/base/ids';
import { decide } from '@relevo/controller/decide';
import { EMPTY_IMAGE } from '@relevo/controller/image';
import type { ClusterImage } from '@relevo/controller/image';
import { imageHash } from '@relevo/controller/image-hash';
import { violationsOf } from '@relevo/controller/invariants';
import { replay } from '@relevo/controller/replay';
import { TOPIC_DEFAULTS } from '@relevo/controller/topic-config';
import { ENTRY_BYTES_MAX, Proposals } from '@relevo/server/controller/proposals';
import { decodeRecords } from '@relevo/server/metadata/record-codec';
import { describe, expect, test } from 'vitest';

const DEFAULTS = { partitions: 1, replicationFactor: 3, topic: TOPIC_DEFAULTS };

interface Proposed {
  readonly data: Uint8Array;
  readonly resolve: (index: LogIndex) => void;
  readonly reject: (error: Error) => void;
}

/** A quorum in the hand of the test. */
class Bench {
  committed: ClusterImage = EMPTY_IMAGE;
  readonly underWay: Proposed[] = [];
  /** Confirmations that were asked for and are not answered. */
  readonly confirming: { readonly resolve: () => void; readonly reject: (e: Error) => void }[] = [];
  readonly #soon: (() => void)[] = [];
  lost: string | undefined;
  readonly proposals: Proposals;

  constructor() {
    this.proposals = new Proposals({
      timers: {
        after: () => {
          throw new Error('no timer is needed');
        },
        soon: (run) => this.#soon.push(run),
      },
      defaults: DEFAULTS,
      propose: (data) =>
        new Promise((resolve, reject) => this.underWay.push({ data, resolve, reject })),
      confirm: () =>
        new Promise<void>((resolve, reject) => this.confirming.push({ resolve, reject })),
      committed: () => this.committed,
      lost: (reason) => (this.lost = reason),
    });
    this.proposals.begin(EMPTY_IMAGE);
  }

  /** One turn of the loop. */
  async turn(): Promise<void> {
    for (let round = 0; round < 2; round++) {
      for (const run of this.#soon.splice(0)) run();
      for (let i = 0; i < 10; i++) await Promise.resolve();
    }
  }

  /** Commits what was proposed first; returns how many records it held. */
  async commit(): Promise<number> {
    const next = this.underWay.shift();
    if (next === undefined) throw new Error('nothing was proposed');
    const records = decodeRecords(next.data);
    const index = logIndex(this.committed.index + 1);
    this.committed = replay(this.committed, records, { index, term: term(1) }).image;
    expect(violationsOf(this.committed)).toEqual([]);
    next.resolve(index);
    await this.turn();
    return records.length;
  }

  async settle(): Promise<void> {
    await this.turn();
    while (this.underWay.length > 0) await this.commit();
  }

  /** A majority answers everything that waits for its word. */
  async confirm(): Promise<number> {
    const asked = this.confirming.splice(0);
    for (const { resolve } of asked) resolve();
    await this.turn();
    return asked.length;
  }

  start(): Promise<unknown> {
    return this.proposals.execute({ kind: 'activate', clusterId: 'test' });
  }

  register(id: number): Promise<{ brokerEpoch: number }> {
    return this.proposals.execute({
      kind: 'registerBroker',
      clusterId: 'test',
      brokerId: brokerId(id),
      incarnationId: `${id}`,
      incarnations: [],
      directoryId: `${id}`,
      clientAddress: `${id}:1`,
      peerAddress: `${id}:1`,
      listeners: [],
      rack: '',
      predecessorGone: false,
      nothingLost: true,
    });
  }

  async serve(...brokers: number[]): Promise<void> {
    const all = brokers.map(async (id) => {
      const { brokerEpoch } = await this.register(id);
      const named = { brokerId: brokerId(id), brokerEpoch: brokerEpoch as never };
      await this.proposals.execute({ kind: 'unfenceBroker', ...named });
    });
    await this.settle();
    await this.settle();
    await Promise.all(all);
  }

  create(name: string, partitions = 1): Promise<unknown> {
    return this.proposals.execute({
      kind: 'createTopic',
      topicId: name.padEnd(22, 'A') as Uuid,
      name,
      partitions,
      replicationFactor: -1,
      config: new Map(),
      assignment: [],
      validateOnly: false,
      seed: 1,
    });
  }
}

const outcome = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => 'done',
    (error: unknown) => (error instanceof RelevoError ? error.code : String(error)),
  );

describe('proposals', () => {
  test('what is decided in one turn goes into one entry; what comes meanwhile into the next', async () => {
    const bench = new Bench();
    void bench.start();
    await bench.settle();
    const epochs = [bench.register(1), bench.register(2)];
    await bench.turn();
    epochs.push(bench.register(3));
    await bench.turn();
    epochs.push(bench.register(4), bench.register(5));
    await bench.turn();
    expect(bench.underWay.length).toBe(2);
    expect(await bench.commit()).toBe(2);
    expect(bench.underWay.length).toBe(2);
    expect(await bench.commit()).toBe(1);
    expect(await bench.commit()).toBe(2);
    expect((await Promise.all(epochs)).map(({ brokerEpoch }) => brokerEpoch)).toEqual([
      1, 2, 3, 4, 5,
    ]);
    expect(bench.proposals.speculative()).toBe(bench.committed);
  });

  test('a refusal waits until what it rests on is committed', async () => {
    const bench = new Bench();
    void bench.start();
    await bench.settle();
    await bench.serve(1, 2, 3);
    const seen: string[] = [];
    void outcome(bench.create('t')).then((what) => seen.push(what));
    void outcome(bench.create('t')).then((what) => seen.push(`again: ${what}`));
    await bench.turn();
    expect(seen).toEqual([]);
    await bench.commit();
    expect(seen).toEqual(['done', 'again: done']);
  });

  test('a refusal by a controller that may be deposed waits for a majority to confirm it', async () => {
    const bench = new Bench();
    void bench.start();
    await bench.settle();
    const missing = { kind: 'deleteTopic', name: 'nowhere' } as const;
    const refused = outcome(bench.proposals.execute(missing));
    const seen: string[] = [];
    void refused.then((what) => seen.push(what));
    await bench.turn();
    expect(seen).toEqual([]);
    expect(await bench.confirm()).toBe(1);
    expect(seen).toEqual(['UNKNOWN_TOPIC_OR_PARTITION']);
  });

  test('an entry that was proposed before the question does not confirm its answer', async () => {
    const bench = new Bench();
    void bench.start();
    await bench.settle();
    await bench.serve(1, 2, 3);
    void bench.create('t');
    await bench.turn();
    const seen: string[] = [];
    const missing = { kind: 'deleteTopic', name: 'nowhere' } as const;
    void outcome(bench.proposals.execute(missing)).then((what) => seen.push(what));
    await bench.turn();
    await bench.commit();
    expect(seen).toEqual([]);
    await bench.confirm();
    expect(seen).toEqual(['UNKNOWN_TOPIC_OR_PARTITION']);
  });

  test('many refusals share a confirmation, and a deposed controller gives none of them', async () => {
    const bench = new Bench();
    void bench.start();
    await bench.settle();
    const ask = (): Promise<string> =>
      outcome(bench.proposals.execute({ kind: 'deleteTopic', name: 'nowhere' }));
    const waiting: Promise<string>[] = [];
    for (let turn = 0; turn < 5; turn++) {
      for (let i = 0; i < 20; i++) waiting.push(ask());
      await bench.turn();
    }
    expect(bench.confirming.length).toBe(2);
    const asked = bench.confirming.splice(0);
    for (const { reject } of asked) reject(new RelevoError('NOT_CONTROLLER', 'another leads'));
    await bench.turn();
    expect(bench.confirming.length).toBe(1);
    bench.proposals.end('another leads');
    expect(await Promise.all(waiting)).toEqual(Array(100).fill('NOT_CONTROLLER'));
  });

  test('when a proposal is lost, everybody who waits is told, and nothing speculative remains', async () => {
    const bench = new Bench();
    void bench.start();
    await bench.settle();
    const waiting = [outcome(bench.register(1))];
    await bench.turn();
    waiting.push(outcome(bench.register(2)));
    await bench.turn();
    waiting.push(outcome(bench.register(3)));
    for (const { reject } of bench.underWay.splice(0)) reject(new Error('the leader moved'));
    await bench.turn();
    expect(await Promise.all(waiting)).toEqual(Array(3).fill('NOT_CONTROLLER'));
    expect(bench.lost).toBe('the leader moved');
    expect(bench.proposals.active).toBe(false);
    expect(await outcome(bench.register(3))).toBe('NOT_CONTROLLER');
    bench.proposals.begin(bench.committed);
    const again = bench.register(9);
    await bench.settle();
    expect((await again).brokerEpoch).toBe(1);
  });

  test('decisions above the limit are split, but no topic is created in parts', async () => {
    const bench = new Bench();
    void bench.start();
    await bench.settle();
    await bench.serve(1, 2, 3);
    const created = [1, 2, 3].map((number) => bench.create(`t${number}`, 10_000));
    await bench.turn();
    expect(bench.underWay.length).toBeGreaterThan(1);
    for (const { data } of bench.underWay) {
      expect(data.length).toBeLessThanOrEqual(ENTRY_BYTES_MAX);
      const records = decodeRecords(data);
      const partitions = records.filter(({ kind }) => kind === 'partitionCreation').length;
      expect(partitions % 10_000).toBe(0);
    }
    await bench.settle();
    await Promise.all(created);
    const epoch = bench.committed.brokers.get(brokerId(1))?.epoch ?? (0 as never);
    const command = {
      kind: 'fenceBrokers',
      brokers: [{ brokerId: brokerId(1), brokerEpoch: epoch }],
    } as const;
    const { records } = decide(bench.committed, command, DEFAULTS);
    expect(records.length).toBe(30_001);
    const fenced = bench.proposals.execute(command);
    await bench.turn();
    expect(bench.underWay.length).toBeGreaterThan(1);
    // `commit` checks the invariants after each part.
    await bench.settle();
    await fenced;
    expect(imageHash(bench.proposals.speculative())).toBe(imageHash(bench.committed));
    expect(bench.committed.brokers.get(brokerId(1))?.fenced).toBe(true);
  });
});
