/** The controller's records, as entries of the metadata log and as snapshots; and back. */
import { assert, unreachable } from '@relevo/base/assert';
import { messageOf } from '@relevo/base/errors';
import {
  brokerEpoch,
  brokerId,
  leaderEpoch,
  logIndex,
  partitionEpoch,
  producerId,
  term,
  uuid,
} from '@relevo/base/ids';
import type { BrokerId, LogIndex } from '@relevo/base/ids';
import type { ClusterImage } from '@relevo/controller/image';
import { flawOfRecord } from '@relevo/controller/record-limits';
import type { DeletedTopicsRecord, MetadataRecord } from '@relevo/controller/records';
import { imageFromRecords, imageToRecords } from '@relevo/controller/snapshot';
import {
  MetadataBatchCodec,
  MetadataSnapshotCodec,
  type MetadataRecord as WireRecord,
  type MetadataRecordRecord as WireBody,
  type MetadataSnapshot,
} from '@relevo/rpc/gen/cluster/metadata-records';

export const encodeRecords = (records: readonly MetadataRecord[]): Uint8Array =>
  MetadataBatchCodec.encode({ records: records.map(soundToWire) });

/** An entry without data is the consensus' own, and holds no records. */
export const decodeRecords = (data: Uint8Array): readonly MetadataRecord[] =>
  data.length === 0 ? [] : MetadataBatchCodec.decode(data).records.map(soundFromWire);

/** The deleted topics have a field of their own, which older nodes pass over. */
export const snapshotOf = (image: ClusterImage): MetadataSnapshot => ({
  index: image.index,
  term: image.term,
  records: imageToRecords(image).filter(isOfLog).map(toWire),
  deletedTopicIds: [...image.deletedTopics],
});

export const imageOf = (snapshot: MetadataSnapshot): ClusterImage => {
  const deleted = sound({ kind: 'deletedTopics', topicIds: snapshot.deletedTopicIds.map(uuid) });
  return imageFromRecords([...snapshot.records.map(soundFromWire), deleted], {
    index: logIndex(snapshot.index),
    term: term(snapshot.term),
  });
};

type LogRecord = Exclude<MetadataRecord, DeletedTopicsRecord>;

const isOfLog = (record: MetadataRecord): record is LogRecord => record.kind !== 'deletedTopics';

/** Equal images give equal bytes. */
export const encodeSnapshot = (image: ClusterImage): Uint8Array =>
  MetadataSnapshotCodec.encode(snapshotOf(image));

export const decodeSnapshot = (bytes: Uint8Array): ClusterImage =>
  imageOf(MetadataSnapshotCodec.decode(bytes));

/** What no start would take is not proposed. */
function soundToWire(record: MetadataRecord): WireRecord {
  const flaw = flawOfRecord(record);
  assert(flaw === undefined, 'only sound records are proposed', { kind: record.kind, flaw });
  assert(isOfLog(record), 'what is of snapshots only is not proposed', { kind: record.kind });
  return toWire(record);
}

/** Throws a RangeError for what is not proposed. */
const soundFromWire = (wire: WireRecord): MetadataRecord => sound(fromWire(wire));

function sound(record: MetadataRecord): MetadataRecord {
  const flaw = flawOfRecord(record);
  if (flaw !== undefined) throw new RangeError(`a record (${record.kind}) cannot be: ${flaw}`);
  return record;
}

/** Undefined: `decodeRecords` takes it. */
export const flawOfData = (data: Uint8Array): string | undefined =>
  flawOf(() => decodeRecords(data));

/** Undefined: `decodeSnapshot` takes it, as of that index. */
export const flawOfSnapshot = (bytes: Uint8Array, index: LogIndex): string | undefined =>
  flawOf(() => {
    const image = decodeSnapshot(bytes);
    if (image.index !== index) throw new RangeError(`it is as of ${image.index}, not of ${index}`);
  });

function flawOf(read: () => unknown): string | undefined {
  try {
    read();
    return undefined;
  } catch (error) {
    return messageOf(error);
  }
}

function toWire(record: LogRecord): WireRecord {
  return { record: bodyOf(record) };
}

function bodyOf(record: LogRecord): WireBody {
  switch (record.kind) {
    case 'clusterIdentity':
      return { case: 'clusterIdentity', value: record };
    case 'brokerEpochs':
      return { case: 'brokerEpochs', value: record };
    case 'producerIds':
      return { case: 'producerIds', value: record };
    case 'brokerRegistration':
      return { case: 'brokerRegistration', value: record };
    case 'brokerState':
      return { case: 'brokerState', value: record };
    case 'topicCreation':
      return { case: 'topicCreation', value: record };
    case 'topicRemoval':
      return { case: 'topicRemoval', value: record };
    case 'topicSetting':
      return { case: 'topicSetting', value: record };
    case 'partitionCreation':
      return { case: 'partitionCreation', value: record };
    case 'partitionChange': {
      const { isr, elr, offline } = record;
      const lists = { isr: listOf(isr), elr: listOf(elr), offline: listOf(offline) };
      return { case: 'partitionChange', value: { ...record, ...lists } };
    }
    default:
      return unreachable(record, 'an unknown metadata record');
  }
}

const listOf = (ids: readonly BrokerId[] | undefined): { ids: readonly BrokerId[] } | undefined =>
  ids === undefined ? undefined : { ids };

/** Throws where the bytes, though well formed, are not of a record that a controller wrote. */
function fromWire({ record }: WireRecord): MetadataRecord {
  switch (record?.case) {
    case 'clusterIdentity':
      return { kind: 'clusterIdentity', clusterId: record.value.clusterId };
    case 'brokerEpochs':
      return { kind: 'brokerEpochs', next: brokerEpoch(record.value.next) };
    case 'producerIds':
      return { kind: 'producerIds', next: producerId(record.value.next) };
    case 'brokerRegistration':
      return {
        ...record.value,
        kind: 'brokerRegistration',
        brokerId: brokerId(record.value.brokerId),
        brokerEpoch: brokerEpoch(record.value.brokerEpoch),
      };
    case 'brokerState':
      return {
        ...record.value,
        kind: 'brokerState',
        brokerId: brokerId(record.value.brokerId),
        brokerEpoch: brokerEpoch(record.value.brokerEpoch),
      };
    case 'topicCreation':
      return {
        kind: 'topicCreation',
        topicId: uuid(record.value.topicId),
        name: record.value.name,
      };
    case 'topicRemoval':
      return { kind: 'topicRemoval', topicId: uuid(record.value.topicId) };
    case 'topicSetting': {
      const { topicId, name, value } = record.value;
      return { kind: 'topicSetting', topicId: uuid(topicId), name, value };
    }
    case 'partitionCreation': {
      const { topicId, partition, replicas, isr, elr, offline, leader, ...epochs } = record.value;
      return {
        kind: 'partitionCreation',
        topicId: uuid(topicId),
        partition,
        replicas: replicas.map(brokerId),
        isr: isr.map(brokerId),
        elr: elr.map(brokerId),
        offline: offline.map(brokerId),
        leader: brokerId(leader),
        leaderEpoch: leaderEpoch(epochs.leaderEpoch),
        partitionEpoch: partitionEpoch(epochs.partitionEpoch),
        uncleanEpoch: leaderEpoch(epochs.uncleanEpoch),
      };
    }
    case 'partitionChange': {
      const { topicId, partition, leader, isr, elr, offline, unclean } = record.value;
      return {
        kind: 'partitionChange',
        topicId: uuid(topicId),
        partition,
        leader: leader === undefined ? undefined : brokerId(leader),
        isr: isr?.ids.map(brokerId),
        elr: elr?.ids.map(brokerId),
        offline: offline?.ids.map(brokerId),
        unclean,
      };
    }
    default:
      throw new RangeError(
        'the metadata log holds a record that this version does not know: it was written by a newer one',
      );
  }
}
