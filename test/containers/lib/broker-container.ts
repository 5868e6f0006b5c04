import { GenericContainer, Wait } from 'testcontainers';

export const IMAGE = process.env['RELEVO_IMAGE'] ?? 'relevo:local';
export const DATA = '/var/lib/relevo';
/** In a container: the port of the listener for clients on this host. */
export const OUTSIDE_PORT = 19093;
/** In a container, in memory: made from the variable CLUSTER_SECRET as it starts. */
export const SECRET_FILE = '/tmp/cluster-secret';
/** What a container runs, by `sh -c`. */
export const START: string = `umask 077 && echo "$CLUSTER_SECRET" >${SECRET_FILE} && exec relevo broker`;
/** In a container whose clock can be set: how far it is off. */
export const CLOCK_FILE = '/tmp/clock';
const START_MS = 30_000;

export interface BrokerContainerOptions {
  /** The only one that it is in. */
  readonly network: string;
  /** Its own, in that network. */
  readonly name: string;
  /** Of the loopback, for the outside listener. */
  readonly hostPort: number;
  /** Absent where the data is in memory. */
  readonly volume: string | undefined;
  readonly dataBytes: number | undefined;
  /** The directory of libfaketime on this host. */
  readonly fakeClock: string | undefined;
}

/**
 * A broker's container as the compose file has it, with what testcontainers has no words for: a fixed port
 * of the loopback, a volume, a read-only root.
 */
export class BrokerContainer extends GenericContainer {
  readonly #options: BrokerContainerOptions;

  constructor(image: string, options: BrokerContainerOptions) {
    super(image);
    this.#options = options;
    const { dataBytes, fakeClock } = options;
    this.withTmpFs({
      '/tmp': 'size=16m',
      ...(dataBytes !== undefined && { [DATA]: `size=${dataBytes},uid=1000,gid=1000` }),
    });
    if (fakeClock !== undefined) {
      this.withBindMounts([{ source: fakeClock, target: '/faketime', mode: 'ro' }]);
      this.withEnvironment({
        LD_PRELOAD: '/faketime/libfaketimeMT.so.1',
        FAKETIME_TIMESTAMP_FILE: CLOCK_FILE,
        FAKETIME_CACHE_DURATION: '1',
        // As when an operator sets a clock: time that has passed is counted rightly.
        FAKETIME_DONT_FAKE_MONOTONIC: '1',
      });
    }
    this.withHostname(options.name);
    this.withEntrypoint(['sh', '-c', START]);
    this.withDroppedCapabilities('ALL');
    this.withWaitStrategy(Wait.forHealthCheck());
    this.withStartupTimeout(START_MS);
  }

  protected override beforeContainerCreated(): Promise<void> {
    const { hostPort, volume, network, name } = this.#options;
    // `withNetwork` would leave it in the engine's default network too.
    this.hostConfig.NetworkMode = network;
    this.createOpts.NetworkingConfig = { EndpointsConfig: { [network]: { Aliases: [name] } } };
    const port = `${OUTSIDE_PORT}/tcp`;
    this.createOpts.ExposedPorts = { [port]: {} };
    this.hostConfig.PortBindings = { [port]: [{ HostIp: '127.0.0.1', HostPort: `${hostPort}` }] };
    this.hostConfig.ReadonlyRootfs = true;
    this.hostConfig.Init = true;
    if (volume !== undefined) {
      this.hostConfig.Mounts = [{ Type: 'volume', Source: volume, Target: DATA }];
    }
    return Promise.resolve();
  }
}
