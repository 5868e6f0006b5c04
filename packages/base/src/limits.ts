/**
 * Sizes that depend on each other across the packages: what one part accepts, every other must be able to
 * store, replicate and hand out.
 */

/**
 * The largest record batch that can be accepted anywhere, in bytes, header included: the upper bound of
 * `max.message.bytes` and `message.max.bytes`.
 */
export const BATCH_BYTES_MAX: number = 8 * 1024 * 1024;

/**
 * The largest message on the wire, in bytes. It holds the largest batch, and beside it what an answer says
 * of every other partition in it.
 */
export const RPC_MESSAGE_BYTES_MAX: number = 2 * BATCH_BYTES_MAX;
