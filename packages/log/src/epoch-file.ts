/**
 * Keeps `leader-epoch-checkpoint` up with the epochs. Segments before the one with the last record below
 * the recovery point are not read after a crash, so before that is raised the file must know their epochs.
 * While a log has one segment the file may be missing, or lag behind.
 */
import type { Disk } from '@relevo/base/ports';
import { replaceFileDurably } from './checkpoint-file.ts';
import { EPOCH_FILE } from './file-names.ts';
import { GroupCommit } from './group-commit.ts';
import type { LeaderEpochCache } from './leader-epoch-cache.ts';
import { isDiskError, noRoomFor } from './log-error.ts';
import type { LogHealth } from './log-health.ts';

export class EpochFile {
  readonly #disk: Disk;
  readonly #path: string;
  readonly #epochs: LeaderEpochCache;
  readonly #health: LogHealth;
  readonly #commit: GroupCommit = new GroupCommit(() => this.#write());
  /** That the file has: at first, that of the epochs as they came from it. */
  #version = 0;

  constructor(disk: Disk, directory: string, epochs: LeaderEpochCache, health: LogHealth) {
    this.#disk = disk;
    this.#path = `${directory}/${EPOCH_FILE}`;
    this.#epochs = epochs;
    this.#health = health;
  }

  /**
   * Resolves when the file durably has all epochs of now. Rejects with a LogError: `diskFull`, and may be
   * asked for again; else the log is offline.
   */
  async write(): Promise<void> {
    if (this.#epochs.version !== this.#version) await this.#commit.request();
  }

  async #write(): Promise<void> {
    const { version } = this.#epochs;
    try {
      await replaceFileDurably(this.#disk, this.#path, this.#epochs.encoded());
    } catch (error) {
      if (isDiskError(error, 'FULL')) throw noRoomFor(this.#path, error);
      throw this.#health.fail('the leader epochs could not be written', error);
    }
    this.#version = version;
  }
}
