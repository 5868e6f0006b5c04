/** What a broker says to callers that came under another name than it advertises. */
import type { Logger } from '@relevo/base/ports';
import { UnadvertisedNames } from '@relevo/server/api/unadvertised-names';
import { expect, test } from 'vitest';

const INSIDE = { listener: 'inside', address: 'broker-1:9093' };
const OUTSIDE = { listener: 'outside', address: 'localhost:19091' };

function hintsOf(
  advertised: readonly { readonly listener: string; readonly address: string }[],
  reached: readonly (readonly [listener: string, authority: string])[],
): readonly string[] {
  const hints: string[] = [];
  const logger: Logger = {
    debug: () => undefined,
    info: (_, fields) => hints.push(String(fields?.['hint'])),
    warn: () => undefined,
    error: () => undefined,
    child: () => logger,
  };
  const names = new UnadvertisedNames(logger, advertised);
  for (const [listener, authority] of reached) names.reached({ address: '', authority, listener });
  return hints;
}

test('each name is said once, advertised ones never', () => {
  const hints = hintsOf(
    [INSIDE, OUTSIDE],
    [
      ['inside', 'broker-1:9093'],
      ['inside', ''],
      ['outside', 'host:19091'],
      ['outside', 'host:19091'],
    ],
  );
  expect(hints).toHaveLength(1);
});

test('of several listeners the whole value is given', () => {
  const [hint] = hintsOf([INSIDE, OUTSIDE], [['outside', 'host:19091']]);
  expect(hint).toContain(
    'set advertised.grpc to inside://broker-1:9093, outside://host:19091, unless outside is the ' +
      'listener that the brokers use among themselves (inter.broker.listener.name); then',
  );
  expect(hint).toContain('inside://broker-1:9093, outside://localhost:19091, NAME://host:19091');
});

test("the brokers' only listener keeps its address", () => {
  const [hint] = hintsOf([{ listener: 'default', address: 'broker-1:9093' }], [['default', 'a:1']]);
  expect(hint).toContain('set advertised.grpc to default://broker-1:9093, NAME://a:1; or to a:1');
  expect(hint).toContain('if the other brokers reach this one there, too');
});

test.each(['localhost:9093', '127.0.0.1:9093', '[::1]:9093'])(
  '%s is never put in the place of an address that works for others',
  (name) => {
    const [hint] = hintsOf([INSIDE, OUTSIDE], [['inside', name]]);
    expect(hint).toMatch(/^its callers are sent on to broker-1:9093, which is fine where they can/);
    expect(hint).not.toContain(`inside://${name}`);
    expect(hint).toContain('inside://broker-1:9093, outside://localhost:19091, NAME://');
  },
);
