/**
 * The small files beside the log of the quorum, all replaced whole and durably:
 *
 *     quorum-state                                  JSON: who the voter is, term, vote, commit, CRC
 *     00000000000000000123-0000000007.checkpoint    a snapshot after entry 123 of term 7
 *
 * A snapshot's file is: magic "RLVQ", version uint8, CRC-32C uint32 of all that follows, index int64, term
 * int32, length uint32 and bytes of the configuration, then the state machine's bytes to the end.
 *
 * Both are read strictly: what cannot be understood is damage, and a damaged node does not vote
 * (mistake 20).
 */
import { ByteReader, ByteWriter, BytesError, utf8Decode, utf8Encode } from '@relevo/base/bytes';
import { brokerId, logIndex, term as toTerm, uuid } from '@relevo/base/ids';
import type { BrokerId, Uuid } from '@relevo/base/ids';
import { DiskError } from '@relevo/base/ports';
import type { Crc32c, Disk } from '@relevo/base/ports';
import { readFile, replaceFileDurably, replaceFileNow } from '@relevo/log/checkpoint-file';
import { LogError } from '@relevo/log/log-error';
import {
  decodeConfiguration,
  decodeMembers,
  directoryIdOf,
  encodeConfiguration,
} from '@relevo/raft/configuration';
import type { Member } from '@relevo/raft/configuration';
import type { ReplicaKey, Snapshot } from '@relevo/raft/messages';
import type { HardState } from '@relevo/raft/ready';

export interface QuorumFilesDeps {
  readonly disk: Disk;
  readonly crc32c: Crc32c;
}

/** Whose files they are. */
export interface StateOwner {
  readonly clusterId: string;
  readonly nodeId: BrokerId;
}

/** Members that were proposed as a cluster's first ones; see `founding.ts`. */
export interface Founding {
  readonly members: readonly Member[];
  /** Each of them has bound itself to these members: the cluster is founded. */
  readonly agreed: boolean;
}

/** Who a voter is. It is kept in its hard state: identity and log live and die together (K5, L6). */
export interface VoterIdentity {
  readonly directoryId: Uuid;
  /** `rejoins`: the log before this one was lost. It founds nothing, and waits to be let in. */
  readonly origin: 'new' | 'rejoins';
  /** The founding that its log goes back to; empty: not known. */
  readonly history: string;
  readonly founding: Founding | undefined;
}

export interface FoundState {
  readonly identity: VoterIdentity;
  readonly hardState: HardState;
  /** Written by a version that kept no durable mark. */
  readonly isOld: boolean;
}

export const STATE_FILE = 'quorum-state';
const STATE_VERSION = 2;
const CHECKPOINT_NAME = /^(\d{20})-(\d{10})\.checkpoint$/;
const MAGIC = 0x524c5651;
const CHECKPOINT_VERSION = 1;
const CRC_END = 9;

/** Something that was durable is lost or changed. Nothing was changed by us. */
export const damaged = (path: string, what: string, cause?: unknown): LogError =>
  new LogError('corrupt', `${path} is damaged: ${what}`, { cause });

/** For want of room: nothing is in doubt, and it may be tried again. */
export const isFull = (error: unknown): boolean =>
  (error instanceof LogError && error.kind === 'diskFull') ||
  (error instanceof DiskError && error.code === 'FULL');

// -------------------------------------------------------------------------------------------- Hard state

interface StateFields {
  readonly version?: unknown;
  readonly clusterId?: unknown;
  readonly nodeId?: unknown;
  readonly directoryId?: unknown;
  readonly origin?: unknown;
  readonly history?: unknown;
  readonly founding?: unknown;
  readonly term?: unknown;
  readonly vote?: unknown;
  readonly commit?: unknown;
  readonly crc?: unknown;
  readonly id?: unknown;
  readonly members?: unknown;
  readonly agreed?: unknown;
}

const statePath = (directory: string): string => `${directory}/${STATE_FILE}`;

function encodeState(
  { clusterId, nodeId }: StateOwner,
  identity: VoterIdentity,
  state: HardState,
  crc32c: Crc32c,
): Uint8Array {
  const { term, commit } = state;
  const vote = state.vote === undefined ? null : keyFields(state.vote);
  const { directoryId, origin, history } = identity;
  const founding = identity.founding ?? null;
  const whose = { version: STATE_VERSION, clusterId, nodeId, directoryId };
  const fields = { ...whose, origin, history, founding, term, vote, commit };
  const crc = crc32c(utf8Encode(JSON.stringify(fields)));
  return utf8Encode(`${JSON.stringify({ ...fields, crc })}\n`);
}

const keyFields = ({ id, directoryId }: ReplicaKey): { id: number; directoryId: string } => ({
  id,
  directoryId,
});

export interface StateFile {
  readonly owner: StateOwner;
  readonly directory: string;
}

/** Durable when it resolves; one at a time. */
export const writeState = (
  deps: QuorumFilesDeps,
  { owner, directory }: StateFile,
  identity: VoterIdentity,
  state: HardState,
): Promise<void> =>
  replaceFileDurably(
    deps.disk,
    statePath(directory),
    encodeState(owner, identity, state, deps.crc32c),
  );

/** Durable when it returns. */
export const writeStateNow = (
  deps: QuorumFilesDeps,
  { owner, directory }: StateFile,
  identity: VoterIdentity,
  state: HardState,
): void =>
  replaceFileNow(deps.disk, statePath(directory), encodeState(owner, identity, state, deps.crc32c));

/** Undefined when there is none. Throws a LogError: `corrupt`, or `foreign` for another node's. */
export function readState(
  deps: QuorumFilesDeps,
  { owner, directory }: StateFile,
): FoundState | undefined {
  const path = statePath(directory);
  const bytes = readFile(deps.disk, path);
  if (bytes === undefined) return undefined;
  let state: FoundState;
  let found: StateFields;
  try {
    found = fieldsOf(JSON.parse(utf8Decode(bytes)));
    checkCrc(found, deps.crc32c);
    if (typeof found.version === 'number' && found.version > STATE_VERSION) {
      throw new LogError('foreign', `${path} is of a newer version of relevo: run that one`);
    }
    state = stateOf(found);
  } catch (error) {
    if (!(error instanceof RangeError) && !(error instanceof SyntaxError)) throw error;
    throw damaged(path, error.message, error);
  }
  const { clusterId, nodeId } = owner;
  if (found.clusterId === clusterId && found.nodeId === nodeId) return state;
  const whose = `node ${String(found.nodeId)} of cluster "${String(found.clusterId)}"`;
  throw new LogError(
    'foreign',
    `${path} belongs to ${whose}, not to node ${nodeId} of cluster "${clusterId}"; use the data ` +
      'directory that is this node\u2019s',
  );
}

const fieldsOf = (value: unknown): StateFields => {
  if (typeof value !== 'object' || value === null) throw new RangeError('it holds no object');
  return { ...value };
};

function checkCrc(found: StateFields, crc32c: Crc32c): void {
  const { crc, ...fields } = found;
  if (crc32c(utf8Encode(JSON.stringify(fields))) !== crc) throw new RangeError('the CRC is wrong');
}

function stateOf(found: StateFields): FoundState {
  const isOld = found.version === 1;
  if (!isOld && found.version !== STATE_VERSION) {
    throw new RangeError(`version is ${String(found.version)}, expected ${STATE_VERSION}`);
  }
  const { term, vote, commit, directoryId, origin, history } = found;
  if (typeof term !== 'number' || typeof commit !== 'number') {
    throw new RangeError('term or commit is no number');
  }
  if (typeof directoryId !== 'string') throw new RangeError('directoryId is no text');
  return {
    identity: {
      directoryId: uuid(directoryId),
      origin: origin === 'rejoins' ? origin : 'new',
      history: typeof history === 'string' ? history : '',
      founding: foundingOf(found.founding ?? null),
    },
    hardState: { term: toTerm(term), vote: voteOf(vote), commit: logIndex(commit) },
    isOld,
  };
}

function foundingOf(founding: unknown): Founding | undefined {
  if (founding === null) return undefined;
  const { members, agreed } = fieldsOf(founding);
  return { members: decodeMembers(members), agreed: agreed === true };
}

function voteOf(vote: unknown): ReplicaKey | undefined {
  if (vote === null) return undefined;
  const { id, directoryId } = fieldsOf(vote);
  if (typeof id !== 'number' || typeof directoryId !== 'string') {
    throw new RangeError('the vote names no node');
  }
  return { id: brokerId(id), directoryId: directoryIdOf(directoryId) };
}

// --------------------------------------------------------------------------------------------- Snapshots

export const checkpointName = (index: number, term: number): string =>
  `${String(index).padStart(20, '0')}-${String(term).padStart(10, '0')}.checkpoint`;

/** Durable when it resolves. */
export async function writeCheckpoint(
  deps: QuorumFilesDeps,
  directory: string,
  snapshot: Snapshot,
): Promise<void> {
  const path = `${directory}/${checkpointName(snapshot.index, snapshot.term)}`;
  await replaceFileDurably(deps.disk, path, encodeCheckpointFile(snapshot, deps.crc32c));
}

export function encodeCheckpointFile(snapshot: Snapshot, crc32c: Crc32c): Uint8Array {
  const { index, term, configuration, data } = snapshot;
  const members = encodeConfiguration(configuration);
  const writer = new ByteWriter(CRC_END + 16 + members.length + data.length);
  writer.uint32(MAGIC).int8(CHECKPOINT_VERSION).uint32(0);
  writer.int64(index).int32(term).uint32(members.length).raw(members).raw(data);
  const bytes = writer.written();
  new DataView(bytes.buffer, bytes.byteOffset).setUint32(
    CRC_END - 4,
    crc32c(bytes.subarray(CRC_END)),
  );
  return bytes;
}

/** Names of the snapshots in the directory, newest first. */
export const checkpointNames = (disk: Disk, directory: string): string[] =>
  disk
    .list(directory)
    .map(({ name }) => name)
    .filter((name) => CHECKPOINT_NAME.test(name))
    .sort()
    .reverse();

/** The newest snapshot. Throws a LogError (`corrupt`): an older one would not meet the log. */
export function readNewestCheckpoint(
  deps: QuorumFilesDeps,
  directory: string,
): Snapshot | undefined {
  const [name] = checkpointNames(deps.disk, directory);
  if (name === undefined) return undefined;
  const path = `${directory}/${name}`;
  const bytes = readFile(deps.disk, path) ?? new Uint8Array(0);
  try {
    return decodeCheckpointFile(bytes, deps.crc32c);
  } catch (error) {
    const isDamage =
      error instanceof RangeError || error instanceof SyntaxError || error instanceof BytesError;
    if (!isDamage) throw error;
    throw damaged(path, error.message, error);
  }
}

/** Throws a RangeError, SyntaxError or BytesError. */
export function decodeCheckpointFile(bytes: Uint8Array, crc32c: Crc32c): Snapshot {
  const reader = new ByteReader(bytes);
  if (reader.uint32() !== MAGIC) throw new RangeError('it does not begin as a snapshot does');
  const version = reader.int8();
  if (version !== CHECKPOINT_VERSION) throw new RangeError(`its version is ${version}`);
  if (reader.uint32() !== crc32c(bytes.subarray(CRC_END))) throw new RangeError('the CRC is wrong');
  const index = logIndex(reader.int64());
  const term = toTerm(reader.int32());
  const configuration = decodeConfiguration(reader.view(reader.uint32()));
  return { index, term, configuration, data: reader.view(reader.remaining) };
}
