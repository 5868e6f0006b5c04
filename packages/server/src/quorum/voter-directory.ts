/**
 * The directory of a voter over its life. A voter's identity lies in its hard state, beside its log: whoever
 * loses the log loses the identity with it, and cannot vote as the one that knew more (K5, L6).
 *
 *     found in DATA                     becomes
 *     nothing                           a new voter, under the data directory's id
 *     DATA/quorum, whole                the voter that it was
 *     DATA/quorum, damaged              set aside as DATA/quorum.damaged; a voter with a new id that rejoins
 *     DATA/quorum-voter alone           the log was lost, or moved away: likewise
 *
 * `quorum-voter` is written before the voter's first promise, so that a lost directory is not taken for one
 * that never was. One that rejoins founds no cluster: the leader takes the voter that it was out of the
 * members and lets it in anew, as a learner first. What was set aside goes once the voter votes again. Where
 * there is but one voter nobody could let it in, and it does not start.
 */
import { utf8Encode } from '@relevo/base/bytes';
import { messageOf } from '@relevo/base/errors';
import { isMutated } from '@relevo/base/mutations';
import type { BrokerId, Uuid } from '@relevo/base/ids';
import { replaceFileNow } from '@relevo/log/checkpoint-file';
import { QUORUM_DIRECTORY } from '@relevo/log/file-names';
import { LogError } from '@relevo/log/log-error';
import type { Member } from '@relevo/raft/configuration';
import { STATE_FILE, damaged } from './quorum-files.ts';
import type { VoterIdentity } from './quorum-files.ts';
import { QuorumStorage } from './quorum-storage.ts';
import type { QuorumStorageDeps, StoredQuorum } from './quorum-storage.ts';

const VOTER_FILE = 'quorum-voter';
const SET_ASIDE = `${QUORUM_DIRECTORY}.damaged`;

export interface VoterDirectoryOptions {
  /** The data directory, without a trailing slash. */
  readonly root: string;
  readonly clusterId: string;
  readonly nodeId: BrokerId;
  /** Of the data directory: a new voter takes it. */
  readonly directoryId: Uuid;
  readonly newDirectoryId: () => Uuid;
  /** As the configuration has the first members. */
  readonly configured: readonly Member[];
  /** Where there is but one voter: what can be read of a damaged log is taken. */
  readonly acceptLoss: boolean;
}

export interface OpenedVoter {
  readonly storage: QuorumStorage;
  readonly stored: StoredQuorum;
}

export class VoterDirectory {
  readonly #options: VoterDirectoryOptions;
  readonly #deps: QuorumStorageDeps;
  #isNoted: boolean;

  constructor(options: VoterDirectoryOptions, deps: QuorumStorageDeps) {
    this.#options = options;
    this.#deps = deps;
    this.#isNoted = deps.disk.exists(this.#notePath);
  }

  /**
   * Opens what is there. Rejects with a LogError: `corrupt` where a sole voter is damaged, `foreign` for
   * another node's directory, `offline` or `diskFull` where the disk fails.
   */
  async open(): Promise<OpenedVoter> {
    try {
      this.#checkThere();
      return await this.#open({ rejoins: false });
    } catch (error) {
      if (!(error instanceof LogError) || error.kind !== 'corrupt') throw error;
      return this.#isSole ? this.#openSole(error) : this.#rejoin(error);
    }
  }

  #checkThere(): void {
    const { disk } = this.#deps;
    if (!this.#isNoted || disk.exists(`${this.#directory}/${STATE_FILE}`)) return;
    if (isMutated('voter-keeps-identity-without-log')) return;
    throw damaged(this.#directory, 'a voter lived here, and its files are gone');
  }

  #rejoin(error: LogError): Promise<OpenedVoter> {
    const setAside = this.#setAside();
    this.#deps.logger.error('this voter of the quorum has lost what it knew and votes no more', {
      reason: messageOf(error),
      setAside,
      next: 'it joins anew under another id; a leader of the other voters fills its log by itself',
    });
    return this.#open({ rejoins: true });
  }

  async #openSole(error: LogError): Promise<OpenedVoter> {
    if (!this.#options.acceptLoss) {
      throw new LogError(
        'corrupt',
        `${messageOf(error)}. No other voter has a copy: put the data directory back as it was, or ` +
          'start this broker once with --bootstrap to go on with what can be read',
        { cause: error },
      );
    }
    this.#deps.logger.warn('a loss in the log of the quorum is accepted', {
      reason: messageOf(error),
    });
    try {
      return await this.#open({ rejoins: false, acceptLoss: true });
    } catch (again) {
      if (!(again instanceof LogError) || again.kind !== 'corrupt') throw again;
      const setAside = this.#setAside();
      this.#deps.logger.warn('nothing of it can be read: the quorum begins anew', { setAside });
      return this.#open({ rejoins: false });
    }
  }

  /** Gives the directory another name, durably; undefined where there is none. */
  #setAside(): string | undefined {
    const { disk } = this.#deps;
    const { root } = this.#options;
    if (!disk.exists(this.#directory)) return undefined;
    const taken = new Set(disk.list(root).map(({ name }) => name));
    let name = SET_ASIDE;
    for (let n = 2; taken.has(name); n++) name = `${SET_ASIDE}.${n}`;
    disk.rename(this.#directory, `${root}/${name}`);
    disk.syncDirectoryNow(root);
    return `${root}/${name}`;
  }

  /** Durable when it returns: from here on an empty directory is a lost one. */
  note(): void {
    if (this.#isNoted) return;
    const text = `Here lives a voter; without ${QUORUM_DIRECTORY}/ its log is lost.\n`;
    replaceFileNow(this.#deps.disk, this.#notePath, utf8Encode(text));
    this.#isNoted = true;
  }

  /** The voter votes again: what was set aside is not needed any more. */
  forgetSetAside(): void {
    const { disk, logger } = this.#deps;
    const { root } = this.#options;
    for (const { name, directory } of disk.list(root)) {
      if (!directory || !name.startsWith(SET_ASIDE)) continue;
      disk.removeTree(`${root}/${name}`);
      logger.info('removed the damaged log of the voter that this node was', { name });
    }
  }

  #open(how: { readonly rejoins: boolean; readonly acceptLoss?: boolean }): Promise<OpenedVoter> {
    const { clusterId, nodeId, configured, directoryId, newDirectoryId } = this.#options;
    const { rejoins, acceptLoss = false } = how;
    const newIdentity = (): VoterIdentity => ({
      directoryId: rejoins ? newDirectoryId() : directoryId,
      origin: rejoins ? 'rejoins' : 'new',
      history: '',
      founding: undefined,
    });
    const directory = this.#directory;
    const whose = { clusterId, nodeId, directory, newIdentity, configured, acceptLoss };
    return QuorumStorage.open({ ...whose, beforePromise: () => this.note() }, this.#deps);
  }

  get #directory(): string {
    const name = isMutated('quorum-among-partitions') ? '__cluster_metadata-0' : QUORUM_DIRECTORY;
    return `${this.#options.root}/${name}`;
  }

  get #isSole(): boolean {
    return this.#options.configured.length === 1;
  }

  get #notePath(): string {
    return `${this.#options.root}/${VOTER_FILE}`;
  }
}
