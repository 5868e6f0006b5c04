/**
 * A node among the members of its cluster: it proves itself where it calls their services, and lets call its
 * own who have proved themselves.
 *
 * A cluster that has had no secret comes over in one rolling restart with `cluster.auth.required: auto`:
 * nodes prove themselves where the other side knows how, and take callers that do not. Each asks all the
 * others meanwhile; once all of them prove themselves, it demands it of everybody.
 */
import { brokerId } from '@relevo/base/ids';
import type { BrokerId } from '@relevo/base/ids';
import { route } from '@relevo/base/ports';
import type {
  Clock,
  HmacSha256,
  Logger,
  Random,
  Route,
  TimerHandle,
  Timers,
  Transport,
} from '@relevo/base/ports';
import { MembersService } from '@relevo/rpc/gen/cluster/membership';
import { MemberChannel } from './member-channel.ts';
import { MemberRoutes } from './member-routes.ts';
import { RefusalLog } from './refusal-log.ts';
import { SecretTroubles } from './secret-troubles.ts';

/** While proofs are not demanded yet: how often the others are asked whether they can give them. */
const ASK_EVERY_MS = 1000;
const ASK_TIMEOUT_MS = 500;

export interface MembersDeps {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly random: Random;
  readonly logger: Logger;
  readonly transport: Transport;
  readonly hmacSha256: HmacSha256;
  /** The nodes that are in the cluster now, with the addresses where the others dial them. */
  readonly others: () => ReadonlyMap<BrokerId, string>;
}

export interface MembersOptions {
  readonly nodeId: number;
  readonly clusterId: string;
  /** One or two; the first proves. */
  readonly secrets: readonly Uint8Array[];
  /** `auto`: as soon as all others prove themselves; until then callers that do not are taken. */
  readonly required: boolean | 'auto';
}

export class Members {
  /** What it dials asks for proofs, and gives them; listeners are as they were. */
  readonly transport: Transport;
  readonly #deps: MembersDeps;
  readonly #routes: MemberRoutes;
  /** Falls back to nothing: for asking. */
  readonly #strict: (address: string) => MemberChannel;
  readonly #troubles: SecretTroubles;
  readonly #mode: boolean | 'auto';
  #required: boolean;
  #timer: TimerHandle | undefined;
  #closed = false;

  constructor(deps: MembersDeps, options: MembersOptions) {
    this.#deps = deps;
    this.#required = options.required === true;
    this.#mode = options.required;
    const { transport } = deps;
    const refusals = new RefusalLog(deps);
    const common = {
      ...options,
      nodeId: brokerId(options.nodeId),
      required: (): boolean => this.#required,
    };
    this.#troubles = new SecretTroubles(deps);
    const channelDeps = { ...deps, refusals, troubles: this.#troubles };
    this.#routes = new MemberRoutes(channelDeps, common);
    this.#strict = (address) =>
      new MemberChannel(
        transport.dial(address),
        { ...deps, refusals: { tell: () => undefined } },
        { ...common, required: () => true },
      );
    this.transport = {
      dial: (address) => new MemberChannel(transport.dial(address), channelDeps, common),
      listen: (address, routes, name) => transport.listen(address, routes, name),
      probe: (address, timeoutMs) => transport.probe(address, timeoutMs),
    };
  }

  /** Whether callers of the cluster's services that prove nothing are refused. */
  get required(): boolean {
    return this.#required;
  }

  /** Which nodes hold another secret, for people; undefined: none is known to. */
  get trouble(): string | undefined {
    return this.#troubles.current;
  }

  /** The routes of the node as its listeners serve them. */
  guard(routes: readonly Route[]): readonly Route[] {
    const ping = route(MembersService.ping, () => Promise.resolve({}));
    return this.#routes.guard([...routes, ping]);
  }

  /** Begins to ask the others, where their answer decides whether proofs are demanded. */
  start(): void {
    if (this.#required) return;
    const until = this.#mode === 'auto' ? ' until all its nodes prove themselves' : '';
    this.#deps.logger.warn(
      `callers that prove nothing may call the services of the cluster${until}`,
      { do: 'give every node cluster.secret.file, then take cluster.auth.required away' },
    );
    if (this.#mode === 'auto') this.#askAgain();
  }

  close(): void {
    this.#closed = true;
    this.#timer?.cancel();
  }

  #askAgain(): void {
    this.#timer = this.#deps.timers.after(ASK_EVERY_MS, () => void this.#ask());
  }

  async #ask(): Promise<void> {
    const others = [...this.#deps.others()];
    const answers = await Promise.all(others.map(([, address]) => this.#proves(address)));
    if (this.#closed) return;
    if (others.length === 0 || answers.includes(false)) {
      this.#askAgain();
      return;
    }
    this.#required = true;
    this.#deps.logger.warn('all nodes prove themselves: from now on every caller must', {
      nodes: others.map(([id]) => id),
      do: 'take cluster.auth.required: auto out of the configuration',
    });
  }

  async #proves(address: string): Promise<boolean> {
    const channel = this.#strict(address);
    try {
      await channel.call(MembersService.ping, {}, { deadlineMs: ASK_TIMEOUT_MS });
      return true;
    } catch {
      // Not there, or not over yet: it is asked again.
      return false;
    } finally {
      channel.close();
    }
  }
}
