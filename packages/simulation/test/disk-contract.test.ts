import { diskContract } from '../../base/test/disk-contract.ts';
import { Prng } from '@relevo/simulation/prng';
import { SimulatedDisk } from '@relevo/simulation/simulated-disk';

diskContract('simulated disk', () => {
  const disk = new SimulatedDisk({ prng: new Prng('contract') }).port();
  disk.makeDirectory('/data/root');
  return { disk, root: '/data/root', dispose: () => undefined };
});
