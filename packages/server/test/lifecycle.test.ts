/** The small parts of a broker's life: whom to ask, and whether the disk is well. */
import { ERRORS } from '@relevo/base/errors';
import { brokerId, term } from '@relevo/base/ids';
import { RpcError } from '@relevo/base/ports';
import type { Ports } from '@relevo/base/ports';
import { notController } from '@relevo/server/controller/controller-errors';
import { ControllerLocator } from '@relevo/server/lifecycle/controller-locator';
import { DiskProof } from '@relevo/server/lifecycle/disk-proof';
import type { ControllerInfo } from '@relevo/server/metadata/metadata-publisher';
import type { SimulatedDisk } from '@relevo/simulation/simulated-disk';
import { World } from '@relevo/simulation/world';
import { describe, expect, test } from 'vitest';

const info = (id: number): ControllerInfo => ({
  id: brokerId(id),
  address: `c${id}:1`,
  term: term(1),
});

describe('whom to ask', () => {
  const broken = new RpcError('UNAVAILABLE', 'connection refused');

  test('all controllers in turn, while nothing is known', () => {
    const locator = new ControllerLocator({ addresses: ['c1:1', 'c2:1'], known: () => undefined });
    const asked = Array.from({ length: 3 }, () => {
      const address = locator.address();
      expect(locator.failed(address, broken)).toBe(false);
      return address;
    });
    expect(asked).toEqual(['c1:1', 'c2:1', 'c1:1']);
  });

  test('the one that the metadata names, until it fails; then others, until it names another', () => {
    let known = info(2);
    const locator = new ControllerLocator({ addresses: ['c1:1', 'c2:1'], known: () => known });
    expect(locator.address()).toBe('c2:1');
    locator.failed('c2:1', broken);
    expect(locator.address()).toBe('c2:1');
    locator.failed('c2:1', broken);
    expect(locator.address()).toBe('c1:1');
    known = info(3);
    locator.moved();
    expect(locator.address()).toBe('c3:1');
  });

  test('the one that an error names, at once; but not for ever', () => {
    const locator = new ControllerLocator({ addresses: ['c1:1', 'c2:1'], known: () => undefined });
    expect(locator.failed('c1:1', notController(info(3)))).toBe(true);
    expect(locator.address()).toBe('c3:1');
    locator.worked('c3:1');
    expect(locator.address()).toBe('c3:1');
    expect(locator.failed('c3:1', broken)).toBe(false);
    expect(locator.address()).toBe('c1:1');
  });

  test('one that names itself, or nobody, is no better than one that fails', () => {
    const locator = new ControllerLocator({ addresses: ['c1:1', 'c2:1'], known: () => undefined });
    expect(locator.failed('c1:1', notController(info(1)))).toBe(false);
    expect(locator.failed('c2:1', notController(undefined))).toBe(false);
    expect(notController(undefined).status).toBe(ERRORS.NOT_CONTROLLER.status);
  });
});

describe('the proof of the disk', () => {
  async function withProof(
    scenario: (proof: DiskProof, disk: SimulatedDisk, world: World, ports: Ports) => Promise<void>,
  ): Promise<void> {
    const world = new World({ seed: 1, disk: { capacityBytes: 1024 } });
    const process = world.process('broker');
    await world.run(async () => {
      const ports = await new Promise<Ports>((resolve) => process.boot(resolve));
      ports.disk.makeDirectory('/data');
      const proof = new DiskProof(ports, { directory: '/data' });
      await scenario(proof, process.disk, world, ports);
      proof.close();
    });
  }

  test('an fsync twice a second at most, and none when the log has just synced', () =>
    withProof(async (proof, disk, world) => {
      const written = (): number => disk.contents('/data/heartbeat')[0] ?? 0;
      for (let i = 0; i < 40; i++) {
        expect(proof.syncMs()).toBeLessThan(50);
        await world.sleep(250);
      }
      const count = written();
      expect(count).toBeGreaterThan(9);
      expect(count).toBeLessThan(22);
      for (let i = 0; i < 40; i++) {
        proof.synced(3);
        expect(proof.syncMs()).toBe(3);
        await world.sleep(250);
      }
      expect(written() - count).toBeLessThan(2);
    }));

  test('while an fsync hangs its age is told; once it is through the disk is well again', () =>
    withProof(async (proof, disk, world) => {
      proof.syncMs();
      await world.sleep(600);
      disk.hang();
      proof.syncMs();
      await world.sleep(2000);
      expect(proof.syncMs()).toBeGreaterThan(1990);
      disk.unhang();
      await world.sleep(600);
      proof.syncMs();
      await world.sleep(100);
      expect(proof.syncMs()).toBeLessThan(50);
    }));

  test('after a failed fsync the disk is not trusted again (L3)', () =>
    withProof(async (proof, disk, world) => {
      disk.fail({ operation: 'datasync' });
      proof.syncMs();
      await world.sleep(100);
      expect(proof.syncMs()).toBe(-1);
      await world.sleep(10_000);
      expect(proof.syncMs()).toBe(-1);
    }));

  test('a full disk is no broken one', () =>
    withProof(async (proof, disk, world) => {
      disk.fail({ operation: 'write', code: 'FULL', times: 100 });
      proof.syncMs();
      await world.sleep(100);
      expect(proof.syncMs()).toBeGreaterThanOrEqual(0);
    }));
});
