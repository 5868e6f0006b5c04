/** Replication as the followers' broker does it: one link to each broker that leads something here. */
import type { BrokerId } from '@relevo/base/ids';
import type { ClusterImage } from '@relevo/controller/image';
import { LeaderLink } from './leader-link.ts';
import type { LeaderLinkDeps } from './leader-link.ts';
import type { FollowerRole, Partition } from './partition.ts';

export class ReplicationClient {
  readonly #deps: LeaderLinkDeps;
  readonly #links = new Map<BrokerId, LeaderLink>();
  readonly #followed = new Map<Partition, FollowerRole>();
  #closed = false;

  constructor(deps: LeaderLinkDeps) {
    this.#deps = deps;
  }

  /** Whether the stream to each leader is up. */
  links(): { readonly leader: BrokerId; readonly isUp: boolean; readonly partitions: number }[] {
    return [...this.#links.values()].map(({ leaderId, isUp, size }) => ({
      leader: leaderId,
      isUp,
      partitions: size,
    }));
  }

  /** The partition's part on this broker has changed. */
  roleChanged(partition: Partition, image: ClusterImage): void {
    if (this.#closed) return;
    const before = this.#followed.get(partition);
    const role = partition.follower;
    if (before === role) return;
    if (before !== undefined && before.leaderId !== role?.leaderId) {
      this.#links.get(before.leaderId)?.unfollow(partition);
    }
    this.#followed.delete(partition);
    if (role === undefined) return;
    this.#followed.set(partition, role);
    this.#link(role.leaderId, image)?.follow(partition, role);
  }

  /** The partition's log is durable further than it was. */
  synced(partition: Partition): void {
    const role = this.#followed.get(partition);
    if (role !== undefined) this.#links.get(role.leaderId)?.synced(partition);
  }

  /** Brokers may have moved, or this one may have registered anew. Links with nothing to do end. */
  applyImage(image: ClusterImage): void {
    if (this.#closed) return;
    const epoch = this.#deps.brokerEpoch();
    for (const [leaderId, link] of this.#links) {
      const address = image.brokers.get(leaderId)?.peerAddress;
      if (link.size > 0 && link.address === address && link.brokerEpoch === epoch) continue;
      link.close();
      this.#links.delete(leaderId);
    }
    for (const [partition, role] of this.#followed) {
      if (this.#links.has(role.leaderId) || partition.follower !== role) continue;
      // A new link takes all its partitions in one go: the others of this leader come right after.
      this.#link(role.leaderId, image);
    }
    for (const [partition, role] of this.#followed) {
      const link = this.#links.get(role.leaderId);
      if (link !== undefined && !link.follows(partition)) link.follow(partition, role);
    }
  }

  close(): void {
    this.#closed = true;
    for (const link of this.#links.values()) link.close();
    this.#links.clear();
    this.#followed.clear();
  }

  #link(leaderId: BrokerId, image: ClusterImage): LeaderLink | undefined {
    let link = this.#links.get(leaderId);
    if (link !== undefined) return link;
    // Not registered as far as this broker knows: the next image may tell.
    const address = image.brokers.get(leaderId)?.peerAddress;
    if (address === undefined) return undefined;
    link = new LeaderLink(leaderId, address, this.#deps);
    this.#links.set(leaderId, link);
    return link;
  }
}
