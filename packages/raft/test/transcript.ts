/**
 * The language of the transcripts in `transcripts/*.txt`. A file is a list of blocks:
 *
 *     # why, in words
 *     command
 *     command
 *     ----
 *     what happened
 *
 * A new block needs no `----`: an empty line ends it. Output lines: `1 > 2  term 3  …` is a message as it arrives; what its receiver does with it stands
 * below, indented. `RELEVO_REWRITE=1` writes what happens now into the files: read the difference.
 *
 *     cluster N [learners=4,5] [unpinned] [stopped] [option=number …]
 *     stored N term=T log=T1,T2,… [commit=I]   what a stopped node has on its disk
 *     start N … | crash N … | wipe N | add N   (add: a new node with an empty disk)
 *     timeout N            its timer runs out, nobody else's
 *     elect N              timeout N, settle
 *     settle [N …]         everything on the way (among these) arrives, writes end; no time passes
 *     run MS               time passes for all
 *     deliver A>B [COUNT] | overtake A>B | repeat A>B | lose A>B | pending
 *                          (overtake: the last one first; repeat: the first one comes twice)
 *     cut A>B … | cut A-B … | isolate N | heal
 *     hold N | persist N [COUNT] | release N   its disk hangs; single writes end; it goes on
 *     propose N TEXT … | fill N BYTES COUNT | read N | transfer N [TO]
 *     change N add-learner|promote|demote|remove ID
 *     snapshot N           the state machine takes one, the log is compacted
 *     unreachable N PEER [refused]
 *     status | progress N | log [N …] | applied N | trace on|off
 */
import { brokerId, logIndex, term } from '@relevo/base/ids';
import type { MembershipChange } from '@relevo/raft/configuration';
import type { Entry } from '@relevo/raft/messages';
import type { RaftOptions } from '@relevo/raft/options';
import { describeConfiguration, describeEntry, describeMessage } from './describe.ts';
import { memberOf, directoryOf, RaftCluster } from './raft-cluster.ts';

export interface Block {
  readonly commands: readonly string[];
  /** Comments and blank lines before the commands, as they are. */
  readonly preamble: readonly string[];
  readonly expected: string;
}

export function parseTranscript(text: string): Block[] {
  const blocks: Block[] = [];
  const lines = [...text.split('\n'), ''];
  let preamble: string[] = [];
  let commands: string[] = [];
  let output: string[] | undefined;
  for (const line of lines) {
    if (line === '' && commands.length > 0) {
      blocks.push({ commands, preamble, expected: (output ?? []).join('\n') });
      [preamble, commands, output] = [[], [], undefined];
    } else if (output !== undefined) {
      output.push(line);
    } else if (line === '----') {
      output = [];
    } else if (line.startsWith('#')) {
      preamble.push(line);
    } else if (line !== '') {
      commands.push(line);
    } else if (preamble.length > 0) {
      preamble.push(line);
    }
  }
  return blocks;
}

export const printTranscript = (blocks: readonly Block[], outputs: readonly string[]): string =>
  blocks
    .map((block, at) => [...block.preamble, ...block.commands, '----', outputs[at], ''].join('\n'))
    .join('\n');

const items = (cluster: RaftCluster, from: number, to: number): RaftCluster['onTheWay'] =>
  cluster.onTheWay.filter(({ message }) => message.from.id === from && message.to.id === to);

export class Interpreter {
  #cluster: RaftCluster | undefined;
  #lines: string[] = [];
  #tracing = true;

  run(block: Block): string {
    this.#lines = [];
    for (const command of block.commands) {
      try {
        this.#execute(command);
      } catch (error) {
        throw new Error(`in "${command}"`, { cause: error });
      }
    }
    return this.#lines.length > 0 ? this.#lines.join('\n') : 'ok';
  }

  get #it(): RaftCluster {
    if (this.#cluster === undefined) throw new Error('begin with "cluster N"');
    return this.#cluster;
  }

  #say(line: string): void {
    this.#lines.push(line);
  }

  #execute(command: string): void {
    const [verb = '', ...words] = command.split(' ');
    const action = this.#actions[verb];
    if (action === undefined) throw new Error(`unknown command "${verb}"`);
    action(words);
    this.#cluster?.checker.checkLogMatching();
  }

  readonly #actions: Record<string, (words: string[]) => void> = {
    cluster: (words) => this.#begin(words),
    stored: (words) => this.#stored(words),
    start: (words) => this.#ids(words).forEach((id) => this.#it.start(id)),
    crash: (words) => this.#ids(words).forEach((id) => this.#it.crash(id)),
    wipe: (words) => this.#ids(words).forEach((id) => this.#it.wipe(id)),
    add: (words) => {
      for (const id of words.map(Number)) this.#it.addReplica(id);
      words.forEach((id) => this.#it.start(Number(id)));
    },
    timeout: ([id]) => this.#it.timeout(Number(id)),
    elect: ([id]) => {
      this.#it.timeout(Number(id));
      this.#it.settle();
    },
    settle: (words) => this.#it.settle(words.length > 0 ? new Set(words.map(Number)) : undefined),
    run: ([ms]) => void this.#it.run(Number(ms)),
    deliver: ([link, count]) => this.#deliver(link ?? '', Number(count ?? Infinity)),
    overtake: ([link]) => this.#deliverLast(link ?? ''),
    repeat: ([link]) => this.#repeat(link ?? ''),
    lose: ([link]) => this.#lose(link ?? ''),
    pending: () => this.#it.onTheWay.forEach(({ message }) => this.#say(describeMessage(message))),
    cut: (words) => words.forEach((word) => this.#cut(word)),
    isolate: (words) => words.forEach((id) => this.#isolate(Number(id))),
    heal: () => this.#it.heal(),
    hold: (words) => words.forEach((id) => (this.#it.replica(Number(id)).diskHolds = true)),
    persist: ([id, count]) => {
      for (let n = 0; n < Number(count ?? 1); n++) this.#it.persist(this.#it.replica(Number(id)));
    },
    release: (words) => words.forEach((id) => this.#release(Number(id))),
    propose: ([id, ...texts]) => this.#propose(Number(id), texts),
    fill: ([id, bytes, count]) =>
      this.#propose(Number(id), Array(Number(count)).fill('x'.repeat(Number(bytes)))),
    read: ([id]) => this.#read(Number(id)),
    transfer: ([id, to]) => this.#transfer(Number(id), to),
    change: ([id, kind, member]) => this.#change(Number(id), kind ?? '', Number(member)),
    snapshot: ([id]) => this.#say(`snapshot at ${this.#it.snapshot(Number(id))}`),
    unreachable: ([id, peer, refused]) => {
      const at = { refused: refused === 'refused' };
      this.#it.node(Number(id)).peerUnreachable(brokerId(Number(peer)), at, this.#it.nowMs);
      this.#it.pump(this.#it.replica(Number(id)));
    },
    status: () => this.#it.describe().forEach((line) => this.#say(line)),
    progress: ([id]) => this.#progress(Number(id)),
    log: (words) => this.#ids(words).forEach((id) => this.#log(id)),
    applied: (words) => this.#ids(words).forEach((id) => this.#applied(id)),
    trace: ([word]) => void (this.#tracing = word === 'on'),
  };

  #ids(words: readonly string[]): number[] {
    if (words.length === 0 || words[0] === 'all') return [...this.#it.replicas.keys()];
    return words.map(Number);
  }

  #begin(words: readonly string[]): void {
    const raft: Record<string, number> = { retainedEntries: 0 };
    const range = (count: number): number[] => Array.from({ length: count }, (_, at) => at + 1);
    const flags = new Set<string>();
    let learners: number[] = [];
    for (const word of words.slice(1)) {
      const [key = '', value] = word.split('=');
      if (value === undefined) flags.add(key);
      else if (key === 'learners') learners = value.split(',').map(Number);
      else raft[key] = Number(value);
    }
    this.#cluster = new RaftCluster({
      voters: range(Number(words[0])),
      learners,
      pinned: !flags.has('unpinned'),
      raft: raft as Partial<RaftOptions>,
      trace: (line) => {
        if (this.#tracing) this.#say(line);
      },
    });
    const tracing = this.#tracing;
    this.#tracing = false;
    if (!flags.has('stopped')) this.#cluster.startAll();
    this.#tracing = tracing;
  }

  #stored([id, ...words]: readonly string[]): void {
    const values = new Map(words.map((word) => word.split('=') as [string, string]));
    const { stored } = this.#it.replica(Number(id));
    const terms = (values.get('log') ?? '').split(',').filter((text) => text !== '');
    stored.entries = terms.map((text, at): Entry => {
      const data = new TextEncoder().encode(`t${text}`);
      return { index: logIndex(at + 1), term: term(Number(text)), kind: 'data', data };
    });
    stored.hardState = {
      term: term(Number(values.get('term') ?? terms.at(-1) ?? 0)),
      vote: undefined,
      commit: logIndex(Number(values.get('commit') ?? 0)),
    };
  }

  #between(link: string): [number, number] {
    const [from, to] = link.split('>').map(Number);
    if (from === undefined || to === undefined) throw new Error(`"${link}" is not like 1>2`);
    return [from, to];
  }

  #deliver(link: string, count: number): void {
    const [from, to] = this.#between(link);
    items(this.#it, from, to)
      .slice(0, count)
      .forEach((item) => this.#it.deliver(item));
  }

  #deliverLast(link: string): void {
    const item = items(this.#it, ...this.#between(link)).at(-1);
    if (item !== undefined) this.#it.deliver(item);
  }

  #repeat(link: string): void {
    const [item] = items(this.#it, ...this.#between(link));
    if (item !== undefined) this.#it.onTheWay.push({ ...item });
  }

  #lose(link: string): void {
    for (const item of items(this.#it, ...this.#between(link))) {
      const { message } = item;
      this.#it.onTheWay.splice(this.#it.onTheWay.indexOf(item), 1);
      if (this.#tracing) this.#say(`${describeMessage(message)} · lost`);
    }
  }

  #cut(word: string): void {
    if (word.includes('>')) {
      this.#it.cut(...this.#between(word));
      return;
    }
    const [a = 0, b = 0] = word.split('-').map(Number);
    this.#it.cut(a, b);
    this.#it.cut(b, a);
  }

  #isolate(id: number): void {
    for (const other of this.#it.replicas.keys()) {
      if (other !== id) this.#cut(`${id}-${other}`);
    }
  }

  #release(id: number): void {
    const replica = this.#it.replica(id);
    replica.diskHolds = false;
    while (replica.writes.length > 0) this.#it.persist(replica);
  }

  #propose(id: number, texts: readonly string[]): void {
    const result = this.#it.propose(id, texts);
    if (result.ok) return;
    const leader = result.reason === 'notLeader' ? `, leader ${result.leaderId ?? 'unknown'}` : '';
    this.#say(`refused: ${result.reason}${leader}`);
  }

  #read(id: number): void {
    const context = this.#it.read(id);
    this.#say(context === undefined ? 'refused' : `read #${context}`);
  }

  #transfer(id: number, to: string | undefined): void {
    const target = to === undefined ? undefined : brokerId(Number(to));
    const result = this.#it.node(id).transferLeadership(target, this.#it.nowMs);
    if (!result.ok) this.#say('problem' in result ? `refused: ${result.problem}` : 'not leader');
    this.#it.pump(this.#it.replica(id));
  }

  #change(id: number, kind: string, member: number): void {
    const result = this.#it.node(id).changeMembership(this.#changeOf(kind, member), this.#it.nowMs);
    if (!result.ok) {
      this.#say('problem' in result ? `${result.reason}: ${result.problem}` : 'not leader');
    }
    this.#it.pump(this.#it.replica(id));
  }

  #changeOf(kind: string, member: number): MembershipChange {
    const id = brokerId(member);
    switch (kind) {
      case 'add-learner': {
        const generation = this.#it.replicas.get(member)?.generation ?? 1;
        const directoryId = directoryOf(member, generation);
        return { kind: 'addLearner', member: { ...memberOf(member), directoryId } };
      }
      case 'promote':
      case 'demote':
      case 'remove':
        return { kind, id };
      default:
        throw new Error(`no change "${kind}"`);
    }
  }

  #progress(id: number): void {
    for (const peer of this.#it.node(id).status().peers) {
      const notes = [
        peer.voter ? '' : ' learner',
        peer.inflight > 0 ? ` ${peer.inflight} in flight` : '',
        peer.paused ? ' paused' : '',
        peer.responsive ? '' : ' silent',
      ].join('');
      this.#say(
        `${peer.id}: ${peer.state} match ${peer.matchIndex} next ${peer.nextIndex}${notes}`,
      );
    }
  }

  #log(id: number): void {
    if (this.#it.replica(id).node === undefined) return;
    const status = this.#it.node(id).status();
    const entries =
      status.lastIndex > status.baseIndex
        ? this.#it.node(id).entries(logIndex(status.baseIndex + 1), status.lastIndex)
        : [];
    const members = describeConfiguration(status.configuration);
    const durable =
      status.persistedIndex < status.lastIndex ? `, on disk to ${status.persistedIndex}` : '';
    const texts = entries.map(describeEntry).join(' ');
    this.#say(`${id} after ${status.baseIndex}: ${texts} | ${members}${durable}`);
  }

  #applied(id: number): void {
    const texts = this.#it.replica(id).applied.map(({ index, text }) => `${index}"${text}"`);
    this.#say(`${id} has applied ${texts.join(' ')}`);
  }
}
