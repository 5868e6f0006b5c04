import { transportContract } from '../../base/test/transport-contract.ts';
import type { TransportWorld } from '../../base/test/transport-contract.ts';
import type { Ports } from '@relevo/base/ports';
import { World } from '@relevo/simulation/world';

function makeWorld(seed: string, lanes: number, windowBytes: number): TransportWorld {
  const world = new World({ seed, network: { lanes, windowBytes } });
  let server: Ports | undefined;
  let client: Ports | undefined;
  world.process('server').boot((ports) => (server = ports));
  world.process('client').boot((ports) => (client = ports));
  const booted = (ports: Ports | undefined): Ports => {
    if (ports === undefined) throw new Error('not booted yet');
    return ports;
  };
  return {
    get server() {
      return booted(server).transport;
    },
    get client() {
      return booted(client).transport;
    },
    get timers() {
      return booted(client).timers;
    },
    listenAddress: 'server:0',
    unusedAddress: 'server:9',
    run: (scenario) =>
      world.run(async () => {
        await world.until(
          'both have booted',
          () => server !== undefined && client !== undefined,
          10,
        );
        await scenario();
      }),
    dispose: () => undefined,
  };
}

transportContract('simulated transport', () => makeWorld('contract', 1, 2 ** 20));
transportContract('simulated transport, streams that overtake', () =>
  makeWorld('contract', 5, 2 ** 16),
);
