/** Calls that are handed on to the active controller, in a simulated world. */
import { RelevoError } from '@relevo/base/errors';
import { route } from '@relevo/base/ports';
import type { Ports } from '@relevo/base/ports';
import { deleteTopicResponse } from '@relevo/rpc/gen/client/admin';
import { ControllerAdminService } from '@relevo/rpc/gen/cluster/controller-admin';
import { ControllerCalls } from '@relevo/server/api/controller-calls';
import { World } from '@relevo/simulation/world';
import { describe, expect, test } from 'vitest';

const TOPIC_ID = 'A'.repeat(22);

/** A controller with one topic; what it does at each call, besides deleting. */
async function deletion(disturb: (world: World, call: number) => void): Promise<string> {
  const world = new World({ seed: 1 });
  return world.run(async () => {
    const boot = (name: string): Promise<Ports> =>
      new Promise((resolve) => world.process(name).boot(resolve));
    const controller = await boot('controller');
    const broker = await boot('broker');
    let exists = true;
    let count = 0;
    const refusal = new RelevoError('UNKNOWN_TOPIC_OR_PARTITION', 'topic "t" does not exist');
    await controller.transport.listen('controller:1', [
      route(ControllerAdminService.deleteTopic, () => {
        disturb(world, ++count);
        if (!exists) return Promise.reject(refusal);
        exists = false;
        return Promise.resolve(deleteTopicResponse({ topicId: TOPIC_ID }));
      }),
    ]);
    const calls = new ControllerCalls({
      ...broker,
      isActive: () => false,
      controllerAddress: () => 'controller:1',
    });
    const ask = (): Promise<string> =>
      calls
        .call(ControllerAdminService.deleteTopic, { name: 't' }, () =>
          Promise.reject(new Error('this node is not active')),
        )
        .then(
          () => 'done',
          (error: unknown) => (error instanceof RelevoError ? error.code : String(error)),
        );
    const first = await ask();
    return `${first}, ${await ask()}`;
  });
}

describe('a call to the active controller', () => {
  test('is answered as it was carried out, or refused', async () => {
    expect(await deletion(() => undefined)).toBe('done, UNKNOWN_TOPIC_OR_PARTITION');
  });

  test('whose answer was lost is not refused for what it has done itself', async () => {
    const lost = (world: World, call: number): void => {
      if (call === 1) world.network.breakConnections('broker', 'controller');
    };
    expect(await deletion(lost)).toBe('REQUEST_TIMED_OUT, UNKNOWN_TOPIC_OR_PARTITION');
  });
});
