/**
 * What a record may hold, whoever wrote it. Asked before a record is proposed, of each entry that another
 * controller sends, and at the start of those that are stored: what the first two let through the third
 * takes. The bounds are wide; what a command may ask for is checked where it is decided.
 */
import { RelevoError } from '@relevo/base/errors';
import type { BrokerId } from '@relevo/base/ids';
import { DELETED_TOPICS_MAX } from './deleted-topics.ts';
import type { BrokerRegistrationRecord, MetadataRecord } from './records.ts';
import { checkTopicName } from './topic-commands.ts';

/** Ids, names and addresses. */
const TEXT_MAX = 512;
const VALUE_MAX = 8192;
const LISTENERS_MAX = 64;
const REPLICAS_MAX = 10_000;
const PARTITIONS_MAX = 1_000_000;
const ADDRESS = /^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]{1,255}):\d{1,5}$/;
/** Counters have room to grow by any batch. */
const COUNTER_MAX = Number.MAX_SAFE_INTEGER - 2 ** 32;

/** Undefined: nothing is wrong with it by itself. */
export function flawOfRecord(record: MetadataRecord): string | undefined {
  switch (record.kind) {
    case 'clusterIdentity':
      return flawOfText('the cluster id', record.clusterId, 1);
    case 'brokerEpochs':
    case 'producerIds':
      return record.next >= 0 && record.next <= COUNTER_MAX
        ? undefined
        : `the counter cannot be ${record.next}`;
    case 'brokerRegistration':
      return flawOfEpoch(record.brokerId, record.brokerEpoch) ?? flawOfRegistration(record);
    case 'brokerState':
      return flawOfEpoch(record.brokerId, record.brokerEpoch);
    case 'topicCreation':
      return flawOfTopicName(record.name);
    case 'topicRemoval':
      return undefined;
    case 'deletedTopics':
      return record.topicIds.length > DELETED_TOPICS_MAX
        ? `it names ${record.topicIds.length} deleted topics, above ${DELETED_TOPICS_MAX}`
        : undefined;
    case 'topicSetting':
      return (
        flawOfText('the setting', record.name, 1) ??
        flawOfText('its value', record.value ?? '', 0, VALUE_MAX)
      );
    case 'partitionCreation':
      return (
        flawOfPartition(record.partition) ??
        flawOfMembers(record.replicas, 1) ??
        flawOfMembers(record.isr, 0) ??
        flawOfMembers(record.elr, 0) ??
        flawOfMembers(record.offline, 0) ??
        (record.leaderEpoch < 0 || record.partitionEpoch < 0 ? 'an epoch is negative' : undefined)
      );
    case 'partitionChange':
      return (
        flawOfPartition(record.partition) ??
        flawOfMembers(record.isr ?? [], 0) ??
        flawOfMembers(record.elr ?? [], 0) ??
        flawOfMembers(record.offline ?? [], 0)
      );
  }
}

/** What a broker may say of itself. */
export function flawOfRegistration(
  broker: Pick<
    BrokerRegistrationRecord,
    'incarnationId' | 'directoryId' | 'clientAddress' | 'peerAddress' | 'rack' | 'listeners'
  >,
): string | undefined {
  if (broker.listeners.length > LISTENERS_MAX) {
    return `it has ${broker.listeners.length} listeners, above ${LISTENERS_MAX}`;
  }
  const names = broker.listeners.map(({ listener }) => listener);
  if (new Set(names).size < names.length) return 'two of its listeners have one name';
  const flawOfName = names.map((name) => flawOfText('a listener', name, 1)).find(Boolean);
  return (
    flawOfText('its incarnation id', broker.incarnationId, 1) ??
    flawOfText('its directory id', broker.directoryId, 1) ??
    flawOfText('its rack', broker.rack, 0) ??
    flawOfName ??
    [broker.clientAddress, broker.peerAddress, ...broker.listeners.map(({ address }) => address)]
      .filter((address) => !ADDRESS.test(address))
      .map((address) => `its address ${JSON.stringify(address.slice(0, 100))} is not host:port`)[0]
  );
}

function flawOfEpoch(id: BrokerId, epoch: number): string | undefined {
  if (id < 0) return `no broker is ${id}`;
  return epoch >= 1 && epoch <= COUNTER_MAX ? undefined : `a broker epoch cannot be ${epoch}`;
}

const flawOfPartition = (partition: number): string | undefined =>
  Number.isInteger(partition) && partition >= 0 && partition < PARTITIONS_MAX
    ? undefined
    : `no partition is ${partition}`;

function flawOfMembers(ids: readonly BrokerId[], least: number): string | undefined {
  if (ids.length < least || ids.length > REPLICAS_MAX) return `${ids.length} replicas cannot be`;
  if (ids.some((id) => id < 0)) return 'a replica has no broker';
  return hasTwice(ids) ? 'a broker is a replica twice' : undefined;
}

/** Lists of replicas are short: no set is made for those. */
const hasTwice = (ids: readonly BrokerId[]): boolean =>
  ids.length > 16
    ? new Set(ids).size < ids.length
    : ids.some((id, index) => ids.indexOf(id) !== index);

function flawOfTopicName(name: string): string | undefined {
  try {
    checkTopicName(name);
    return undefined;
  } catch (error) {
    if (!(error instanceof RelevoError)) throw error;
    return error.message;
  }
}

function flawOfText(
  what: string,
  text: string,
  least: number,
  most: number = TEXT_MAX,
): string | undefined {
  if (text.length < least) return `${what} is empty`;
  if (text.length > most) return `${what} has ${text.length} characters, above ${most}`;
  // A control character would tear log lines and terminals.
  return /\p{Cc}/u.test(text) ? `${what} has a control character` : undefined;
}
