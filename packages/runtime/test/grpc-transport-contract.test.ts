import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import type { Listener, Transport } from '@relevo/base/ports';
import { NodeTimers } from '@relevo/runtime/clock';
import { GrpcTransport } from '@relevo/runtime/grpc-transport';
import { transportContract } from '../../base/test/transport-contract.ts';
import type { TransportWorld } from '../../base/test/transport-contract.ts';
import { silentLogger } from './transport-peer.ts';

/** Closes in the end what was opened through it. */
class TidyTransport extends GrpcTransport {
  readonly #opened: (() => unknown)[] = [];

  override dial(address: string): ReturnType<Transport['dial']> {
    const channel = super.dial(address);
    this.#opened.push(() => channel.close());
    return channel;
  }

  override async listen(...parameters: Parameters<Transport['listen']>): Promise<Listener> {
    const listener = await super.listen(...parameters);
    this.#opened.push(() => listener.close(0));
    return listener;
  }

  async dispose(): Promise<void> {
    await Promise.all(this.#opened.map((close) => close()));
  }
}

async function unusedAddress(): Promise<string> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return `127.0.0.1:${port}`;
}

async function makeWorld(): Promise<TransportWorld> {
  const server = new TidyTransport({ logger: silentLogger });
  const client = new TidyTransport({ logger: silentLogger });
  return {
    server,
    client,
    timers: new NodeTimers(),
    listenAddress: '127.0.0.1:0',
    unusedAddress: await unusedAddress(),
    run: (scenario) => scenario(),
    dispose: async () => {
      await client.dispose();
      await server.dispose();
    },
  };
}

transportContract('gRPC transport', makeWorld);
