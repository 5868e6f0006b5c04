/**
 * What the brokers of a hostile run log: how often each warning and error came, and whether they blame whom
 * they should. Only a broker whose disk was hurt may call a log of its own damaged or offline, and of a
 * replica it says so once, until the log is copied anew or the broker starts again.
 */
import type { LogLine } from '../world.ts';

/** A broker logs this line about a replica of its own. */
const OFFLINE = 'a replica is offline';

/** Accusations of oneself. */
const OWN_DAMAGE: ReadonlySet<string> = new Set([
  OFFLINE,
  'a follower was sent damaged bytes: the log here is damaged',
  'this voter of the quorum has lost what it knew and votes no more',
  'the disk does not sync: this broker is fenced until it is restarted',
]);

/** Worth counting, though they are no warnings. */
const COUNTED_INFOS: ReadonlySet<string> = new Set([
  'became the active controller',
  'truncated to follow the leader',
  'deleted old segments',
]);

export class HostileLines {
  readonly counts: Map<string, number> = new Map();
  readonly #fail: (text: string) => void;
  readonly #hurt = new Set<string>();
  /** Directories that a person was told of: they are kept. `broker-1 orders-0`. */
  readonly kept: Set<string> = new Set();
  /** Replicas that are told to be offline, by broker. */
  readonly #offline = new Map<string, Set<string>>();

  constructor(fail: (text: string) => void) {
    this.#fail = fail;
  }

  hurt(host: string): void {
    this.#hurt.add(host);
  }

  healed(): void {
    this.#hurt.clear();
  }

  booted(host: string): void {
    this.#offline.delete(host);
  }

  add({ process, level, event, fields }: LogLine): void {
    if (!process.startsWith('broker-')) return;
    if (level === 'warn' || level === 'error' || COUNTED_INFOS.has(event)) {
      this.counts.set(event, (this.counts.get(event) ?? 0) + 1);
    }
    if (OWN_DAMAGE.has(event) && !this.#hurt.has(process)) {
      const told = JSON.stringify(fields);
      this.#fail(`${process}, which nobody hurt, says: ${event} ${told}`);
    }
    const { partition, from, to, partitions, names } = fields;
    if (event.startsWith('stray partition directories') && Array.isArray(names)) {
      for (const each of names) this.kept.add(`${process} ${String(each)}`);
    }
    if (event === 'a partition directory was set aside' && typeof to === 'string') {
      this.kept.add(`${process} ${to.slice(to.lastIndexOf('/') + 1)}`);
    }
    const name = typeof partition === 'string' ? partition : typeof from === 'string' ? from : '';
    const known = this.#offline.get(process) ?? new Set<string>();
    this.#offline.set(process, known);
    if (event === OFFLINE) {
      if (known.has(name)) this.#fail(`${process} says twice that ${name} is offline`);
      known.add(name);
    } else if (event === 'replicas took up their parts') {
      // A log that had no directory yet is begun anew without one that is set aside. Of many no names are told.
      if (Array.isArray(partitions)) for (const each of partitions) known.delete(String(each));
      else known.clear();
    } else if (event === 'a partition directory was set aside') {
      for (const each of known) if (name.endsWith(`/${each}`)) known.delete(each);
    }
  }
}

/** Without what differs from one run to the next. */
export const shortened = (text: string): string =>
  text
    .replace(/[\w./-]*\/[\w./-]+/g, 'PATH')
    .replace(/\d+/g, 'N')
    .slice(0, 100);
