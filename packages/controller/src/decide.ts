/**
 * `decide`: one command against one image gives records and an answer, or a refusal (a `RelevoError`).
 * It changes nothing and knows no time: all that is timed (sessions, hand-back) is worked out before, in
 * `sessions.ts` and `hand-back.ts`, and arrives here as a command.
 */
import { decideActivation } from './activation.ts';
import {
  decideFence,
  decideRegistration,
  decideShutdown,
  decideUnfence,
} from './broker-commands.ts';
import type { AnswerOf, ClusterDefaults, CommandKind, CommandOf, Decision } from './commands.ts';
import type { ClusterImage } from './image.ts';
import { decideElectPreferred, decideHandBack } from './leader-commands.ts';
import { decideAlterPartitions, decideReportReplicas } from './partition-commands.ts';
import { decideAllocateProducerIds } from './producer-id-commands.ts';
import {
  decideAlterTopicConfig,
  decideCreatePartitions,
  decideCreateTopic,
  decideDeleteTopic,
} from './topic-commands.ts';

type Deciders = {
  readonly [Kind in CommandKind]: (
    image: ClusterImage,
    command: CommandOf<Kind>,
    defaults: ClusterDefaults,
  ) => Decision<AnswerOf<Kind>>;
};

const DECIDERS: Deciders = {
  activate: decideActivation,
  registerBroker: decideRegistration,
  fenceBrokers: decideFence,
  unfenceBroker: decideUnfence,
  shutDownBroker: decideShutdown,
  createTopic: decideCreateTopic,
  deleteTopic: decideDeleteTopic,
  createPartitions: decideCreatePartitions,
  alterTopicConfig: decideAlterTopicConfig,
  alterPartitions: decideAlterPartitions,
  reportReplicas: decideReportReplicas,
  electPreferred: decideElectPreferred,
  handBack: decideHandBack,
  allocateProducerIds: decideAllocateProducerIds,
};

/** Throws a RelevoError where the command is refused. */
export function decide<Kind extends CommandKind>(
  image: ClusterImage,
  command: CommandOf<Kind> & { readonly kind: Kind },
  defaults: ClusterDefaults,
): Decision<AnswerOf<Kind>> {
  return DECIDERS[command.kind](image, command, defaults);
}
