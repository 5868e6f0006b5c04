/** What the calls of the admin take, checked: a name that is not known, or a value of another kind. */
import type {
  AdminCallOptions,
  ConfigChange,
  ElectionRequest,
  NewTopic,
  OffsetsQuery,
  TopicConfig,
} from './admin.ts';
import { ClientError } from './errors.ts';
import {
  checkMethods,
  checkNames,
  flag,
  invalid,
  list,
  text,
  wholeWithin,
  within,
} from './options.ts';
import type { NamesOf } from './options.ts';

const DAY_MS = 86_400_000;
const INT32_MIN = -(2 ** 31);
const INT32_MAX = 2 ** 31 - 1;

const CALL: NamesOf<AdminCallOptions> = { timeoutMs: true, signal: true };
const NEW_TOPIC: NamesOf<NewTopic> = {
  topic: true,
  partitions: true,
  replicationFactor: true,
  config: true,
  assignment: true,
  validateOnly: true,
  ...CALL,
};
const CHANGE: NamesOf<ConfigChange> = { topic: true, set: true, unset: true, ...CALL };
const OFFSETS: NamesOf<OffsetsQuery> = { topic: true, partitions: true, at: true, ...CALL };
const ELECTION: NamesOf<ElectionRequest> = { topic: true, partitions: true, ...CALL };

export function checkCall(what: string, options: AdminCallOptions): void {
  checkNames(what, options, CALL);
  checkCallValues(options);
}

export function checkNewTopic(options: NewTopic): void {
  checkNames('new topic', options, NEW_TOPIC);
  checkCallValues(options);
  const { topic, partitions = -1, replicationFactor = -1, validateOnly = false } = options;
  checkTopic(topic);
  // Of numbers the cluster says itself which are possible.
  wholeWithin('partitions', partitions, INT32_MIN, INT32_MAX);
  wholeWithin('replicationFactor', replicationFactor, INT32_MIN, INT32_MAX);
  flag('validateOnly', validateOnly);
  checkConfig('config', options.config);
  for (const replicas of list('assignment', options.assignment ?? [])) {
    checkNumbers('the replicas of a partition', replicas);
  }
}

export function checkConfigChange(options: ConfigChange): void {
  checkNames('change of settings', options, CHANGE);
  checkCallValues(options);
  checkTopic(options.topic);
  checkConfig('set', options.set);
  for (const name of list('unset', options.unset ?? [])) text('a setting', name);
}

export function checkOffsetsQuery(options: OffsetsQuery): void {
  checkNames('query for offsets', options, OFFSETS);
  checkCallValues(options);
  checkTopic(options.topic);
  checkNumbers('partitions', options.partitions ?? []);
}

export function checkElection(options: ElectionRequest): void {
  checkNames('request for elections', options, ELECTION);
  checkCallValues(options);
  if (options.topic !== undefined) checkTopic(options.topic);
  checkNumbers('partitions', options.partitions ?? []);
  if (options.topic !== undefined || options.partitions === undefined) return;
  throw new ClientError('INVALID_ARGUMENT', 'partitions need the topic that they are of');
}

/** Which names are legal the cluster says itself. */
export function checkTopic(topic: string): void {
  if (typeof topic !== 'string') throw invalid('topic', 'a name', topic);
}

/** How many partitions a topic is to have. */
export const checkTotal = (total: number): number =>
  wholeWithin('total', total, INT32_MIN, INT32_MAX);

function checkCallValues({ timeoutMs, signal }: AdminCallOptions): void {
  if (timeoutMs !== undefined) within('timeoutMs', timeoutMs, 1, DAY_MS);
  checkMethods('signal', signal, ['addEventListener', 'removeEventListener']);
}

function checkNumbers(name: string, numbers: readonly number[]): void {
  for (const number of list(name, numbers)) wholeWithin(`one of ${name}`, number, 0, INT32_MAX);
}

function checkConfig(name: string, config: TopicConfig | undefined): void {
  if (config === undefined) return;
  // A Map has no names of its own: what is in it would go unnoticed.
  if (Object.prototype.toString.call(config) !== '[object Object]') {
    throw invalid(name, 'an object of settings by name', config);
  }
  for (const [setting, value] of Object.entries(config)) {
    if (['string', 'number', 'boolean'].includes(typeof value)) continue;
    throw invalid(`${name}["${setting}"]`, 'text, a number or a boolean', value);
  }
}
