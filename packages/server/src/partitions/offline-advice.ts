import type { BrokerId } from '@relevo/base/ids';
import type { PartitionImage } from '@relevo/controller/image';
import type { Partition } from './partition.ts';

/**
 * What a person is to do about a replica on this broker whose log cannot be used. `isDamaged`: bytes that
 * were durable are damaged or gone; `isCopiedAnew`: it is copied anew where another replica has all.
 */
export function adviceFor(
  name: string,
  known: PartitionImage | undefined,
  localId: BrokerId,
  { isDamaged, isCopiedAnew }: Pick<Partition, 'isCopiedAnew' | 'isDamaged'>,
): string {
  const isWhole = (id: BrokerId): boolean => id !== localId && known?.offline.includes(id) !== true;
  const others = [...(known?.isr ?? []), ...(known?.elr ?? [])].filter(isWhole);
  if (others.length > 0) {
    const who = `broker ${[...new Set(others)].join(', ')}`;
    return isCopiedAnew
      ? `${who} has all acknowledged records, and this replica is copied anew by itself: look at the disk`
      : `${who} has all acknowledged records: see to the disk and restart this broker`;
  }
  if (isDamaged) {
    return (
      'no other replica is sure to have all acknowledged records: do what the reason says, where it says ' +
      'so; else stop this broker and put the files back as they were, or let another replica lead without ' +
      'them (unclean.leader.election.enable), or delete the topic'
    );
  }
  return (
    'no other replica is sure to have all acknowledged records: see to the disk and restart this broker; ' +
    `where it then says that a write has failed, \`relevo log accept-loss DATA ${name}\` takes what is left`
  );
}
