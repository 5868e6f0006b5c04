/**
 * The configurations that the log holds. A replica always goes by the newest one in its log, committed
 * or not (thesis, 4.1), and falls back to the one before when the entry is truncated away.
 */
import { assert, defined } from '@relevo/base/assert';
import type { LogIndex } from '@relevo/base/ids';
import { decodeConfiguration, type Configuration } from './configuration.ts';
import type { Entry } from './messages.ts';

interface Version {
  /** Of its entry; the first version's is the snapshot's, or 0 for the bootstrap configuration. */
  readonly index: LogIndex;
  readonly configuration: Configuration;
}

export class ConfigurationHistory {
  /** In the order of their indexes, never empty. */
  #versions: Version[];

  constructor(index: LogIndex, configuration: Configuration) {
    this.#versions = [{ index, configuration }];
  }

  get current(): Configuration {
    return this.#newest().configuration;
  }

  /** Where the current configuration stands; it is pending while this is above the commit index. */
  get currentIndex(): LogIndex {
    return this.#newest().index;
  }

  /** The configuration in force after entry `index`. */
  at(index: LogIndex): Configuration {
    const version = this.#versions.findLast((candidate) => candidate.index <= index);
    return defined(version, `the configuration as of entry ${index}`).configuration;
  }

  append(entry: Entry): void {
    if (entry.kind !== 'configuration') return;
    assert(entry.index > this.currentIndex, 'configurations come in order', { index: entry.index });
    const configuration = decodeConfiguration(entry.data);
    this.#versions.push({ index: entry.index, configuration });
  }

  truncateFrom(index: LogIndex): void {
    const kept = this.#versions.filter((version) => version.index < index);
    assert(kept.length > 0, 'the first configuration is never truncated', { index });
    this.#versions = kept;
  }

  /** Forgets what only entries below `index` need. */
  compactTo(index: LogIndex): void {
    const first = this.#versions.findLastIndex((version) => version.index <= index);
    if (first > 0) this.#versions.splice(0, first);
  }

  reset(index: LogIndex, configuration: Configuration): void {
    this.#versions = [{ index, configuration }];
  }

  #newest(): Version {
    return defined(this.#versions.at(-1), 'the newest configuration');
  }
}
