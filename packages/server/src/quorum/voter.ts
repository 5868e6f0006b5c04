/** This node as a voter: what it tells the others of itself when it starts, and what it promises them. */
import { brokerId, logIndex, term as toTerm, uuidFromBytes } from '@relevo/base/ids';
import type { BrokerId, Uuid } from '@relevo/base/ids';
import type { Logger, Random } from '@relevo/base/ports';
import { QUORUM_DIRECTORY } from '@relevo/log/file-names';
import {
  encodeConfiguration,
  findMember,
  isReplica,
  makeConfiguration,
} from '@relevo/raft/configuration';
import type { Configuration, Member } from '@relevo/raft/configuration';
import { sameReplica } from '@relevo/raft/core';
import { UNPINNED } from '@relevo/raft/messages';
import type { Entry, ReplicaKey } from '@relevo/raft/messages';
import type { RaftNode } from '@relevo/raft/raft-node';
import type { HardState, Ready } from '@relevo/raft/ready';
import type { IntroducedVoter, VoterCondition } from './introductions.ts';
import { PeerMemory } from './peer-memory.ts';
import type { QuorumStorageDeps, StoredQuorum } from './quorum-storage.ts';
import { VoterDirectory } from './voter-directory.ts';
import type { OpenedVoter } from './voter-directory.ts';

export interface VoterOptions {
  readonly nodeId: BrokerId;
  readonly clusterId: string;
  readonly directoryId: Uuid;
  /** The data directory. */
  readonly directory: string;
  readonly voters: readonly { readonly id: number; readonly address: string }[];
  readonly bootstrap?: boolean;
}

export interface VoterDeps extends OpenedVoter {
  readonly logger: Logger;
  readonly directory: VoterDirectory;
  readonly memory: PeerMemory;
}

/** Opens what the voter of a data directory has kept; see `VoterDirectory.open` for what it rejects with. */
export async function openVoter(
  options: VoterOptions,
  deps: QuorumStorageDeps & { readonly random: Random },
): Promise<VoterDeps> {
  const { nodeId, clusterId, directoryId, directory: root, voters } = options;
  const directory = new VoterDirectory(
    {
      root,
      clusterId,
      nodeId,
      directoryId,
      newDirectoryId: () => uuidFromBytes(deps.random.bytes(16)),
      configured: voters.map(({ id, address }) => ({
        id: brokerId(id),
        directoryId: UNPINNED,
        address,
      })),
      acceptLoss: options.bootstrap ?? false,
    },
    deps,
  );
  const opened = await directory.open();
  const memory = new PeerMemory(`${root}/${QUORUM_DIRECTORY}`, deps);
  return { ...opened, logger: deps.logger, directory, memory };
}

export interface VoterEvents {
  /** Who the first members are is certain. */
  readonly onFounded: (members: Configuration) => void;
  /** A voter of this cluster has made itself known; not called for one of another history. */
  readonly onMet: (peer: ReplicaKey) => void;
  readonly onOlderCopy: (peer: BrokerId) => void;
}

export class Voter implements IntroducedVoter {
  readonly key: ReplicaKey;
  readonly #deps: VoterDeps;
  readonly #events: VoterEvents;
  #stored: StoredQuorum;
  #core: RaftNode | undefined;
  readonly #strangers = new Set<string>();

  constructor(nodeId: BrokerId, deps: VoterDeps, events: VoterEvents) {
    this.key = { id: nodeId, directoryId: deps.storage.identity.directoryId };
    this.#deps = deps;
    this.#events = events;
    this.#stored = deps.stored;
    if (this.condition() === 'started') deps.directory.note();
  }

  /** What the core is to start from. */
  get stored(): StoredQuorum {
    return this.#stored;
  }

  /** From here on the core knows best. */
  runs(core: RaftNode): void {
    this.#core = core;
  }

  /** Those that were agreed upon; nobody until then. */
  firstMembers(): Configuration {
    const { founding } = this.#deps.storage.identity;
    return makeConfiguration(founding?.agreed === true ? founding.members : []);
  }

  condition(): VoterCondition {
    const { hardState, snapshot, entries } = this.#stored;
    const hasVoted = this.#core === undefined ? hardState.term > 0 : this.#core.hasStarted;
    if (hasVoted || snapshot !== undefined || entries.length > 0) return 'started';
    return this.#deps.storage.identity.origin === 'rejoins' ? 'lost' : 'new';
  }

  history(): string {
    return this.#deps.storage.identity.history;
  }

  isMember(key: ReplicaKey): boolean {
    const member =
      this.#core === undefined ? undefined : findMember(this.#core.configuration, key.id);
    return member !== undefined && isReplica(member.member, key);
  }

  async bind(members: readonly Member[]): Promise<boolean> {
    const { storage, directory } = this.#deps;
    const { founding } = storage.identity;
    const hasUs = members.some((member) => sameReplica(member, this.key));
    if (this.condition() !== 'new' || !hasUs) return false;
    if (founding !== undefined && sameMembers(founding.members, members)) return true;
    if (founding?.agreed === true) return false;
    storage.changeIdentity({ founding: { members, agreed: false } });
    // A sole voter has nobody to whom this would be a promise.
    if (members.length > 1) {
      directory.note();
      await storage.writeIdentity();
    }
    // Meanwhile it may have voted, or have been bound to others.
    const bound = storage.identity.founding;
    return this.condition() === 'new' && bound !== undefined && sameMembers(bound.members, members);
  }

  founded(members: readonly Member[]): void {
    const { storage, logger } = this.#deps;
    const bound = storage.identity.founding;
    if (bound === undefined || !sameMembers(bound.members, members)) return;
    // Durable with the first term: until then nothing comes of it, and all may be asked again.
    storage.changeIdentity({ founding: { members, agreed: true }, history: historyOf(members) });
    logger.info('founded the quorum', { voters: members.map(({ id }) => id) });
    this.#events.onFounded(makeConfiguration(members));
  }

  met(peer: ReplicaKey, condition: VoterCondition, history: string): void {
    const { storage, logger } = this.#deps;
    const ours = this.history();
    if (condition === 'started' && history !== '' && history !== ours) {
      if (ours === '' && this.condition() !== 'started') {
        // It is taken in by these.
        storage.changeIdentity({ history });
      } else if (ours !== '') {
        const name = `${peer.id}/${peer.directoryId}`;
        if (this.#strangers.has(name)) return;
        this.#strangers.add(name);
        logger.error('a voter has a log that does not go back to the founding of this quorum', {
          peer: peer.id,
          hint: 'stop one of the two brokers, wipe its data directory, and start it again',
        });
        return;
      }
    }
    this.#events.onMet(peer);
  }

  laterThan(peer: ReplicaKey, incarnations: readonly string[]): string | undefined {
    return this.#deps.memory.laterThan(peer, incarnations);
  }

  isOlderCopy(peer: BrokerId): void {
    this.#events.onOlderCopy(peer);
  }

  /**
   * A person says so: this voter goes on alone, with the log that it has. The others come back as learners
   * with new ids.
   */
  async goOnAlone(address: string, history: Uuid): Promise<void> {
    const { storage, directory, logger } = this.#deps;
    const members = [{ ...this.key, address }];
    directory.note();
    if (this.condition() !== 'started') {
      const founding = { members, agreed: true };
      storage.changeIdentity({ founding, history: historyOf(members) });
      await storage.writeIdentity();
      return logger.warn('founded the quorum with this voter alone, as --bootstrap asks', {});
    }
    storage.changeIdentity({ history });
    const { hardState, entries, snapshot } = this.#stored;
    const last = entries.at(-1) ?? snapshot;
    const term = toTerm(hardState.term + 1);
    const entry: Entry = {
      index: logIndex((last?.index ?? 0) + 1),
      term,
      kind: 'configuration',
      data: encodeConfiguration(makeConfiguration(members)),
    };
    const state: HardState = { term, vote: this.key, commit: hardState.commit };
    await storage.write([{ ...NOTHING, hardState: state, entries: [entry] }]);
    this.#stored = { hardState: state, snapshot, entries: [...entries, entry] };
    logger.warn('this voter goes on alone, as --bootstrap asks', { lastIndex: entry.index });
  }
}

const NOTHING: Ready = {
  id: 0,
  hardState: undefined,
  snapshot: undefined,
  truncateFrom: undefined,
  entries: [],
  messages: [],
  messagesAfterPersist: [],
  committed: [],
  softState: undefined,
  readStates: [],
  droppedReads: [],
};

const sameMembers = (some: readonly ReplicaKey[], others: readonly ReplicaKey[]): boolean =>
  some.length === others.length &&
  some.every((one) => others.some((other) => sameReplica(one, other)));

/** A founding is known by the first of its directories: those are never used twice. */
const historyOf = (members: readonly Member[]): string =>
  members.toSorted((a, b) => a.id - b.id)[0]?.directoryId ?? '';
