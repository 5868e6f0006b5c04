/**
 * The cluster as its active controller sees it, for Prometheus; 0 on every other node, so that `max` over
 * the nodes is the cluster's. Counted when somebody looks, and once for an image: images never change.
 */
import type { Metrics } from '@relevo/base/ports';
import type { ClusterImage } from '@relevo/controller/image';
import type { TopicSettings } from '@relevo/controller/topic-config';
import { clusterTotals, type ClusterTotals } from '../metadata/cluster-totals.ts';

interface Figures extends ClusterTotals {
  readonly brokers: number;
  readonly fenced: number;
  readonly topics: number;
}

const NONE: Figures = {
  brokers: 0,
  fenced: 0,
  topics: 0,
  partitions: 0,
  underReplicated: 0,
  offline: 0,
  offlineReplicas: 0,
  underMinIsr: 0,
  notPreferred: 0,
};

const MEASURES: readonly (readonly [keyof Figures, name: string, help: string])[] = [
  ['brokers', 'brokers', 'Registered brokers, fenced ones included'],
  [
    'fenced',
    'brokers_fenced',
    'Registered brokers that are fenced: not reached, or still starting',
  ],
  ['topics', 'topics', 'Topics'],
  ['partitions', 'partitions', 'Partitions of all topics'],
  ['offline', 'offline_partitions', 'Partitions without a leader'],
  ['offlineReplicas', 'offline_replicas', 'Replicas whose log cannot be used'],
  [
    'underReplicated',
    'under_replicated_partitions',
    'Partitions with fewer replicas in sync than replicas',
  ],
  [
    'underMinIsr',
    'under_min_isr_partitions',
    'Partitions with fewer replicas in sync than acks=all needs',
  ],
  [
    'notPreferred',
    'not_preferred_partitions',
    'Partitions that are not led by their preferred replica',
  ],
];

export interface ClusterMetricsOptions {
  readonly topicDefaults: TopicSettings;
  /** Undefined where this node is not the active controller. */
  readonly image: () => ClusterImage | undefined;
}

export function exposeCluster(metrics: Metrics, options: ClusterMetricsOptions): void {
  let counted: { readonly image: ClusterImage; readonly figures: Figures } | undefined;
  const figures = (): Figures => {
    const image = options.image();
    if (image === undefined) {
      counted = undefined;
      return NONE;
    }
    if (counted?.image !== image) {
      counted = { image, figures: count(image, options.topicDefaults) };
    }
    return counted.figures;
  };
  for (const [figure, name, help] of MEASURES) {
    const whose = 'as the active controller sees it; 0 on other nodes';
    metrics.measure(`relevo_controller_${name}`, `${help}, ${whose}.`, () => [
      { value: figures()[figure] },
    ]);
  }
}

function count(image: ClusterImage, topicDefaults: TopicSettings): Figures {
  let fenced = 0;
  for (const broker of image.brokers.values()) if (broker.fenced) fenced++;
  return {
    ...clusterTotals(image, topicDefaults),
    brokers: image.brokers.size,
    fenced,
    topics: image.topicsById.size,
  };
}
