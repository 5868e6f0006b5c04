/**
 * Requests and answers by correlation id over one bidirectional stream per broker, for the callers of the
 * plain services: this node is their client, of other brokers and of itself alike.
 */
import { RpcError } from '@relevo/base/ports';
import type { Channel, MessageStream, Method, Timers, Transport } from '@relevo/base/ports';

interface Correlated {
  readonly correlationId: number;
}

interface Waiting<Response> {
  readonly resolve: (response: Response) => void;
  readonly reject: (error: RpcError) => void;
}

interface Line<Request, Response> {
  readonly channel: Channel;
  readonly stream: MessageStream<Request>;
  readonly waiting: Map<number, Waiting<Response>>;
}

export class LeaderCalls<Request extends Correlated, Response extends Correlated> {
  readonly #transport: Transport;
  readonly #method: Method<Request, Response, 'bidi'>;
  readonly #lines = new Map<string, Line<Request, Response>>();
  #lastId = 0;
  #closed = false;

  constructor(transport: Transport, method: Method<Request, Response, 'bidi'>) {
    this.#transport = transport;
    this.#method = method;
  }

  /** Rejects with an RpcError when the stream ends before the answer: the outcome is unknown then. */
  call(address: string, request: (correlationId: number) => Request): Promise<Response> {
    if (this.#closed) return Promise.reject(stopping());
    const line = this.#lines.get(address) ?? this.#open(address);
    const id = ++this.#lastId;
    return new Promise((resolve, reject) => {
      line.waiting.set(id, { resolve, reject });
      line.stream.send(request(id));
    });
  }

  /** The connection to a broker, for other calls to it: it is closed when the stream on it ends. */
  channel(address: string): Channel {
    if (this.#closed) throw stopping();
    return (this.#lines.get(address) ?? this.#open(address)).channel;
  }

  close(): void {
    this.#closed = true;
    for (const [address, line] of this.#lines) {
      line.stream.cancel(stopping());
      this.#ended(address, line, stopping());
    }
  }

  #open(address: string): Line<Request, Response> {
    const channel = this.#transport.dial(address);
    const waiting = new Map<number, Waiting<Response>>();
    const stream = channel.open(this.#method, {
      onMessage: (response) => {
        const caller = waiting.get(response.correlationId);
        waiting.delete(response.correlationId);
        caller?.resolve(response);
      },
      onEnd: (error) => {
        this.#ended(address, line, error ?? new RpcError('UNAVAILABLE', 'the broker has ended'));
      },
    });
    const line: Line<Request, Response> = { channel, stream, waiting };
    this.#lines.set(address, line);
    return line;
  }

  #ended(address: string, line: Line<Request, Response>, error: RpcError): void {
    if (this.#lines.get(address) === line) this.#lines.delete(address);
    line.channel.close();
    const callers = [...line.waiting.values()];
    line.waiting.clear();
    for (const { reject } of callers) reject(error);
  }
}

/** The answer, or an RpcError after `ms`: the outcome is unknown then. An answer that comes later is dropped. */
export function answerWithin<Answer>(
  timers: Timers,
  ms: number,
  answer: Promise<Answer>,
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const timer = timers.after(ms, () =>
      reject(new RpcError('DEADLINE_EXCEEDED', `the leader gave no answer within ${ms} ms`)),
    );
    answer.then(resolve, reject).finally(() => timer.cancel());
  });
}

const stopping = (): RpcError =>
  new RpcError('UNAVAILABLE', 'this broker is stopping: go to another one', {
    code: 'SHUTTING_DOWN',
  });
