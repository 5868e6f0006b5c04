/** Who is at the addresses of a cluster on this machine: nobody, its own brokers, or somebody else. */
import { createServer } from 'node:net';
import { CommandError } from '../exit-codes.ts';
import type { LocalBroker, LocalCluster } from './layout.ts';

/** On this machine an answer takes some milliseconds. */
const ASK_TIMEOUT_MS = 500;

interface Taken {
  readonly broker: LocalBroker;
  readonly protocol: 'gRPC' | 'HTTP';
  readonly address: string;
  readonly why: string;
}

/**
 * Throws when an address of the cluster cannot be listened on, with who has it, as far as it tells.
 * @param isNew Whether the cluster is still to be made, so that its ports can be chosen.
 */
export async function refuseTakenAddresses(cluster: LocalCluster, isNew: boolean): Promise<void> {
  const found = await Promise.all(
    cluster.brokers.flatMap((broker) => [
      whyTaken(broker, 'gRPC', broker.grpc, cluster),
      whyTaken(broker, 'HTTP', broker.http, cluster),
    ]),
  );
  const taken = found.filter((one) => one !== undefined);
  if (taken.length === 0) return;
  const lines = taken.map(
    ({ broker, protocol, address, why }) =>
      `\n  - ${address} (${protocol} of broker ${broker.id}): ${why}`,
  );
  throw new CommandError(
    `the cluster in ${cluster.directory} cannot start, because its ports are not free:` +
      `${lines.join('')}\nStop what has them, or choose other ports with --port` +
      (isNew ? '' : ' for another cluster, with its own --data'),
  );
}

async function whyTaken(
  broker: LocalBroker,
  protocol: Taken['protocol'],
  address: string,
  cluster: LocalCluster,
): Promise<Taken | undefined> {
  const error = await listenError(address);
  if (error === undefined) return undefined;
  const taken = (why: string): Taken => ({ broker, protocol, address, why });
  if (error.code !== 'EADDRINUSE') return taken(error.message);
  const clusterId = protocol === 'gRPC' ? await clusterIdAt(address) : undefined;
  if (clusterId === undefined) return taken('in use');
  return taken(
    clusterId === cluster.clusterId
      ? 'in use by a broker of this very cluster, which runs already'
      : `in use by the cluster ${clusterId}`,
  );
}

/** Tries to listen; undefined: it can be done. */
function listenError(address: string): Promise<NodeJS.ErrnoException | undefined> {
  const colon = address.lastIndexOf(':');
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', resolve);
    server.listen(Number(address.slice(colon + 1)), address.slice(0, colon), () =>
      server.close(() => resolve(undefined)),
    );
  });
}

/** The id of the cluster whose broker answers there; undefined: none does. */
export async function clusterIdAt(
  address: string,
  timeoutMs: number = ASK_TIMEOUT_MS,
): Promise<string | undefined> {
  const { Relevo } = await import('@relevo/client');
  try {
    const relevo = await Relevo.connect({
      brokers: [address],
      connectTimeoutMs: timeoutMs,
      logLevel: 'silent',
    });
    const { clusterId } = relevo;
    await relevo.close();
    return clusterId;
  } catch {
    // Whatever it met there, it was no broker that serves.
    return undefined;
  }
}

/** Those of `brokers` that answer for the cluster, whoever started them. */
export async function answering(
  cluster: LocalCluster,
  brokers: readonly LocalBroker[],
): Promise<readonly LocalBroker[]> {
  const ids = await Promise.all(brokers.map(({ grpc }) => clusterIdAt(grpc)));
  return brokers.filter((_, index) => ids[index] === cluster.clusterId);
}
