/**
 * Messages that no client of ours would send, to every method of every service, clients' and the
 * cluster's: fields at the edges of their ranges, names and ids that exist, damaged and random bytes.
 */
import { RpcError } from '@relevo/base/ports';
import type {
  Channel,
  Codec,
  MessageStream,
  Method,
  MethodKind,
  Transport,
} from '@relevo/base/ports';
import type { Relevo } from '@relevo/client';
import { Prng } from '@relevo/simulation/prng';
import protobuf from 'protobufjs';
import { loadRoot } from '../../packages/rpc/proto-files.ts';
import type { TestCluster } from '../lib/cluster.ts';
import { percentile, type Figures } from '../chaos/figures.ts';
import { ReadinessProbe, fencings, memoryOver, residentBytes } from './probe.ts';

const TOPIC = 'fuzzed';
/** Calls under way at a time. */
const AT_ONCE = 64;
/** A call that is not answered is given up after so long. */
const DEADLINE_MS = 1_000;
/** And a stream on which nothing is said. */
const SILENCE_MS = 50;

const bytes: Codec<Uint8Array> = { encode: (value) => value, decode: (value) => value };

interface Target {
  readonly method: Method<Uint8Array, Uint8Array>;
  readonly request: protobuf.Type;
}

export interface FuzzOptions {
  readonly messages: number;
  readonly seed: string;
  /** What the figures' names begin with. */
  readonly prefix: string;
  /** All brokers are stopped and started in the end: nothing that was sent may stand in the way of that. */
  readonly restart: boolean;
}

export async function fuzz(
  cluster: TestCluster,
  relevo: Relevo,
  transport: Transport,
  { messages, seed, prefix, restart }: FuzzOptions,
): Promise<Figures> {
  const { topicId } = await relevo.admin.createTopic({ topic: TOPIC, partitions: 3 });
  const producer = relevo.producer();
  await producer.send({ topic: TOPIC, value: 'before' });
  const pids = cluster.brokers.map(({ pid }) => pid);
  const before = await residentBytes(cluster);
  const probe = new ReadinessProbe(cluster);
  probe.start();

  const prng = new Prng(seed);
  const generator = new Generator(prng, { topicId, words: [TOPIC, topicId, ...cluster.bootstrap] });
  const targets = targetsOf(loadRoot());
  const channels = cluster.bootstrap.map((address) => transport.dial(address));
  const outcomes = new Map<string, number>();
  let sent = 0;
  const worker = async (): Promise<void> => {
    while (sent < messages) {
      const target = prng.pick(targets);
      const { request, method } = target;
      const count = method.kind === 'bidi' ? prng.integer(1, 4) : 1;
      const batch = Array.from({ length: count }, () => generator.message(request));
      const outcome = await send(prng.pick(channels), target, batch);
      sent += count;
      outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  for (const channel of channels) channel.close();
  await probe.stop();

  const over = await memoryOver(cluster, before, 60_000);
  const survivors = cluster.brokers.filter(({ pid, running }, at) => running && pid === pids[at]);
  if (restart) {
    for (const broker of survivors) await broker.stop();
    for (const broker of survivors) broker.start();
    await cluster.ready();
  }
  // The topic may have been deleted or written to, as its name and id were used; acknowledged is what
  // another topic takes.
  await relevo.admin.createTopic({ topic: `${TOPIC}-after`, partitions: 3 });
  const after = await producer.send({ topic: `${TOPIC}-after`, value: 'after' });
  await producer.close();
  console.log(`  outcomes: ${[...outcomes].map(([name, n]) => `${name} ${n}`).join(', ')}`);
  const figures: Figures = {
    Messages: sent,
    Methods: targets.length,
    BrokersLost: cluster.brokers.length - survivors.length,
    ReadyzMsP99: percentile(probe.answersMs, 0.99),
    ReadyzMsMax: Math.max(...probe.answersMs),
    Unready: probe.refusals.length,
    Fenced: fencings(cluster),
    MemoryOverMiB: over / 2 ** 20,
    SyncedAfter: after.syncedOn.length,
  };
  return Object.fromEntries(
    Object.entries(figures).map(([name, value]) => [`${prefix}${name}`, value]),
  );
}

function targetsOf(root: protobuf.Root): Target[] {
  const services: protobuf.Service[] = [];
  const visit = (namespace: protobuf.NamespaceBase): void => {
    for (const object of namespace.nestedArray) {
      if (object instanceof protobuf.Service) services.push(object);
      else if (object instanceof protobuf.Namespace) visit(object);
    }
  };
  visit(root);
  return services.flatMap((service) =>
    service.methodsArray.map((method): Target => {
      const path = `/${service.fullName.slice(1)}/${method.name}`;
      const kind: MethodKind =
        method.requestStream === true
          ? 'bidi'
          : method.responseStream === true
            ? 'serverStream'
            : 'unary';
      const audience = path.includes('.cluster.') ? 'cluster' : 'client';
      method.resolve();
      const { resolvedRequestType } = method;
      if (resolvedRequestType === null) throw new Error(`${path} has a request`);
      return {
        method: { path, kind, audience, request: bytes, response: bytes },
        request: resolvedRequestType,
      };
    }),
  );
}

/** What became of one message, or of a few on one stream. */
function send(
  channel: Channel,
  { method }: Target,
  messages: readonly Uint8Array[],
): Promise<string> {
  const [first = new Uint8Array(0)] = messages;
  if (method.kind === 'unary') {
    return channel.call(as<'unary'>(method), first, { deadlineMs: DEADLINE_MS }).then(
      () => 'answered',
      (error: unknown) => (error instanceof RpcError ? error.status : String(error)),
    );
  }
  return new Promise((resolve) => {
    const events = {
      onMessage: () => finish('answered'),
      onEnd: (error: RpcError | undefined) => finish(error?.status ?? 'ended'),
    };
    const stream: MessageStream<Uint8Array> | MessageStream<never> =
      method.kind === 'bidi'
        ? channel.open(as<'bidi'>(method), events)
        : channel.subscribe(as<'serverStream'>(method), first, events);
    const timer = setTimeout(() => finish('silent'), SILENCE_MS);
    const finish = (outcome: string): void => {
      clearTimeout(timer);
      stream.cancel(new RpcError('CANCELLED', 'enough'));
      resolve(outcome);
    };
    if (method.kind !== 'bidi') return;
    for (const message of messages) (stream as MessageStream<Uint8Array>).send(message);
  });
}

/** The kind was looked at by the caller. */
const as = <Kind extends MethodKind>(
  method: Method<Uint8Array, Uint8Array>,
): Method<Uint8Array, Uint8Array, Kind> => method as Method<Uint8Array, Uint8Array, Kind>;

/** Messages of a type: fields at the edges of their ranges, or what exists; then perhaps damaged. */
class Generator {
  readonly #prng: Prng;
  readonly #known: { readonly topicId: string; readonly words: readonly string[] };

  constructor(prng: Prng, known: { topicId: string; words: readonly string[] }) {
    this.#prng = prng;
    this.#known = known;
  }

  message(type: protobuf.Type): Uint8Array {
    const prng = this.#prng;
    if (prng.chance(0.05)) return this.#bytes(prng.pick([0, 1, 10, 300]));
    const made = Uint8Array.from(type.encode(type.fromObject(this.#fields(type, 0))).finish());
    if (made.length > 0 && prng.chance(0.2)) {
      const at = prng.integer(0, made.length - 1);
      made[at] = prng.integer(0, 255);
    }
    return prng.chance(0.05) ? made.subarray(0, prng.integer(0, made.length)) : made;
  }

  #fields(type: protobuf.Type, depth: number): Record<string, unknown> {
    const made: Record<string, unknown> = {};
    for (const field of type.fieldsArray) {
      if (this.#prng.chance(0.25)) continue;
      made[field.name] = this.#field(field, depth);
    }
    return made;
  }

  #field(field: protobuf.Field, depth: number): unknown {
    if (field.map) return { [this.#word()]: this.#value(field, depth) };
    if (!field.repeated) return this.#value(field, depth);
    const count = this.#prng.pick([0, 1, 1, 2, 20]);
    return Array.from({ length: count }, () => this.#value(field, depth));
  }

  #value(field: protobuf.Field, depth: number): unknown {
    const type = field.resolvedType;
    if (type instanceof protobuf.Type) return depth > 5 ? {} : this.#fields(type, depth + 1);
    if (type instanceof protobuf.Enum) return this.#prng.integer(-1, 12);
    switch (field.type) {
      case 'bool':
        return this.#prng.chance(0.5);
      case 'string':
        return field.name.endsWith('Id') && this.#prng.chance(0.6)
          ? this.#known.topicId
          : this.#word();
      case 'bytes':
        return this.#bytes(this.#prng.pick([0, 1, 16, 61, 80, 1_000, 100_000]));
      default:
        return this.#number(field);
    }
  }

  #number(field: protobuf.Field): number {
    const prng = this.#prng;
    // What an admin call makes, brokers keep: not so many that the machine is full of them.
    if (field.name === 'partitions' || field.name === 'count') return prng.pick([-1, 0, 1, 3, 2e9]);
    const bits = field.type.endsWith('64') ? 53 : 31;
    const edge = Math.min(2 ** prng.integer(0, bits), 2 ** bits - 1);
    const wide = prng.chance(0.5) ? edge : edge - 1;
    const signed = field.type.startsWith('u') ? wide : prng.pick([wide, -wide]);
    return prng.chance(0.6) ? prng.integer(0, 3) : signed;
  }

  #word(): string {
    const prng = this.#prng;
    const odd = ['', '.', '..', '__cluster_metadata', '/etc/passwd', '\0', 'é'.repeat(300)];
    return prng.pick([...this.#known.words, ...odd, `word-${prng.integer(0, 20)}`]);
  }

  #bytes(length: number): Uint8Array {
    return Uint8Array.from({ length }, () => this.#prng.integer(0, 255));
  }
}
