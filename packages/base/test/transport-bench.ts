/** What the scenarios of transport-contract.ts are made with: methods, streams' inboxes, and waiting. */
import { expect } from 'vitest';
import { RpcError, route } from '@relevo/base/ports';
import type {
  Codec,
  Listener,
  MessageStream,
  Method,
  MethodKind,
  PeerInfo,
  Route,
  StreamEvents,
  Timers,
  Transport,
} from '@relevo/base/ports';
import { utf8Decode, utf8Encode } from '@relevo/base/bytes';

export interface TransportWorld {
  readonly server: Transport;
  readonly client: Transport;
  readonly timers: Timers;
  /** To listen on, with port 0: `localhost:0`. */
  readonly listenAddress: string;
  /** Where nobody listens. */
  readonly unusedAddress: string;
  run(scenario: () => Promise<void>): Promise<void>;
  dispose(): void | Promise<void>;
}

/** How long a condition may take to come true. */
const PATIENCE_MS = 10_000;

const text: Codec<string> = {
  encode: utf8Encode,
  decode: (bytes) => {
    const decoded = utf8Decode(bytes);
    if (decoded === 'malformed') throw new Error('this is malformed');
    return decoded;
  },
};

/** The number of an error code as an encoded `relevo.common.v1.ErrorDetail`, and an unknown field. */
export const detailOf = (code: number): Uint8Array =>
  Uint8Array.of(8, code, 0xfa, 1, 3, 0, 10, 255);

const method = <Kind extends MethodKind>(kind: Kind): Method<string, string, Kind> => ({
  path: `/relevo.test.v1.Contract/${kind}`,
  kind,
  audience: 'client',
  request: text,
  response: text,
});
export const UNARY = method('unary');
export const SERVER_STREAM = method('serverStream');
export const BIDI = method('bidi');

/** What came in on a stream. */
export class Inbox implements StreamEvents<string> {
  readonly messages: string[] = [];
  drains = 0;
  ends = 0;
  error: RpcError | undefined;
  afterMessage: (message: string) => void = () => undefined;

  onMessage(message: string): void {
    expect(this.ends, 'no message after the end').toBe(0);
    this.messages.push(message);
    this.afterMessage(message);
  }

  onDrain(): void {
    this.drains++;
  }

  onEnd(error: RpcError | undefined): void {
    this.ends++;
    this.error = error;
  }
}

/** The server's side of one bidirectional stream. */
export interface Accepted {
  readonly stream: MessageStream<string>;
  readonly inbox: Inbox;
  readonly peer: PeerInfo;
}

export class Bench {
  readonly world: TransportWorld;
  readonly accepted: Accepted[] = [];

  constructor(world: TransportWorld) {
    this.world = world;
  }

  listen(routes: readonly Route[], address: string = this.world.listenAddress): Promise<Listener> {
    return this.world.server.listen(address, routes);
  }

  /** Listens for bidirectional streams and keeps what is accepted. */
  listenBidi(onAccept: (accepted: Accepted) => void = () => undefined): Promise<Listener> {
    const handler = (stream: MessageStream<string>, peer: PeerInfo): StreamEvents<string> => {
      const accepted = { stream, inbox: new Inbox(), peer };
      this.accepted.push(accepted);
      onAccept(accepted);
      return accepted.inbox;
    };
    return this.listen([route<string, string, 'bidi'>(BIDI, handler)]);
  }

  async firstAccepted(): Promise<Accepted> {
    await this.until('a stream is accepted', () => this.accepted.length > 0);
    const [first] = this.accepted;
    if (first === undefined) throw new Error('no stream was accepted');
    return first;
  }

  sleep(ms: number): Promise<void> {
    return new Promise((resolve) => this.world.timers.after(ms, resolve));
  }

  async until(what: string, condition: () => boolean, state = (): string => ''): Promise<void> {
    for (let waited = 0; !condition(); waited += 2) {
      if (waited > PATIENCE_MS) throw new Error(`not within ${PATIENCE_MS} ms: ${what} ${state()}`);
      await this.sleep(2);
    }
  }

  /** A stream's end, by its inbox. */
  async ended(inbox: Inbox): Promise<RpcError | undefined> {
    await this.until('the stream ends', () => inbox.ends > 0);
    return inbox.error;
  }
}

export const failure = async (promise: Promise<unknown>): Promise<RpcError> => {
  const error = await promise.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof RpcError))
    throw new Error(`an RpcError was expected, not ${String(error)}`);
  return error;
};

export type On = (
  what: string,
  run: (bench: Bench, world: TransportWorld) => Promise<void>,
) => void;
