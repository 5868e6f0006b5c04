import { ClientBook } from '@relevo/runtime/client-limits';
import { describe, expect, test } from 'vitest';

const LIMITS = { connections: 3, calls: 4, callsPerConnection: 2 };

function book(...peers: string[]): { book: ClientBook; closed: string[] } {
  const made = new ClientBook(LIMITS);
  const closed: string[] = [];
  for (const peer of peers) made.connected(peer, { close: () => closed.push(peer) });
  return { book: made, closed };
}

describe('what clients may hold open', () => {
  test('calls of one connection, and of all', () => {
    const { book: calls } = book('a', 'b', 'c');
    const outcomes = ['a', 'a', 'a', 'b', 'b', 'c'].map(
      (peer) => calls.open(peer, 'client')?.message,
    );
    expect(outcomes.map((message) => message?.split(',')[0])).toEqual([
      undefined,
      undefined,
      'this connection has 2 calls open',
      undefined,
      undefined,
      'clients have 4 calls open here',
    ]);
    expect(calls.calls).toBe(4);
    calls.release('a', 'client');
    expect(calls.open('c', 'client')).toBeUndefined();
    expect(calls.open('c', 'client')).toMatchObject({
      status: 'RESOURCE_EXHAUSTED',
      code: 'THROTTLED',
    });
  });

  test("the cluster's own calls are never refused, and take nobody's room", () => {
    const { book: calls } = book('a', 'b');
    for (let i = 0; i < 10; i++) expect(calls.open('a', 'cluster')).toBeUndefined();
    expect(calls.open('a', 'client')).toBeUndefined();
    expect(calls.open('a', 'client')).toBeUndefined();
    expect(calls.open('a', 'client')).toBeDefined();
    expect(calls.open('a', 'cluster')).toBeUndefined();
    expect(calls.calls).toBe(2);
  });

  test('of too many connections the one that is idle for longest is closed', () => {
    const { book: calls, closed } = book('a', 'b', 'c');
    calls.open('a', 'client');
    calls.open('b', 'client');
    calls.release('b', 'client');
    const note = (peer: string): void => calls.connected(peer, { close: () => closed.push(peer) });
    note('d');
    expect(closed).toEqual(['c']);
    note('e');
    expect(closed).toEqual(['c', 'b']);
    calls.open('d', 'cluster');
    calls.open('e', 'client');
    note('f');
    expect(closed).toEqual(['c', 'b', 'f']);
    expect(calls.connections).toBe(3);
    calls.disconnected('a');
    note('g');
    expect(calls.connections).toBe(3);
    expect(closed).toEqual(['c', 'b', 'f']);
  });

  test('a call that outlives its connection is still released', () => {
    const { book: calls } = book('a');
    calls.open('a', 'client');
    calls.disconnected('a');
    calls.release('a', 'client');
    expect(calls.calls).toBe(0);
  });
});
