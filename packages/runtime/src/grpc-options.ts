/** The named limits of the gRPC transport, and what they come to as options of @grpc/grpc-js. */
import type { ChannelOptions } from '@grpc/grpc-js';
import { RPC_MESSAGE_BYTES_MAX } from '@relevo/base/limits';

/** The largest message taken or sent. */
export const MESSAGE_BYTES_MAX: number = RPC_MESSAGE_BYTES_MAX;
/** `send` answers false when more is queued on a stream. */
export const STREAM_QUEUE_BYTES: number = 8 * 1024 * 1024;
/** Bytes under way on a stream, and on a connection, before the receiver must have taken some. */
export const WINDOW_BYTES: number = 8 * 1024 * 1024;
/** Messages of a stream that gRPC holds at a time; the others wait in our own queue. */
export const WRITES_AHEAD: number = 32;
/** And how many bytes. */
export const WRITE_AHEAD_BYTES: number = 1024 * 1024;
/** Calls and streams at a time on one connection; further ones wait at the client. */
export const CONCURRENT_CALLS_MAX = 1000;
/** A connection that is not up after so long is given up: its host is gone, or the process hangs. */
export const CONNECT_TIMEOUT_MS = 5000;
/** Finds half-open connections. The protocols above have heartbeats of their own, far quicker. */
export const KEEPALIVE_INTERVAL_MS = 10_000;
export const KEEPALIVE_TIMEOUT_MS = 5000;
/** How long cancelled calls have to tell their callers, before their connections are cut. */
export const CANCEL_FLUSH_MS = 250;

const COMMON: ChannelOptions = {
  'grpc.max_receive_message_length': MESSAGE_BYTES_MAX,
  'grpc.max_send_message_length': -1,
  'grpc.keepalive_time_ms': KEEPALIVE_INTERVAL_MS,
  'grpc.keepalive_timeout_ms': KEEPALIVE_TIMEOUT_MS,
  'grpc.enable_channelz': 0,
  'grpc-node.max_session_memory': Number.MAX_SAFE_INTEGER,
};

export const CHANNEL_OPTIONS: ChannelOptions = {
  ...COMMON,
  'grpc-node.flow_control_window': WINDOW_BYTES,
  // One connection for each channel, dialled straight, without look-ups of service configurations.
  'grpc.use_local_subchannel_pool': 1,
  'grpc.enable_http_proxy': 0,
  'grpc.service_config_disable_resolution': 1,
  // Retries are for those who know what was sent: no copies are kept for them here, and a message
  // counts as written when it has been.
  'grpc.enable_retries': 0,
  'grpc.retry_buffer_size': 0,
  'grpc.per_rpc_retry_buffer_size': 0,
  'grpc.initial_reconnect_backoff_ms': 20,
  'grpc.max_reconnect_backoff_ms': 1000,
};

export const SERVER_OPTIONS: ChannelOptions = {
  ...COMMON,
  'grpc.max_concurrent_streams': CONCURRENT_CALLS_MAX,
};
