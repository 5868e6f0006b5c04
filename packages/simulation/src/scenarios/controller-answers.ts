/**
 * Controllers that are cut off or frozen are asked directly while the others decide without them: what
 * they answer, refusals too, must have been true at some moment of the question (K3).
 */
import { RelevoError, messageOf } from '@relevo/base/errors';
import { uuidFromBytes } from '@relevo/base/ids';
import { RpcError } from '@relevo/base/ports';
import type { Channel, Ports } from '@relevo/base/ports';
import { AdminService } from '@relevo/rpc/gen/client/admin';
import type { CreateTopicRequest } from '@relevo/rpc/gen/client/admin';
import { ControllerAdminService } from '@relevo/rpc/gen/cluster/controller-admin';
import type { RunFigures, RunOptions } from '../failover-run.ts';
import type { Prng } from '../prng.ts';
import { Register } from '../register.ts';
import { SimulatedCluster, addressOf } from '../simulated-cluster.ts';
import { World } from '../world.ts';

const START_WITHIN_MS = 30_000;
const WHOLE_WITHIN_MS = 60_000;
/** One attempt of the writer; the broker that takes it may be waiting for a controller that is gone. */
const WRITE_ATTEMPT_MS = 40;
/** A question is not given up while its controller is frozen. */
const ASK_WITHIN_MS = 20_000;

type Fault = 'isolate' | 'deaf' | 'mute' | 'pause';

export async function controllerAnswersRun(
  seed: number | string,
  options: RunOptions = {},
): Promise<RunFigures> {
  const world: World = new World({
    seed,
    onLog: (line) => {
      if (line.event === 'became the active controller') run.activated(Number(line.fields['node']));
      options.onLog?.(line);
    },
  });
  const run = new ControllerAnswersRun(world);
  await world.run(() => run.run());
  return run.figures();
}

class ControllerAnswersRun {
  readonly #world: World;
  readonly #cluster: SimulatedCluster;
  readonly #prng: Prng;
  readonly #topics: { readonly name: string; readonly exists: Register<boolean> }[] = [];
  /** How many exist. */
  readonly #count = new Register(0);
  #active = -1;
  /** The writer keeps away from it; -1: nobody suffers. */
  #victim = -1;
  #ports: Ports | undefined;
  #writing = true;
  #asking = true;
  #writes = 0;
  #answers = 0;
  readonly #questions = new Set<Promise<void>>();

  constructor(world: World) {
    this.#world = world;
    this.#cluster = new SimulatedCluster(world);
    this.#prng = world.prng.split('controller-answers');
  }

  activated(node: number): void {
    this.#active = node;
  }

  async run(): Promise<void> {
    const world = this.#world;
    this.#cluster.bootAll();
    this.#ports = await new Promise<Ports>((resolve) => world.process('client').boot(resolve));
    await world.until('all brokers serve', () => this.#allServe(), START_WITHIN_MS);
    const writer = this.#write();
    const askers = this.#cluster.ids.map((id) => this.#ask(id));
    for (let round = this.#prng.integer(1, 3); round > 0; round--) await this.#strike();
    this.#writing = false;
    await world.within('the writer is done', WHOLE_WITHIN_MS, writer);
    this.#asking = false;
    await world.within('every question is settled', WHOLE_WITHIN_MS, Promise.all(askers));
    await world.within('every answer has come', WHOLE_WITHIN_MS, Promise.all(this.#questions));
  }

  figures(): RunFigures {
    const { trace, prng, nowMs } = this.#world;
    return {
      ...{ acknowledged: this.#writes, unknown: 0, failed: 0 },
      ...{ failoverMs: [], wholeMs: [], elections: this.#answers },
      events: trace.events,
      virtualMs: nowMs,
      fingerprint: `${trace.hash}-${prng.recorder.last}`,
    };
  }

  #allServe(): boolean {
    return this.#cluster.ids.every((id) => {
      const node = this.#cluster.process(id).alive ? this.#cluster.node(id) : undefined;
      return node !== undefined && node.unready() === undefined;
    });
  }

  async #strike(): Promise<void> {
    const world = this.#world;
    await world.sleep(this.#prng.between(100, 800));
    const victim = this.#active;
    const fault = this.#prng.pick<Fault>(['isolate', 'isolate', 'deaf', 'mute', 'pause']);
    const lastsMs = this.#prng.between(500, 3_000);
    world.note('fault', 'scenario', `${fault} at ${victim} for ${Math.round(lastsMs)} ms`);
    this.#victim = victim;
    const mend = this.#suffer(victim, fault);
    await world.sleep(lastsMs);
    world.note('mend', 'scenario', `${fault} at ${victim}`);
    mend();
    this.#victim = -1;
    await world.until('all brokers serve', () => this.#allServe(), WHOLE_WITHIN_MS);
  }

  /** The client reaches all of them throughout. */
  #suffer(victim: number, fault: Fault): () => void {
    const process = this.#cluster.process(victim);
    if (fault === 'pause') {
      process.pause();
      return () => process.resume();
    }
    const links = { out: fault !== 'deaf', into: fault !== 'mute' };
    return this.#cluster.cut(victim, links, []);
  }

  // ------------------------------------------------------------------------------ writing

  /**
   * Makes one topic after the other, through whichever broker does it. Nothing is deleted: an attempt that
   * nobody waits for any more may still be carried out, and would make a topic anew.
   */
  async #write(): Promise<void> {
    const channels = this.#cluster.addresses.map((address) => this.#dial(address));
    while (this.#writing) {
      const made = this.#topics.length;
      const name = `topic-${made}`;
      const nowMs = this.#world.nowMs;
      const exists = new Register(false);
      const done = [exists.write(true, nowMs), this.#count.write(made + 1, nowMs)];
      this.#topics.push({ name, exists });
      await this.#create(channels, name);
      for (const tell of done) tell(this.#world.nowMs);
      this.#writes++;
      await this.#world.sleep(this.#prng.between(0, 60));
    }
  }

  async #create(channels: readonly Channel[], name: string): Promise<void> {
    for (let attempt = 0; ; attempt++) {
      const others = channels.filter((_, id) => id !== this.#victim);
      const channel = others[attempt % others.length];
      if (channel === undefined) throw new RangeError('there is a channel to every broker');
      try {
        const within = { deadlineMs: WRITE_ATTEMPT_MS };
        await channel.call(AdminService.createTopic, creation(name, false), within);
        return;
      } catch (error) {
        // An attempt whose answer was lost has done it.
        if (error instanceof RpcError && error.code === 'TOPIC_ALREADY_EXISTS') return;
        this.#world.note('write', 'client', `${name}: ${messageOf(error)}`);
        await this.#world.sleep(5);
      }
    }
  }

  // ------------------------------------------------------------------------------- asking

  /** Asks one node again and again; it answers by itself or not at all. */
  async #ask(id: number): Promise<void> {
    const channel = this.#dial(addressOf(id));
    while (this.#asking) {
      const question = this.#askOnce(id, channel).finally(() => this.#questions.delete(question));
      this.#questions.add(question);
      await this.#world.sleep(this.#prng.between(5, 40));
    }
  }

  async #askOnce(id: number, channel: Channel): Promise<void> {
    const askedMs = this.#world.nowMs;
    if (this.#prng.chance(0.3)) {
      const told = await this.#howMany(channel);
      if (told !== undefined) this.#judge(id, 'the count of topics', this.#count, told, askedMs);
      return;
    }
    // Of the last ones some controllers may not have heard.
    const [topic] = this.#topics.slice(-this.#prng.integer(1, 4));
    const told = topic === undefined ? undefined : await this.#isThere(channel, topic.name);
    if (topic !== undefined && told !== undefined) {
      this.#judge(id, `"${topic.name}"`, topic.exists, told, askedMs);
    }
  }

  async #howMany(channel: Channel): Promise<number | undefined> {
    const within = { deadlineMs: ASK_WITHIN_MS };
    try {
      return (await channel.call(ControllerAdminService.describeCluster, {}, within)).topics;
    } catch (error) {
      return noAnswer(error);
    }
  }

  /** A creation that is only validated: its refusal says that the topic exists. */
  async #isThere(channel: Channel, name: string): Promise<boolean | undefined> {
    const within = { deadlineMs: ASK_WITHIN_MS };
    try {
      const topicId = uuidFromBytes(
        Uint8Array.from({ length: 16 }, () => this.#prng.integer(0, 255)),
      );
      const request = creation(name, true);
      await channel.call(ControllerAdminService.createTopic, { topicId, request }, within);
      return false;
    } catch (error) {
      if (error instanceof RpcError && error.code === 'TOPIC_ALREADY_EXISTS') return true;
      return noAnswer(error);
    }
  }

  #judge<Value>(
    id: number,
    what: string,
    register: Register<Value>,
    told: Value,
    askedMs: number,
  ): void {
    this.#answers++;
    const nowMs = this.#world.nowMs;
    const possible = register.possible(askedMs, nowMs);
    if (possible.includes(told)) return;
    const times = `asked at ${askedMs.toFixed(1)} ms, answered at ${nowMs.toFixed(1)} ms`;
    this.#world.fail(
      new Error(
        `broker ${id} says of ${what}: ${String(told)}; it was ${possible.join(' or ')} (K3; ${times})`,
      ),
    );
  }

  #dial(address: string): Channel {
    if (this.#ports === undefined) throw new RelevoError('INVALID_REQUEST', 'the client is booted');
    return this.#ports.transport.dial(address);
  }
}

/** A node that says that it does not know has told nothing. */
function noAnswer(error: unknown): undefined {
  if (!(error instanceof RpcError)) throw error;
  return undefined;
}

const creation = (name: string, validateOnly: boolean): CreateTopicRequest => ({
  name,
  partitions: 1,
  replicationFactor: 1,
  config: new Map(),
  validateOnly,
  assignment: [],
});
