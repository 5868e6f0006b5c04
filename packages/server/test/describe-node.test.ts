/** What a node tells of itself to whoever asks who it is. */
import { describeNode } from '@relevo/server/api/describe-node';
import { resolveConfig } from '@relevo/server/config/node-config';
import { VERSION } from '@relevo/base/version';
import { expect, test } from 'vitest';

const config = resolveConfig({
  file: {
    'cluster.id': 'unit',
    'node.id': 2,
    'process.roles': 'broker',
    'log.dir': 'data',
    'listener.grpc': 'inside://0.0.0.0:9093, outside://0.0.0.0:19093',
    'advertised.grpc': 'inside://broker-2:9093, outside://localhost:19092',
    'controller.quorum.voters': '1@broker-1:9093, 3@broker-3:9093',
  },
});

test('its settings, its clock, and what it knows', () => {
  const state = {
    ...{ clockMs: 1234, controllerId: 3, metadataVersion: 77, unready: undefined },
    membership: 'secret' as const,
    offline: [{ partition: 'orders-3', reason: 'the log is damaged' }],
  };
  expect(describeNode(config, 'outside', state)).toEqual({
    nodeId: 2,
    clusterId: 'unit',
    version: VERSION,
    roles: ['broker'],
    clockMs: 1234,
    listener: 'outside',
    advertised: [
      { listener: 'inside', address: 'broker-2:9093' },
      { listener: 'outside', address: 'localhost:19092' },
    ],
    controllerId: 3,
    metadataVersion: 77,
    voters: ['1@broker-1:9093', '3@broker-3:9093'],
    unready: '',
    interBrokerListener: 'inside',
    clusterListeners: ['inside'],
    membership: 'secret',
    offlineReplicas: ['orders-3: the log is damaged'],
  });
});

test('no controller known is -1, which is no id', () => {
  const state = {
    ...{ clockMs: 0, controllerId: undefined, metadataVersion: 0, unready: 'starting' },
    membership: 'none' as const,
    offline: [],
  };
  expect(describeNode(config, 'inside', state)).toMatchObject({
    controllerId: -1,
    unready: 'starting',
  });
});
