import type { Ports } from '@relevo/base/ports';
import type { CompressionCodecs } from '@relevo/record/compression';

/** All that the SDK touches of the world; `connect` makes them real, the simulator makes its own. */
export type ClientPorts = Pick<
  Ports,
  'clock' | 'timers' | 'random' | 'transport' | 'logger' | 'crc32c'
> & { readonly codecs: CompressionCodecs };
