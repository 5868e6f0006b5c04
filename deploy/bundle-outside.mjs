/** What the pack of deploy/bundle.mjs needs beside itself. */

/** Packages with native code, and those that look for files beside themselves: never packed. */
export const OUTSIDE_THE_PACK = [
  ...['@mongodb-js/zstd', '@node-rs/crc32', 'lz4-napi', 'snappy'],
  ...['@grpc/proto-loader', '@grpc/reflection', 'grpc-health-check'],
];

/** Loaded by name when they are wanted, for people's eyes: the bundler does not see them. */
export const LOADED_WHEN_WANTED = ['cli-table3', 'pino-pretty'];
