/**
 * The production quorum under random faults: kills that lose what was not synced, pauses, cuts both and one
 * way, broken connections, hanging disks. Whatever was acknowledged must be applied everywhere in the end,
 * and no two nodes may ever apply different entries at one index (`QuorumWorld` looks at each).
 */
import { describe, expect, test } from 'vitest';
import { QuorumWorld } from './quorum-world.ts';
import type { Voter } from './quorum-world.ts';

const SEEDS = Number(process.env['RELEVO_SEEDS'] ?? 12);
const FIRST_SEED = Number(process.env['RELEVO_SEED'] ?? 1);
const STORM_MS = 12_000;
const PROPOSAL_MS = 10;

class Storm {
  readonly it: QuorumWorld;
  readonly acked: string[] = [];
  readonly #random: { float(): number };
  #proposed = 0;
  #over = false;

  constructor(seed: number) {
    this.it = new QuorumWorld([1, 2, 3], { snapshotEntries: 60 }, { seed });
    this.#random = this.it.world.prng.split('storm');
  }

  async run(): Promise<void> {
    const { world } = this.it;
    await world.run(async () => {
      await this.it.boot(1, 2, 3);
      const producing = this.#produce();
      while (world.nowMs < STORM_MS) {
        await this.#fault();
        await world.sleep(this.#random.float() * 1200);
      }
      await this.#heal();
      await this.it.untilLed(20_000);
      await world.sleep(500);
      this.#over = true;
      await producing;
      await this.it.untilEqual(this.acked);
    });
  }

  #voters(): Voter[] {
    return [...this.it.voters.values()];
  }

  #pick(): Voter {
    const voters = this.#voters();
    const voter = voters[Math.floor(this.#random.float() * voters.length)];
    if (voter === undefined) throw new Error('no voters');
    return voter;
  }

  async #produce(): Promise<void> {
    while (!this.#over) {
      for (const voter of this.#voters()) {
        if (!voter.process.alive || voter.process.paused) continue;
        if (voter.quorum?.status().isLeader !== true) continue;
        const text = `p${++this.#proposed}`;
        this.it.propose(voter, text).then(
          () => this.acked.push(text),
          () => undefined,
        );
      }
      await this.it.world.sleep(PROPOSAL_MS);
    }
  }

  async #fault(): Promise<void> {
    const { network } = this.it.world;
    const { process, id } = this.#pick();
    const other = this.#pick();
    const draw = this.#random.float();
    if (draw < 0.25) {
      if (!process.alive) await this.#restart(id);
      else await process.kill({ unsynced: this.#random.float() < 0.7 ? 'lose' : 'keep' });
    } else if (draw < 0.4) {
      for (const voter of this.#voters()) if (!voter.process.alive) await this.#restart(voter.id);
    } else if (draw < 0.5) process.pause();
    else if (draw < 0.6) this.#voters().forEach((voter) => voter.process.resume());
    else if (draw < 0.75) network.setBlocked(`node-${id}`, `node-${other.id}`, true);
    else if (draw < 0.85) network.heal();
    else if (draw < 0.92) network.breakConnections(`node-${id}`, `node-${other.id}`);
    else if (draw < 0.96) process.disk.hang();
    else this.#voters().forEach((voter) => voter.process.disk.unhang());
  }

  async #restart(id: number): Promise<void> {
    this.it.voter(id).process.disk.unhang();
    await this.it.boot(id);
    expect(this.it.voter(id).startError, `node ${id} starts`).toBeUndefined();
  }

  async #heal(): Promise<void> {
    this.it.world.network.heal();
    for (const voter of this.#voters()) {
      voter.process.disk.unhang();
      voter.process.resume();
      if (!voter.process.alive) await this.#restart(voter.id);
      expect(voter.failure, `node ${voter.id} goes on`).toBeUndefined();
    }
  }
}

describe('under random faults', () => {
  const seeds = Array.from({ length: SEEDS }, (_, at) => FIRST_SEED + at);
  test.each(seeds)('seed %i: nothing acknowledged is lost', async (seed) => {
    const storm = new Storm(seed);
    await storm.run();
    expect(storm.acked.length).toBeGreaterThan(50);
  });
});
