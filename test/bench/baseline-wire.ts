/** What both sides of the baseline share. */
export const PATHS = { sink: '/baseline.Baseline/Sink', source: '/baseline.Baseline/Source' };

const same = (bytes: Buffer): Buffer => bytes;

/** Messages are bytes as they are. */
export const raw = {
  requestStream: true,
  responseStream: true,
  requestSerialize: same,
  requestDeserialize: same,
  responseSerialize: same,
  responseDeserialize: same,
};

/** The best settings found for a bulk stream. */
export const CHANNEL_OPTIONS = {
  'grpc-node.flow_control_window': 8 * 1024 * 1024,
  'grpc.max_receive_message_length': -1,
  'grpc.max_send_message_length': -1,
};
