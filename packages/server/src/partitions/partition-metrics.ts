/** What the partitions of a broker tell Prometheus. */
import type { Counter, Gauge, Histogram, Metrics } from '@relevo/base/ports';

/** From a tenth of a millisecond to ten seconds, in steps of about three. */
const LATENCY_BUCKETS: readonly number[] = [
  0.0001, 0.0003, 0.001, 0.002, 0.003, 0.005, 0.01, 0.03, 0.1, 0.3, 1, 3, 10,
];

export class PartitionMetrics {
  readonly produceRequests: Counter;
  readonly produceErrors: Counter;
  readonly producedBytes: Counter;
  readonly fetchRequests: Counter;
  readonly fetchedBytes: Counter;
  readonly replicationBytesIn: Counter;
  readonly replicationBytesOut: Counter;
  readonly replicationReReads: Counter;
  readonly isrShrinks: Counter;
  readonly isrExpands: Counter;
  readonly truncations: Counter;
  readonly damageReports: Counter;
  readonly partitions: Gauge;
  readonly leaders: Gauge;
  readonly underReplicated: Gauge;
  readonly underMinIsr: Gauge;
  readonly offline: Gauge;
  readonly appendsRefused: Gauge;
  readonly diskFree: Gauge;
  readonly diskReserve: Gauge;
  readonly watermarkLag: Gauge;
  readonly inHandBytes: Gauge;
  readonly produceSeconds: Histogram;
  readonly syncSeconds: Histogram;

  constructor(metrics: Metrics) {
    const counter = (name: string, help: string): Counter => metrics.counter(name, help);
    const gauge = (name: string, help: string): Gauge => metrics.gauge(name, help);
    this.produceRequests = counter('relevo_produce_requests_total', 'Batches that producers sent.');
    this.produceErrors = counter('relevo_produce_errors_total', 'Batches answered with an error.');
    this.producedBytes = counter(
      'relevo_produce_bytes_total',
      'Bytes of batches appended as leader.',
    );
    this.fetchRequests = counter('relevo_fetch_requests_total', 'Fetches of consumers.');
    this.fetchedBytes = counter('relevo_fetch_bytes_total', 'Bytes of batches given to consumers.');
    this.replicationBytesIn = counter(
      'relevo_replication_in_bytes_total',
      'Bytes of batches appended as follower.',
    );
    this.replicationBytesOut = counter(
      'relevo_replication_out_bytes_total',
      'Bytes of batches sent to followers.',
    );
    this.replicationReReads = counter(
      'relevo_replication_reread_bytes_total',
      'Bytes of batches that were read from the log again for followers that were behind.',
    );
    this.isrShrinks = counter('relevo_isr_shrinks_total', 'Replicas that left an in-sync set.');
    this.isrExpands = counter('relevo_isr_expands_total', 'Replicas that joined an in-sync set.');
    this.truncations = counter('relevo_truncations_total', 'Logs cut to follow another leader.');
    this.damageReports = counter(
      'relevo_damage_reports_total',
      'Batches led here that arrived damaged, as followers and clients say.',
    );
    this.partitions = gauge('relevo_partitions', 'Replicas on this broker.');
    this.leaders = gauge('relevo_leader_partitions', 'Partitions led by this broker.');
    this.underReplicated = gauge(
      'relevo_under_replicated_partitions',
      'Partitions led here with fewer in-sync replicas than replicas.',
    );
    this.underMinIsr = gauge(
      'relevo_under_min_isr_partitions',
      'Partitions led here that refuse acks=all.',
    );
    this.offline = gauge('relevo_offline_replicas', 'Replicas whose log cannot be used.');
    this.appendsRefused = gauge(
      'relevo_appends_refused',
      '1 while the disk is short of room and appends are refused, else 0.',
    );
    this.diskFree = gauge(
      'relevo_disk_free_bytes',
      'Free on the disk of the data directory, log.disk.reserve.bytes included.',
    );
    this.diskReserve = gauge(
      'relevo_disk_reserve_bytes',
      'With less than this free appends are refused: log.disk.reserve.bytes.',
    );
    this.watermarkLag = gauge(
      'relevo_high_watermark_lag_records',
      'Records appended and not yet committed, in the partition led here with the most.',
    );
    this.inHandBytes = gauge(
      'relevo_produce_in_hand_bytes',
      'Bytes of batches appended and not yet answered.',
    );
    this.produceSeconds = metrics.histogram(
      'relevo_produce_seconds',
      'From the arrival of a batch to its acknowledgement.',
      LATENCY_BUCKETS,
    );
    this.syncSeconds = metrics.histogram(
      'relevo_fsync_seconds',
      'How long an fdatasync of a log took.',
      LATENCY_BUCKETS,
    );
  }
}
