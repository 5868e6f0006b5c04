/**
 * The offset look-ups of all plain consumers of this broker, a few requests for each leader. What is asked
 * for within a moment goes in one request, and the same question goes once, however many ask it.
 */
import { messageOf } from '@relevo/base/errors';
import { RpcError } from '@relevo/base/ports';
import type { Channel, Timers } from '@relevo/base/ports';
import {
  FetchService,
  listOffsetsPartition,
  listOffsetsRequest,
  type ListedOffset,
} from '@relevo/rpc/gen/client/fetch';

/** Look-ups that come within this time go in one request, ms. */
const GATHER_MS = 1;
/** Requests under way to one leader; what comes meanwhile waits for one of them to be answered. */
const REQUESTS_MAX = 2;
/** Look-ups in one request. */
const LOOK_UPS_MAX = 1_000;
const DEADLINE_MS = 5_000;

export interface OffsetLookUp {
  readonly topicId: string;
  readonly partition: number;
  /** -2: earliest; -1: latest; else ms since 1970. */
  readonly timestampMs: number;
}

interface Question {
  readonly at: OffsetLookUp;
  readonly answer: Promise<ListedOffset>;
  readonly resolve: (answer: ListedOffset) => void;
  readonly reject: (error: RpcError) => void;
}

interface Lane {
  readonly address: string;
  /** By what is asked. A question that is under way is not joined: "latest" may have moved since. */
  readonly queued: Map<string, Question>;
  underWay: number;
  scheduled: boolean;
}

export interface LeaderOffsetsDeps {
  readonly timers: Timers;
  /** The connection to the broker at an address; throws an RpcError when this broker stops. */
  readonly channel: (address: string) => Channel;
}

export class LeaderOffsets {
  readonly #deps: LeaderOffsetsDeps;
  readonly #lanes = new Map<string, Lane>();

  constructor(deps: LeaderOffsetsDeps) {
    this.#deps = deps;
  }

  /** Asks the leader at `address`. Rejects with an RpcError when it does not answer. */
  lookUp(address: string, at: OffsetLookUp): Promise<ListedOffset> {
    let lane = this.#lanes.get(address);
    if (lane === undefined) {
      lane = { address, queued: new Map(), underWay: 0, scheduled: false };
      this.#lanes.set(address, lane);
    }
    const key = `${nameOf(at)}/${at.timestampMs}`;
    let question = lane.queued.get(key);
    if (question === undefined) {
      question = ask(at);
      lane.queued.set(key, question);
      this.#schedule(lane);
    }
    return question.answer;
  }

  #schedule(lane: Lane): void {
    if (lane.scheduled || lane.underWay >= REQUESTS_MAX) return;
    lane.scheduled = true;
    this.#deps.timers.after(GATHER_MS, () => {
      lane.scheduled = false;
      this.#send(lane);
    });
  }

  #send(lane: Lane): void {
    const questions = takeQuestions(lane);
    if (questions.size === 0) {
      if (lane.underWay === 0) this.#lanes.delete(lane.address);
      return;
    }
    lane.underWay += 1;
    void this.#ask(lane.address, questions).finally(() => {
      lane.underWay -= 1;
      this.#schedule(lane);
    });
    if (lane.queued.size > 0) this.#schedule(lane);
  }

  async #ask(address: string, questions: ReadonlyMap<string, Question>): Promise<void> {
    const partitions = [...questions.values()].map(({ at }) =>
      listOffsetsPartition({ ...at, leaderEpoch: -1 }),
    );
    try {
      const response = await this.#deps
        .channel(address)
        .call(FetchService.listOffsets, listOffsetsRequest({ partitions }), {
          deadlineMs: DEADLINE_MS,
        });
      for (const answer of response.partitions) questions.get(nameOf(answer))?.resolve(answer);
      failAll(questions, new RpcError('UNAVAILABLE', `${address} left out this partition`));
    } catch (error) {
      failAll(
        questions,
        error instanceof RpcError ? error : new RpcError('INTERNAL', messageOf(error)),
      );
    }
  }
}

/** Those that are answered already stay so. */
function failAll(questions: ReadonlyMap<string, Question>, error: RpcError): void {
  for (const { reject } of questions.values()) reject(error);
}

function ask(at: OffsetLookUp): Question {
  let resolve: Question['resolve'] = () => undefined;
  let reject: Question['reject'] = () => undefined;
  const answer = new Promise<ListedOffset>((onAnswer, onError) => {
    resolve = onAnswer;
    reject = onError;
  });
  return { at, answer, resolve, reject };
}

/** Takes questions off the queue for one request, by partition: an answer names no question. */
function takeQuestions(lane: Lane): Map<string, Question> {
  const taken = new Map<string, Question>();
  for (const [key, question] of lane.queued) {
    if (taken.size >= LOOK_UPS_MAX) break;
    const name = nameOf(question.at);
    if (taken.has(name)) continue;
    lane.queued.delete(key);
    taken.set(name, question);
  }
  return taken;
}

const nameOf = (at: { readonly topicId: string; readonly partition: number }): string =>
  `${at.topicId}/${at.partition}`;
