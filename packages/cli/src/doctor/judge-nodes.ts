/** Each broker by itself: whether it serves, its version, its clock, how far away it is. */
import type { BrokerMetadata } from '@relevo/rpc/gen/client/metadata';
import { knownNodes, toldMetadata, type Facts, type KnownNode, type Sample } from './facts.ts';
import { trouble, well, type Finding } from './findings.ts';
import { plural } from '../units.ts';

/**
 * Timestamps are the producers', or the broker's with LogAppendTime; retention and look-ups by time go
 * by them. Half a second is more than NTP leaves, ten are more than any of these can bear.
 */
const SKEW_WARN_MS = 500;
const SKEW_FAIL_MS = 10_000;
/** acks=all takes two of them at least, and a failover several. */
const ROUND_TRIP_WARN_MS = 100;

// ----------------------------------------------------------------------------------------- serving

export function judgeBrokers(facts: Facts): Finding[] {
  const brokers = toldMetadata(facts)?.brokers ?? [];
  if (brokers.length === 0) return [];
  const nodes = knownNodes(facts);
  const findings = brokers
    .toSorted((a, b) => a.id - b.id)
    .flatMap((broker) => {
      const unready = nodes.find(({ node }) => node.nodeId === broker.id)?.node.unready;
      return judgeBroker(broker, unready);
    });
  const offline = nodes
    .filter(({ node }) => node.offlineReplicas.length > 0)
    .map(({ node }) => {
      const found = `replicas whose logs it cannot use: ${node.offlineReplicas.join('; ')}`;
      const change = `see its log ("a replica is offline"), which says what to do of each`;
      return trouble('warn', 'brokers', `broker ${node.nodeId}`, { found, change });
    });
  if (findings.length + offline.length > 0) return [...findings, ...offline];
  return [well('brokers', 'cluster', `${plural(brokers.length, 'broker')}, none of them fenced`)];
}

/** `unready`: undefined where it does not answer. */
function judgeBroker({ id, fenced }: BrokerMetadata, unready: string | undefined): Finding[] {
  const subject = `broker ${id}`;
  if (fenced) {
    const said = unready === undefined || unready === '' ? '' : ` (${unready})`;
    const found = `fenced, it leads nothing${said}`;
    const change =
      unready === undefined
        ? `start it, or see its log: it is silent for longer than broker.session.timeout.ms`
        : `see its log: it answers here, but is starting, stopping or cut off from the controllers`;
    return [trouble('warn', 'brokers', subject, { found, change })];
  }
  if (unready === undefined || unready === '') return [];
  const found = `it should be given no work: ${unready}`;
  const change = `see the log of broker ${id} and its /readyz (listener.http)`;
  return [trouble('fail', 'brokers', subject, { found, change })];
}

// ---------------------------------------------------------------------------------------- versions

export function judgeVersions(facts: Facts): Finding[] {
  const nodes = knownNodes(facts);
  const older = [...facts.addresses.values()].filter(({ service }) => service?.kind === 'older');
  const byVersion = new Map<string, string[]>();
  const count = (version: string, who: string): void => {
    byVersion.set(version, [...(byVersion.get(version) ?? []), who]);
  };
  for (const { node } of nodes) count(node.version, String(node.nodeId));
  for (const { address } of older) count('older', address);
  if (byVersion.size === 0) return [];
  const told = [...byVersion].map(([version, who]) => `${version} (${who.join(', ')})`).join(', ');
  const found = `brokers ${told}; this program ${facts.version}`;
  if (byVersion.size > 1) {
    const change = 'a rolling upgrade is under way or stuck: bring all brokers to one version';
    return [trouble('warn', 'version', 'cluster', { found, change })];
  }
  if (byVersion.has(facts.version)) return [well('version', 'cluster', found)];
  const change = "use clients of the brokers' version, or upgrade the brokers";
  return [trouble('warn', 'version', 'cluster', { found, change })];
}

// ------------------------------------------------------------------------------------------ clocks

export interface Skew {
  /** How far the broker's clock is before this machine's; negative: behind it. */
  readonly offsetMs: number;
  /** It may be off by so much either way. */
  readonly uncertaintyMs: number;
}

/** From the quickest sample, as NTP does: the answer was made somewhere between its two ends. */
export function skewOf(samples: readonly Sample[]): Skew | undefined {
  const [best] = samples.toSorted((a, b) => a.roundTripMs - b.roundTripMs);
  if (best === undefined) return undefined;
  const { sentMs, roundTripMs, node } = best;
  return {
    offsetMs: Math.round(node.clockMs - (sentMs + roundTripMs / 2)),
    // Both clocks are read in whole milliseconds.
    uncertaintyMs: Math.ceil(roundTripMs / 2) + 1,
  };
}

export function judgeClocks(facts: Facts): Finding[] {
  const skews = knownNodes(facts).flatMap(({ node, samples }) => {
    const skew = skewOf(samples);
    return skew === undefined ? [] : [{ id: node.nodeId, skew }];
  });
  const offsets = skews.map(({ skew }) => skew.offsetMs);
  const apart = Math.max(...offsets) - Math.min(...offsets);
  const ours = skews.length > 1 && apart <= SKEW_WARN_MS;
  return skews.map(({ id, skew }) => judgeClock(id, skew, ours));
}

/** `ours`: the brokers agree with one another. */
function judgeClock(id: number, { offsetMs, uncertaintyMs }: Skew, ours: boolean): Finding {
  const subject = `broker ${id}`;
  const size = Math.abs(offsetMs);
  const way = offsetMs < 0 ? 'behind' : 'before';
  const found =
    size <= uncertaintyMs
      ? `its clock agrees with this machine's to ${uncertaintyMs} ms`
      : `its clock is ${size} ms ${way} this machine's, give or take ${uncertaintyMs} ms`;
  const certain = size - uncertaintyMs;
  if (certain <= SKEW_WARN_MS) return well('clock', subject, found);
  const change = ours
    ? "the brokers agree: set this machine's clock (NTP)"
    : `let NTP (chrony, systemd-timesyncd) keep the clock of broker ${id}'s machine`;
  return trouble(certain > SKEW_FAIL_MS ? 'fail' : 'warn', 'clock', subject, { found, change });
}

// ------------------------------------------------------------------------------------- round trips

export const judgeRoundTrips = (facts: Facts): Finding[] =>
  knownNodes(facts).flatMap((known) => judgeRoundTrip(known));

function judgeRoundTrip({ address, node, samples }: KnownNode): Finding[] {
  const sorted = samples.map(({ roundTripMs }) => roundTripMs).sort((a, b) => a - b);
  const [min] = sorted;
  const median = sorted[Math.floor(sorted.length / 2)];
  if (min === undefined || median === undefined) return [];
  const subject = `broker ${node.nodeId} at ${address}`;
  const calls = plural(sorted.length, 'call');
  const found = `least ${figure(min)}, median ${figure(median)} of ${calls}`;
  if (median <= ROUND_TRIP_WARN_MS) return [well('round-trip', subject, found)];
  const change = 'run clients nearer to the brokers, or see what loads the network or the broker';
  return [trouble('warn', 'round-trip', subject, { found, change })];
}

const figure = (ms: number): string => `${ms.toFixed(ms < 10 ? 1 : 0)} ms`;
