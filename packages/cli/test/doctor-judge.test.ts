/** From facts to findings: one healthy cluster, and what each change of it comes to. */
import type { AddressFacts, Facts, Sample } from '@relevo/cli/doctor/facts';
import { verdictOf, type Finding } from '@relevo/cli/doctor/findings';
import { judge } from '@relevo/cli/doctor/judge';
import { skewOf } from '@relevo/cli/doctor/judge-nodes';
import { hostAndPort } from '@relevo/cli/doctor/reach';
import { nodeDescription, type NodeDescription } from '@relevo/rpc/gen/client/metadata';
import { describe, expect, test } from 'vitest';
import {
  VOTERS,
  addressOf,
  factsOf,
  nodeOf,
  unreached,
  voter,
  type Change,
} from './cluster-facts.ts';

const bad = (facts: Facts): readonly Finding[] =>
  judge(facts).filter(({ status }) => status !== 'ok');

test('a healthy cluster has nothing to change', () => {
  expect(bad(factsOf())).toEqual([]);
  expect(verdictOf(judge(factsOf()))).toBe('ok');
});

type Expected = Pick<Finding, 'check' | 'status' | 'subject'> & {
  readonly found: RegExp;
  readonly change: RegExp;
};

const only = (id: number, value: Partial<NodeDescription>) => (asked: number) =>
  asked === id ? value : {};

const DEFAULT_LISTENER = { interBrokerListener: 'default', clusterListeners: ['default'] };

const cases: readonly (readonly [string, Change, Expected])[] = [
  [
    'a broker that is out of reach',
    { look: (id) => (id === 2 ? unreached(id, { kind: 'silent', waitedMs: 1500 }) : {}) },
    {
      ...{ check: 'advertised', status: 'fail', subject: 'broker 2 at broker-2:9093' },
      found: /^10\.0\.0\.2 no answer within 1500 ms$/,
      change: /firewalls .* TCP port 9093 .*; or set advertised\.grpc of broker 2 to HOST:PORT/,
    },
  ],
  [
    'an address that leads to several brokers',
    {
      look: (id) => (id === 2 ? { service: { kind: 'relevo', node: nodeOf(3, {}) } } : {}),
    },
    {
      ...{ check: 'advertised', status: 'fail', subject: 'broker 2 at broker-2:9093' },
      found: /^brokers 2, 3 answer by turns/,
      change: /an address that leads to it alone/,
    },
  ],
  [
    'an address that leads to another broker',
    {
      look: (id) =>
        id === 2 ? { service: { kind: 'relevo', node: nodeOf(3, {}) }, answerers: [] } : {},
    },
    {
      ...{ check: 'advertised', status: 'fail', subject: 'broker 2 at broker-2:9093' },
      found: /^broker 3 answers there$/,
      change: /^set advertised\.grpc of broker 2 to HOST:PORT/,
    },
  ],
  [
    'an address that means another machine to each caller',
    {
      look: (id) => (id === 2 ? { ...unreached(id, { kind: 'refused' }), host: 'localhost' } : {}),
    },
    {
      ...{ check: 'advertised', status: 'fail', subject: 'broker 2 at broker-2:9093' },
      found: /^10\.0\.0\.2 refused, nothing listens on that port$/,
      change:
        /^start broker 2, if it does not run; if it does: localhost is the machine .*: set advert/,
    },
  ],
  [
    'a broker that has ended and is not missed yet',
    { look: (id) => (id === 2 ? unreached(id, { kind: 'refused' }) : {}) },
    {
      ...{ check: 'advertised', status: 'fail', subject: 'broker 2 at broker-2:9093' },
      found: /refused/,
      change: /^start broker 2, if it does not run; if it does: set advertised\.grpc of broker 2/,
    },
  ],
  [
    'a broker that hangs',
    { look: (id) => (id === 2 ? { service: { kind: 'mute' }, samples: [], answerers: [] } : {}) },
    {
      ...{ check: 'advertised', status: 'fail', subject: 'broker 2 at broker-2:9093' },
      found: /^connections are taken, but nothing is ever said$/,
      change: /^see whether the broker hangs/,
    },
  ],
  [
    'something else at an advertised address',
    { look: (id) => (id === 2 ? { service: { kind: 'kafka' }, samples: [], answerers: [] } : {}) },
    {
      ...{ check: 'advertised', status: 'fail', subject: 'broker 2 at broker-2:9093' },
      found: /^a Kafka broker answers/,
      change: /^set advertised\.grpc of broker 2 to HOST:PORT/,
    },
  ],
  [
    'no route to a broker',
    {
      look: (id) =>
        id === 2 ? unreached(id, { kind: 'unreachable', reason: 'EHOSTUNREACH' }) : {},
    },
    {
      ...{ check: 'advertised', status: 'fail', subject: 'broker 2 at broker-2:9093' },
      found: /^10\.0\.0\.2 no route to it \(EHOSTUNREACH\)$/,
      change: /no way to that network/,
    },
  ],
  [
    'a name server that is silent',
    {
      look: (id) =>
        id === 2
          ? { ...unreached(id, { kind: 'refused' }), resolution: { kind: 'silent', waitedMs: 9 } }
          : {},
    },
    {
      ...{ check: 'advertised', status: 'fail', subject: 'broker 2 at broker-2:9093' },
      found: /^no name server tells where broker-2 is within 9 ms$/,
      change: /or make broker-2 resolve here/,
    },
  ],
  [
    'a name of which one address is dead',
    {
      look: (id) =>
        id === 1
          ? {
              endpoints: [
                { ip: '10.0.0.1', connection: { kind: 'connected' } },
                { ip: '10.0.0.9', connection: { kind: 'silent', waitedMs: 1500 } },
              ],
            }
          : {},
    },
    {
      ...{ check: 'connect', status: 'warn', subject: 'broker-1:9093' },
      found: /10\.0\.0\.1 connected; 10\.0\.0\.9 no answer within 1500 ms/,
      change: /take 10\.0\.0\.9 out of the name/,
    },
  ],
  [
    'a broker that is starting',
    {
      given: { metadata: undefined, cluster: undefined, refusal: 'ask another one' },
      node: only(1, { unready: 'no active controller is known', controllerId: 1 }),
    },
    {
      ...{ check: 'service', status: 'fail', subject: 'broker-1:9093' },
      found: /tells nothing of the cluster: ask another one \(no active controller is known\)$/,
      change: /controller\.quorum\.voters names \(1@broker-1:9093, 2@broker-2:9093, 3@/,
    },
  ],
  [
    'a listener that the others do not have',
    {
      node: only(2, { advertised: [{ listener: 'inside', address: addressOf(2) }] }),
    },
    {
      ...{ check: 'advertised', status: 'warn', subject: 'broker 2 at broker-2:9093' },
      found: /^it has no listener "default", only inside$/,
      change: /listeners of the same names/,
    },
  ],
  [
    'a fenced broker that answers',
    {
      fenced: [2],
      node: only(2, { unready: 'the broker is fenced' }),
      partition: { replicas: [1, 3], isr: [1, 3] },
    },
    {
      ...{ check: 'brokers', status: 'warn', subject: 'broker 2' },
      found: /^fenced, it leads nothing \(the broker is fenced\)$/,
      change: /cut off from the controllers/,
    },
  ],
  [
    'a full disk',
    { node: only(2, { unready: 'appends are refused: 1 MB are left' }) },
    {
      ...{ check: 'brokers', status: 'fail', subject: 'broker 2' },
      found: /^it should be given no work: appends are refused/,
      change: /see the log of broker 2/,
    },
  ],
  [
    'brokers of two versions',
    { node: only(3, { version: '1.1.0' }) },
    {
      ...{ check: 'version', status: 'warn', subject: 'cluster' },
      found: /^brokers 1\.0\.0 \(1, 2\), 1\.1\.0 \(3\); this program 1\.0\.0$/,
      change: /rolling upgrade is under way or stuck/,
    },
  ],
  [
    'a program of another version',
    { version: '2.0.0' },
    {
      ...{ check: 'version', status: 'warn', subject: 'cluster' },
      found: /this program 2\.0\.0$/,
      change: /clients of the brokers' version/,
    },
  ],
  [
    'a controller that is silent',
    { cluster: { voters: [voter(1), voter(2), voter(3, { silentForMs: 5000 })] } },
    {
      ...{ check: 'quorum', status: 'warn', subject: 'cluster' },
      found: /2 of 3 voters heard, survives 0 more failures$/,
      change:
        /^start controller 3 at broker-3:9093 \(heard of 5\.0 s ago\), or correct its address/,
    },
  ],
  [
    'controllers that are no majority',
    {
      cluster: {
        voters: [voter(1), voter(2, { silentForMs: -1 }), voter(3, { silentForMs: 9000 })],
      },
    },
    {
      ...{ check: 'quorum', status: 'fail', subject: 'cluster' },
      found: /1 of 3 voters heard, 2 are a majority$/,
      change: /^start controller 2 at broker-2:9093 \(never heard of\), 3 at broker-3:9093/,
    },
  ],
  [
    'an even number of voters',
    { cluster: { voters: [1, 2, 3, 4].map((id) => voter(id)) } },
    {
      ...{ check: 'quorum', status: 'warn', subject: 'cluster' },
      found: /4 of 4 voters heard, survives 1 more failure$/,
      change: /survives no more than 3 do/,
    },
  ],
  [
    'a controller that is behind',
    { cluster: { voters: [voter(1), voter(2, { matchIndex: 100 }), voter(3)] } },
    {
      ...{ check: 'quorum', status: 'warn', subject: 'controller 2' },
      found: /^4,900 entries of the controllers' log behind$/,
      change: /cannot take over/,
    },
  ],
  [
    'a controller that the brokers do not reach',
    { given: { cluster: undefined, clusterRefusal: 'no answer' } },
    {
      ...{ check: 'quorum', status: 'fail', subject: 'cluster' },
      found: /^controller 1, the active one, was asked in vain: no answer$/,
      change: /^see whether the brokers reach it at 1@broker-1:9093 \(controller\.quorum\.voters\)/,
    },
  ],
  [
    'no controller',
    {
      given: { cluster: undefined, clusterRefusal: 'no answer' },
      node: () => ({ controllerId: -1 }),
    },
    {
      ...{ check: 'quorum', status: 'fail', subject: 'cluster' },
      found: /^no active controller: no answer$/,
      change: /controller\.quorum\.voters: 1@broker-1:9093, 2@broker-2:9093, 3@broker-3:9093\)$/,
    },
  ],
  [
    'brokers that see different controllers',
    { node: only(3, { controllerId: -1 }) },
    {
      ...{ check: 'controller', status: 'warn', subject: 'cluster' },
      found: /different controllers: 1 \(as node 1, 2 has it\); none \(as node 3 has it\)$/,
      change: /run it again/,
    },
  ],
  [
    'brokers set up with different voters',
    { node: only(3, { voters: VOTERS.slice(0, 2) }) },
    {
      ...{ check: 'controller', status: 'warn', subject: 'cluster' },
      found: /^controller\.quorum\.voters differs: .*3@broker-3:9093 \(as node 1, 2 has it\); /,
      change: /the same on every node/,
    },
  ],
  [
    'a broker that knows the cluster of yesterday',
    { node: only(2, { metadataVersion: 10 }) },
    {
      ...{ check: 'controller', status: 'warn', subject: 'broker 2' },
      found: /^its view of the cluster is 4,990 entries old$/,
      change: /lead no longer/,
    },
  ],
  [
    'a partition without a leader',
    { partition: { leader: -1 } },
    {
      ...{ check: 'partitions', status: 'fail', subject: 'cluster' },
      found: /^1 of 1 partition without a leader: .*: orders-0$/,
      change: /a replica that has all records must come back/,
    },
  ],
  [
    'a partition whose only whole logs cannot be used',
    { partition: { leader: -1, replicas: [2], isr: [2], offline: [2] } },
    {
      ...{ check: 'partitions', status: 'fail', subject: 'cluster' },
      found: /^1 of 1 partition without a leader: .*: orders-0$/,
      change: /^of orders-0 the only logs that are sure .*: the log of broker 2 tells why/,
    },
  ],
  [
    'a replica that cannot be used',
    { node: only(3, { offlineReplicas: ['orders-0: the log is damaged'] }) },
    {
      ...{ check: 'brokers', status: 'warn', subject: 'broker 3' },
      found: /^replicas whose logs it cannot use: orders-0: the log is damaged$/,
      change: /says what to do of each/,
    },
  ],
  [
    'a node whose listener for nodes serves clients alone',
    {
      node: only(2, {
        ...{ membership: 'secret', interBrokerListener: 'default', clusterListeners: ['inside'] },
      }),
    },
    {
      ...{ check: 'listeners', status: 'fail', subject: 'node 2' },
      found: /dial its listener "default", which serves clients alone .*: inside\)$/,
      change: /^add "default" to cluster\.listener\.names of node 2/,
    },
  ],
  [
    "a listener that serves the cluster's own services though no node dials it",
    {
      node: (id) => ({
        ...{ membership: 'secret', interBrokerListener: 'inside' },
        clusterListeners: id === 2 ? ['inside', 'default'] : ['inside'],
      }),
    },
    {
      ...{ check: 'listeners', status: 'warn', subject: 'node 2' },
      found: /^its listener "default" \(broker-2:9093\) serves the cluster's own services too/,
      change: /^take it out of cluster\.listener\.names of node 2/,
    },
  ],
  [
    'a cluster without a secret that others can reach',
    { node: () => ({ ...DEFAULT_LISTENER, membership: 'none' }) },
    {
      ...{ check: 'secret', status: 'fail', subject: 'cluster' },
      found: /^there is none: whoever reaches a listener/,
      change: /the same cluster\.secret\.file on every node/,
    },
  ],
  [
    'a node without the secret that the others have',
    { node: (id) => ({ ...DEFAULT_LISTENER, membership: id === 2 ? 'none' : 'secret' }) },
    {
      ...{ check: 'secret', status: 'fail', subject: 'cluster' },
      found: /^node 2 has no secret, the others have/,
      change: /the same cluster\.secret\.file on every node/,
    },
  ],
  [
    'nodes that do not ask for proofs yet',
    { node: () => ({ ...DEFAULT_LISTENER, membership: 'auto' }) },
    {
      ...{ check: 'secret', status: 'warn', subject: 'cluster' },
      found: /^node 1, 2, 3 still takes callers that prove nothing/,
      change: /take cluster\.auth\.required out/,
    },
  ],
  [
    'a partition that lacks a replica',
    { partition: { isr: [1, 2] }, minInSync: 2 },
    {
      ...{ check: 'partitions', status: 'warn', subject: 'cluster' },
      found: /with a replica that is not in sync: orders-0$/,
      change: /see the logs of the followers/,
    },
  ],
  [
    'a partition that is not led by its preferred leader',
    { partition: { leader: 2 } },
    {
      ...{ check: 'partitions', status: 'warn', subject: 'cluster' },
      found: /not led by the preferred leader: orders-0$/,
      change: /relevo cluster elect-preferred/,
    },
  ],
  [
    'more replicas than brokers',
    { partition: { replicas: [1, 2, 3, 4], isr: [1, 2, 3, 4] } },
    {
      ...{ check: 'partitions', status: 'warn', subject: 'cluster' },
      found: /more replicas than there are brokers alive \(3\): orders-0$/,
      change: /start or add brokers/,
    },
  ],
  [
    'a broker that is far away',
    {
      samples: (id) =>
        id === 2 ? [90, 150, 160, 170].map((roundTripMs) => ({ roundTripMs })) : [{}],
    },
    {
      ...{ check: 'round-trip', status: 'warn', subject: 'broker 2 at broker-2:9093' },
      found: /^least 90 ms, median 160 ms of 4 calls$/,
      change: /nearer/,
    },
  ],
];

test.each(cases)('%s', (_, change, expected) => {
  const { found, change: advice, ...rest } = expected;
  // Without a majority that partitions are told of as of old is said, too.
  const findings = bad(factsOf(change)).filter(
    (one) => one.check !== 'partitions' || rest.check !== 'quorum' || rest.status !== 'fail',
  );
  expect(findings).toHaveLength(1);
  expect(findings[0]).toMatchObject(rest);
  expect(findings[0]?.found).toMatch(found);
  expect(findings[0]?.change).toMatch(advice);
});

test('under min.insync.replicas it fails, and is under-replicated too', () => {
  const findings = bad(factsOf({ partition: { isr: [1] }, minInSync: 2 }));
  expect(findings.map(({ status }) => status)).toEqual(['fail', 'warn']);
  expect(findings[0]?.found).toContain('fewer in sync than min.insync.replicas');
});

test('without a majority what is told of partitions is old, and who leads may be gone', () => {
  const alone: Change = {
    given: { cluster: undefined, clusterRefusal: 'no answer' },
    node: () => ({ controllerId: -1 }),
    look: (id) => (id === 1 ? {} : unreached(id, { kind: 'refused' })),
  };
  const told = (change: Change): readonly Finding[] =>
    judge(factsOf(change)).filter(({ check }) => check === 'partitions');
  const [old, ...none] = told(alone);
  expect(none).toEqual([]);
  expect(old?.status).toBe('warn');
  expect(old?.found).toMatch(
    /^1 topic, 1 partition: what is told of them is old, .* broker 2, 3 does/,
  );
  const [, led] = told({ ...alone, partition: { leader: 2 } });
  expect(led?.status).toBe('fail');
  expect(led?.found).toMatch(
    /^1 of 1 partition led by broker 2, which does not answer.*: orders-0$/,
  );
  expect(led?.change).toMatch(/^start broker 2, or/);
});

test('only brokers that keep a replica of what lacks one are to be started', () => {
  const change = (partition: Change['partition'], minInSync?: number): (string | null)[] =>
    judge(
      factsOf({ fenced: [2, 3], ...(partition && { partition }), ...(minInSync && { minInSync }) }),
    )
      .filter(({ check }) => check === 'partitions')
      .map((finding) => finding.change);
  const lacking = change({ replicas: [1, 2], isr: [1] }, 2);
  expect(lacking[0]).toMatch(/^start broker 2, or lower min\.insync\.replicas/);
  expect(lacking[1]).toMatch(/^start broker 2; where all run/);
  expect(change({ leader: -1, replicas: [2, 3], isr: [3] })[0]).toMatch(
    /^start broker 3: a replica/,
  );
});

test('of a broker that is known to be gone nothing worse than a warning is said', () => {
  const look = (id: number): Partial<AddressFacts> =>
    id === 2 ? unreached(id, { kind: 'refused' }) : {};
  const partition = { replicas: [1, 3], isr: [1, 3] };
  const findings = bad(factsOf({ fenced: [2], look, partition }));
  expect(findings.map(({ check, status }) => [check, status])).toEqual([
    ['advertised', 'warn'],
    ['brokers', 'warn'],
  ]);
});

test('two brokers that advertise the same address', () => {
  const facts = factsOf();
  const given = facts.given.map((one) => ({
    ...one,
    metadata: one.metadata && {
      ...one.metadata,
      brokers: one.metadata.brokers.map((broker) =>
        broker.id === 3 ? { ...broker, address: addressOf(2) } : broker,
      ),
    },
  }));
  const findings = judge({ ...facts, given }).filter(({ check }) => check === 'advertised');
  expect(findings.map(({ status }) => status)).toEqual(['ok', 'fail', 'fail']);
  const found = 'brokers 2 and 3 advertise the same address; broker 2 answers there';
  expect(findings.slice(1).map((finding) => finding.found)).toEqual([found, found]);
  expect(findings[1]?.change).toContain('change that of broker 3');
  expect(findings[2]?.change).toContain(
    `leads to it alone: set advertised.grpc of broker 3 to ${addressOf(3)}, where it answers`,
  );
});

test('an address that another listener advertises', () => {
  const advertised = [
    { listener: 'inside', address: addressOf(1) },
    { listener: 'outside', address: 'localhost:19091' },
  ];
  const facts = factsOf({ node: only(1, { listener: 'inside', advertised }) });
  const entry = facts.addresses.get(addressOf(1));
  const given = facts.given.map((one) => ({ ...one, address: 'localhost:19091' }));
  if (entry === undefined) throw new Error('there is no such address');
  const addresses = new Map([
    ...facts.addresses,
    ['localhost:19091', { ...entry, address: 'localhost:19091' }] as const,
  ]);
  const [finding] = judge({ ...facts, given, addresses }).filter(
    ({ check }) => check === 'advertised-name',
  );
  expect(finding).toMatchObject({
    status: 'warn',
    found:
      'broker 1 advertises it on listener outside, but it leads to listener inside, whose callers ' +
      'are sent to broker-1:9093',
  });
});

test('a broker that answers at several addresses is named by the one that it advertises', () => {
  const facts = factsOf();
  const entry = facts.addresses.get(addressOf(1));
  if (entry === undefined) throw new Error('there is no such address');
  const addresses = new Map([
    ...facts.addresses,
    ['name:1', { ...entry, address: 'name:1' }] as const,
  ]);
  const subjects = judge({ ...facts, addresses })
    .filter(({ check }) => check === 'round-trip')
    .map(({ subject }) => subject);
  expect(subjects).toEqual([1, 2, 3].map((id) => `broker ${id} at ${addressOf(id)}`));
});

test('a listener for callers from here is better than another address', () => {
  const advertised = [
    { listener: 'inside', address: addressOf(1) },
    { listener: 'outside', address: 'localhost:19091' },
  ];
  const inside = { listener: 'inside', advertised, interBrokerListener: 'inside' };
  const facts = factsOf({
    node: only(1, inside),
    look: (id) => (id === 1 ? {} : unreached(id, { kind: 'silent', waitedMs: 1500 })),
  });
  const entry = facts.addresses.get(addressOf(1));
  if (entry === undefined) throw new Error('there is no such address');
  const outside = nodeOf(1, { node: only(1, { ...inside, listener: 'outside' }) });
  const known: readonly AddressFacts[] = [
    { ...entry, address: 'name:1' },
    { ...entry, ...unreached(1, { kind: 'silent', waitedMs: 1500 }) },
  ];
  const given = facts.given.map((one) => ({ ...one, address: 'name:1' }));
  const withAll = (more: readonly AddressFacts[]): readonly Finding[] =>
    bad({
      ...facts,
      given,
      addresses: new Map(
        [...facts.addresses.values(), ...known, ...more].map((one) => [one.address, one]),
      ),
    }).filter(({ check }) => check.startsWith('advertised'));
  const set = 'set advertised.grpc of broker 1 to inside://name:1, outside://localhost:19091';
  const peers = ', if the other brokers reach it there, too';
  const alone = withAll([]);
  expect(alone[0]?.change).toContain(`firewalls`);
  expect(alone[0]?.change).toMatch(new RegExp(`; or ${set}, where it answers${peers}$`));
  expect(alone[1]?.change).toMatch(
    /to inside:\/\/HOST:PORT, under which clients here and the other/,
  );
  expect(alone[3]?.change).toContain(
    `${set}${peers}; else give this network a listener of its own`,
  );
  const reached: AddressFacts = {
    ...entry,
    address: 'localhost:19091',
    service: { kind: 'relevo', node: outside },
  };
  // Reached by chance, not as it is advertised: whoever begins there is sent elsewhere, too.
  expect(withAll([{ ...reached, address: 'name:2' }]).at(-1)?.change).toMatch(/^set advertised/);
  const better =
    'begin with localhost:19091 instead: it leads to the listener outside, which is for callers from here';
  const findings = withAll([reached]);
  expect(findings).toHaveLength(4);
  for (const { change } of findings) expect(change).toMatch(new RegExp(`^${better}; or set `));
});

describe('clocks', () => {
  const sample = (sentMs: number, roundTripMs: number, clockMs: number): Sample => ({
    sentMs,
    roundTripMs,
    node: nodeDescription({ clockMs }),
  });

  test('the quickest answer tells best', () => {
    const skew = skewOf([sample(1000, 400, 9999), sample(2000, 20, 2110), sample(3000, 60, 1)]);
    expect(skew).toEqual({ offsetMs: 100, uncertaintyMs: 11 });
    expect(skewOf([])).toBeUndefined();
  });

  const offBy = (offsets: readonly number[], roundTripMs = 2): readonly Finding[] =>
    judge(
      factsOf({
        samples: (id) => [
          {
            roundTripMs,
            node: nodeDescription({
              clockMs: 1_000_000 + roundTripMs / 2 + (offsets[id - 1] ?? 0),
            }),
          },
        ],
      }),
    ).filter(({ check }) => check === 'clock');

  const table: readonly (readonly [readonly number[], number, readonly string[]])[] = [
    [[0, 0, 0], 2, ['ok', 'ok', 'ok']],
    [[0, 490, -490], 2, ['ok', 'ok', 'ok']],
    [[0, 510, -510], 2, ['ok', 'warn', 'warn']],
    // Not certain enough.
    [[0, 510, -510], 80, ['ok', 'ok', 'ok']],
    [[0, 9990, 10_010], 2, ['ok', 'warn', 'fail']],
  ];
  test.each(table)('off by %j ms, round trips of %d ms: %j', (offsets, roundTripMs, statuses) => {
    expect(offBy(offsets, roundTripMs).map(({ status }) => status)).toEqual(statuses);
  });

  test('where the brokers agree it is this machine that is wrong', () => {
    expect(offBy([5000, 5010, 4990])[0]?.change).toContain("set this machine's clock");
    expect(offBy([0, 5000, 0])[1]?.change).toContain("the clock of broker 2's machine");
    expect(offBy([-5000, 0, 0])[0]?.found).toBe(
      "its clock is 5000 ms behind this machine's, give or take 2 ms",
    );
  });
});

test.each([
  ['localhost:9093', { host: 'localhost', port: 9093 }],
  ['[::1]:9093', { host: '::1', port: 9093 }],
  ['::1:9093', undefined],
  ['localhost', undefined],
  ['localhost:0', undefined],
  ['localhost:65536', undefined],
])('%s as host and port', (address, parts) => {
  expect(hostAndPort(address)).toEqual(parts);
});
