/** A transport whose every call begins with the proofs of membership is a transport like any other. */
import { utf8Encode } from '@relevo/base/bytes';
import type { BrokerId } from '@relevo/base/ids';
import type { Channel, Method, MethodKind, Ports, Route, Transport } from '@relevo/base/ports';
import { Members } from '@relevo/server/security/members';
import { World } from '@relevo/simulation/world';
import { transportContract } from '../../../base/test/transport-contract.ts';
import type { TransportWorld } from '../../../base/test/transport-contract.ts';

const secrets = [utf8Encode('a secret of this test, long enough')];

const forCluster = <Request, Response, Kind extends MethodKind>(
  method: Method<Request, Response, Kind>,
): Method<Request, Response, Kind> => ({ ...method, audience: 'cluster' });

const clusterRoute = (route: Route): Route => ({ ...route, method: forCluster(route.method) });

/** Whatever is called and served, as if it were for the cluster. */
function guarded(ports: Ports, nodeId: number): Transport {
  // The contract calls what nobody serves: the caller is let find that out.
  const options = { nodeId, clusterId: 'contract', secrets, required: nodeId === 1 };
  const others = (): ReadonlyMap<BrokerId, string> => new Map();
  const members = new Members({ ...ports, others }, options);
  return {
    ...members.transport,
    dial: (address) => {
      const channel = members.transport.dial(address);
      const wrapped: Channel = {
        address,
        call: (method, request, how) => channel.call(forCluster(method), request, how),
        subscribe: (method, request, events) =>
          channel.subscribe(forCluster(method), request, events),
        open: (method, events) => channel.open(forCluster(method), events),
        close: () => channel.close(),
      };
      return wrapped;
    },
    listen: (address, routes, name) =>
      ports.transport.listen(address, members.guard(routes.map(clusterRoute)), name),
  };
}

function makeWorld(lanes: number, windowBytes: number): TransportWorld {
  const world = new World({ seed: 'members', network: { lanes, windowBytes } });
  let server: Ports | undefined;
  let client: Ports | undefined;
  world.process('server').boot((ports) => (server = ports));
  world.process('client').boot((ports) => (client = ports));
  const made = new Map<string, Transport>();
  const booted = (name: string, ports: Ports | undefined, nodeId: number): Transport => {
    if (ports === undefined) throw new Error(`${name} has not booted yet`);
    const known = made.get(name) ?? guarded(ports, nodeId);
    made.set(name, known);
    return known;
  };
  return {
    get server() {
      return booted('server', server, 1);
    },
    get client() {
      return booted('client', client, 2);
    },
    get timers() {
      if (client === undefined) throw new Error('the client has not booted yet');
      return client.timers;
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

transportContract('members, simulated', () => makeWorld(1, 2 ** 20));
transportContract('members, simulated, streams that overtake', () => makeWorld(5, 2 ** 16));
