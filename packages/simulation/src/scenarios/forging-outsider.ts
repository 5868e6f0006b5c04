/**
 * The swarm, with somebody beside it who is no node and calls the cluster's own services: without a proof,
 * with the proof of another secret, with a made-up one, with what it overheard. Nothing that it says is
 * heard. In some runs the cluster has no secret; then it says what no node could say.
 */
import { utf8Encode } from '@relevo/base/bytes';
import { RpcError } from '@relevo/base/ports';
import type { Method, MethodKind, Ports, Transport } from '@relevo/base/ports';
import { MemberHelloCodec, MemberProofCodec } from '@relevo/rpc/gen/cluster/membership';
import { Members } from '@relevo/server/security/members';
import { memberPath, rawMethod } from '@relevo/server/security/member-routes';
import { failoverRun } from '../failover-run.ts';
import type { Beside, RunFigures, RunOptions, Stage } from '../failover-run.ts';
import { Forgeries } from '../forgeries.ts';
import type { Forgery } from '../forgeries.ts';
import type { Prng } from '../prng.ts';
import { addressOf } from '../simulated-cluster.ts';
import { World } from '../world.ts';

/** On average between two forgeries. */
const PAUSE_MS = 40;
/** A stream that is still open after so long was let in. */
const ENDED_WITHIN_MS = 60_000;
/** No run has so many elections. */
const TERMS_MAX = 10_000;
/** A frozen node answers nothing. */
const CALL_MS = 5_000;
/** Overheard streams that are kept. */
const OVERHEARD_MAX = 50;
/** A cluster without a secret. */
const OPEN_CHANCE = 0.25;

export const forgingOutsiderRun = (
  seed: number | string,
  options: RunOptions = {},
): Promise<RunFigures> => {
  const isOpen = new World({ seed }).prng.split('outsider/plan').chance(OPEN_CHANCE);
  return failoverRun(seed, {
    ...options,
    ...(isOpen && { secrets: [] }),
    beside: (stage) => startOutsider(stage, { isOpen, topics: 1 }),
  });
};

export interface OutsiderOptions {
  /** The cluster has no secret. */
  readonly isOpen: boolean;
  /** On average between two forgeries, ms. Default: 40. */
  readonly pauseMs?: number;
  /** How many there are in the end. Default: others make topics too. */
  readonly topics?: number;
}

/** An outsider beside any scenario. */
export const startOutsider = (stage: Stage, options: OutsiderOptions): Promise<Beside> =>
  new Outsider(stage, options).start();

type Way = 'plain' | 'otherSecret' | 'madeUp' | 'replayed';

class Outsider {
  readonly #stage: Stage;
  readonly #isOpen: boolean;
  readonly #options: OutsiderOptions;
  readonly #prng: Prng;
  readonly #forgeries: Forgeries;
  /** The messages of streams that nodes opened, by path. */
  readonly #overheard: { readonly path: string; readonly bodies: Uint8Array[] }[] = [];
  readonly #attempts = new Set<Promise<void>>();
  #stopped = false;

  constructor(stage: Stage, options: OutsiderOptions) {
    const { isOpen } = options;
    this.#stage = stage;
    this.#isOpen = isOpen;
    this.#options = options;
    this.#prng = stage.world.prng.split('outsider');
    this.#forgeries = new Forgeries(this.#prng, { impossibleOnly: isOpen });
  }

  async start(): Promise<Beside> {
    const { world } = this.#stage;
    const ports = await new Promise<Ports>((booted) => world.process('outsider').boot(booted));
    this.#listen();
    const done = this.#run(ports);
    return {
      stop: async () => {
        this.#stopped = true;
        await world.within('the outsider stops', ENDED_WITHIN_MS, done);
        const all = Promise.all(this.#attempts);
        await world.within('every stream of the outsider is ended', ENDED_WITHIN_MS, all);
        await this.#nothingChanged();
      },
    };
  }

  async #nothingChanged(): Promise<void> {
    const { world, client, cluster } = this.#stage;
    const asked = client.admin.describeCluster();
    const known = await world.within('the cluster is described', ENDED_WITHIN_MS, asked);
    const strangers = known.brokers.filter(({ id }) => !cluster.ids.includes(id));
    if (strangers.length > 0) throw new Error(`${strangers.length} strangers are registered`);
    const { topics = known.topics } = this.#options;
    if (known.topics !== topics) {
      throw new Error(`there are ${known.topics} topics, and were ${topics}`);
    }
    if (known.controllerTerm > TERMS_MAX) throw new Error(`the term is ${known.controllerTerm}`);
  }

  /** Keeps what nodes send on streams on which they prove themselves. */
  #listen(): void {
    const { world } = this.#stage;
    const open = new Map<string, Uint8Array[]>();
    world.network.overhear = (from, to, packet) => {
      if (from === 'outsider' || this.#overheard.length >= OVERHEARD_MAX) return;
      const key = `${from} ${to} ${packet.stream}`;
      if (packet.kind === 'open' && packet.path.startsWith('/relevo.member.')) {
        const bodies: Uint8Array[] = [];
        open.set(key, bodies);
        this.#overheard.push({ path: packet.path, bodies });
      } else if (packet.kind === 'message') {
        const bodies = open.get(key);
        if (bodies !== undefined && bodies.length < 5) bodies.push(packet.body.slice());
      }
    };
  }

  async #run(ports: Ports): Promise<void> {
    const { world, cluster } = this.#stage;
    while (!this.#stopped) {
      await world.sleep(this.#prng.exponential(this.#options.pauseMs ?? PAUSE_MS));
      const address = addressOf(this.#prng.pick(cluster.ids));
      const attempt = this.#attempt(ports, address);
      this.#attempts.add(attempt);
    }
  }

  #attempt(ports: Ports, address: string): Promise<void> {
    const ways: Way[] = this.#isOpen ? ['plain'] : ['plain', 'otherSecret', 'madeUp', 'replayed'];
    const way = this.#prng.pick(ways);
    const overheard = this.#overheard.length > 0 ? this.#prng.pick(this.#overheard) : undefined;
    if (way === 'replayed' && overheard !== undefined) {
      return this.#speak(ports.transport, address, way, {
        method: rawMethod(overheard.path, 'bidi'),
        bodies: [...overheard.bodies],
      });
    }
    const forgery = this.#forgeries.draw();
    if (way === 'otherSecret') {
      return this.#speak(this.#pretender(ports), address, way, forgery);
    }
    if (way === 'madeUp') {
      const hello = { clusterId: 'simulated', nodeId: 1, nonce: this.#prng.bytes(32) };
      const proof = { proof: this.#prng.bytes(32) };
      return this.#speak(ports.transport, address, way, {
        method: rawMethod(memberPath(forgery.method.path), 'bidi'),
        bodies: [MemberHelloCodec.encode(hello), MemberProofCodec.encode(proof), ...forgery.bodies],
      });
    }
    return this.#speak(ports.transport, address, 'plain', forgery);
  }

  #pretender(ports: Ports): Transport {
    const secrets = [utf8Encode('the secret of another simulated cluster')];
    const options = { nodeId: 1, clusterId: 'simulated', secrets, required: true };
    return new Members({ ...ports, others: () => new Map() }, options).transport;
  }

  /** Resolves when the stream is over; fails the run where it was heard. */
  #speak(
    transport: Transport,
    address: string,
    way: Way,
    { method, bodies }: Forgery,
  ): Promise<void> {
    const channel = transport.dial(address);
    const [request] = bodies;
    const ended = new Promise<RpcError | undefined>((resolve) => {
      if (way === 'plain' && method.kind === 'unary' && request !== undefined) {
        const call = channel.call({ ...method, kind: 'unary' }, request, { deadlineMs: CALL_MS });
        // Whatever rejects a call is an RpcError.
        call.then(
          () => resolve(undefined),
          (error: unknown) => resolve(error as RpcError),
        );
        return;
      }
      // Members call everything as a stream.
      const stream = channel.open(asStream(method), {
        onMessage: () => undefined,
        onEnd: resolve,
      });
      for (const body of bodies) stream.send(body);
      if (this.#isOpen) {
        // Nobody says no to a quorum's message that is out of date.
        void this.#stage.world.sleep(500).then(() => {
          stream.cancel(new RpcError('CANCELLED', 'enough was said'));
        });
      }
    });
    return ended.then((error) => {
      channel.close();
      if (this.#isOpen || isRefusal(error)) return;
      const outcome = error === undefined ? 'it ended well' : `${error.code ?? error.status}`;
      this.#stage.world.fail(
        new Error(`an outsider was heard (${way}, ${method.path}): ${outcome} ${error?.message}`),
      );
    });
  }
}

const asStream = (
  method: Method<Uint8Array, Uint8Array>,
): Method<Uint8Array, Uint8Array, 'bidi'> => ({ ...method, kind: 'bidi' satisfies MethodKind });

/** Or the node has no such service, or the connection was not there, or broke. */
function isRefusal(error: RpcError | undefined): boolean {
  if (error === undefined) return false;
  if (error.code !== undefined) return error.code === 'CLUSTER_AUTHORIZATION_FAILED';
  return ['UNIMPLEMENTED', 'UNAVAILABLE', 'RESOURCE_EXHAUSTED', 'DEADLINE_EXCEEDED'].includes(
    error.status,
  );
}
