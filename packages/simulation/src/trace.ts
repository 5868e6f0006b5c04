/**
 * What a run did, as a hash (two runs of one seed must give the same) and as its last lines for people.
 */

/** The hash of a text, computed once: kinds and targets of events are few and come again and again. */
const TEXT_HASHES = new Map<string, number>();
const TEXT_HASHES_MAX = 10_000;

function textHash(text: string): number {
  const known = TEXT_HASHES.get(text);
  if (known !== undefined) return known;
  const hash = hashOfText(text);
  if (TEXT_HASHES.size >= TEXT_HASHES_MAX) TEXT_HASHES.clear();
  TEXT_HASHES.set(text, hash);
  return hash;
}

function hashOfText(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return hash;
}

/** A 32-bit FNV-1a hash of bytes, of the two ends only where they are many. */
export function bytesHash(bytes: Uint8Array): number {
  let hash = 0x811c9dc5 ^ bytes.length;
  const head = Math.min(bytes.length, 48);
  for (let i = 0; i < head; i++) hash = Math.imul(hash ^ (bytes[i] ?? 0), 0x01000193);
  const tail = Math.max(head, bytes.length - 16);
  for (let i = tail; i < bytes.length; i++) hash = Math.imul(hash ^ (bytes[i] ?? 0), 0x01000193);
  return hash;
}

export interface TraceLine {
  readonly timeUs: number;
  readonly kind: string;
  readonly target: string;
  readonly detail: string | number;
}

/** Lines kept for the transcript of a failure. */
export const TRANSCRIPT_LINES_MAX = 4_096;

export class Trace {
  #high = 0x9e3779b9 | 0;
  #low = 0x85ebca6b | 0;
  #events = 0;
  readonly #lines: (TraceLine | undefined)[] = [];
  #next = 0;

  /** Events hashed so far. */
  get events(): number {
    return this.#events;
  }

  /** 16 hexadecimal digits over all events so far, in their order. */
  get hash(): string {
    const hex = (word: number): string => (word >>> 0).toString(16).padStart(8, '0');
    return hex(this.#high) + hex(this.#low);
  }

  #mix(word: number): void {
    this.#low = Math.imul(this.#low ^ word, 0x01000193);
    this.#high = Math.imul((this.#high ^ this.#low) + 0x6d2b79f5, 0x2c1b3c6d);
    this.#high ^= this.#high >>> 15;
    this.#low ^= this.#high >>> 7;
  }

  /** Adds an event to the hash. `detail` is a number that tells its content (a length, a hash). */
  event(timeUs: number, kind: string, target: string, detail: number): void {
    this.#events++;
    this.#mix(timeUs | 0);
    this.#mix(Math.floor(timeUs / 2 ** 32));
    this.#mix(textHash(kind));
    this.#mix(textHash(target));
    this.#mix(detail | 0);
  }

  /** Adds a line to the transcript: faults, log lines, what the workload saw. */
  note(timeUs: number, kind: string, target: string, detail: string): void {
    this.event(timeUs, kind, target, hashOfText(detail));
    this.#lines[this.#next] = { timeUs, kind, target, detail };
    this.#next = (this.#next + 1) % TRANSCRIPT_LINES_MAX;
  }

  /** The last `count` lines, oldest first. */
  transcript(count: number = TRANSCRIPT_LINES_MAX): string[] {
    const lines: string[] = [];
    for (let i = 0; i < TRANSCRIPT_LINES_MAX; i++) {
      const line = this.#lines[(this.#next + i) % TRANSCRIPT_LINES_MAX];
      if (line === undefined) continue;
      const time = (line.timeUs / 1000).toFixed(3).padStart(11);
      lines.push(`${time} ms  ${line.target.padEnd(12)} ${line.kind.padEnd(8)} ${line.detail}`);
    }
    return lines.slice(-count);
  }
}
