/** Names and TCP connections, each with a limit. */
import { lookup } from 'node:dns/promises';
import { connect, isIP } from 'node:net';
import type { Connection, Resolution } from './facts.ts';

export interface HostPort {
  readonly host: string;
  readonly port: number;
}

/** Of `host:port` or `[v6 address]:port`; undefined where it is neither. */
export function hostAndPort(address: string): HostPort | undefined {
  const parts = /^(?:\[([^\]\s]+)\]|([^:[\]\s/]+)):(\d{1,5})$/.exec(address);
  const host = parts?.[1] ?? parts?.[2];
  const port = Number(parts?.[3]);
  return host === undefined || port < 1 || port > 65_535 ? undefined : { host, port };
}

export const joined = (host: string, port: number): string =>
  host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;

/** All addresses of `host`, as this machine's resolver gives them. */
export async function resolveHost(host: string, limitMs: number): Promise<Resolution> {
  if (isIP(host) !== 0) return { kind: 'resolved', ips: [host] };
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<Resolution>((resolve) => {
    timer = setTimeout(() => resolve({ kind: 'silent', waitedMs: Math.round(limitMs) }), limitMs);
  });
  try {
    return await Promise.race([lookUp(host), late]);
  } finally {
    clearTimeout(timer);
  }
}

async function lookUp(host: string): Promise<Resolution> {
  try {
    const found = await lookup(host, { all: true });
    return { kind: 'resolved', ips: [...new Set(found.map(({ address }) => address))] };
  } catch (error) {
    const { code = '', message } = error as NodeJS.ErrnoException;
    if (code === 'ENOTFOUND' || code === 'ENODATA') return { kind: 'unknown' };
    const temporary = code === 'EAI_AGAIN' || code === 'EAI_FAIL';
    const reason = temporary ? `the name server gives no answer (${code})` : message;
    return { kind: 'failed', reason };
  }
}

const NO_ROUTE = new Set(['EHOSTUNREACH', 'ENETUNREACH', 'EHOSTDOWN', 'ENETDOWN', 'EADDRNOTAVAIL']);

/** Makes one connection and gives it up. */
export function tryConnection(ip: string, port: number, limitMs: number): Promise<Connection> {
  return new Promise((resolve) => {
    const socket = connect({ host: ip, port });
    const settle = (connection: Connection): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(connection);
    };
    const timer = setTimeout(
      () => settle({ kind: 'silent', waitedMs: Math.round(limitMs) }),
      limitMs,
    );
    socket.once('connect', () => settle({ kind: 'connected' }));
    socket.on('error', ({ code = '', message }: NodeJS.ErrnoException) => {
      if (code === 'ECONNREFUSED') settle({ kind: 'refused' });
      else if (code === 'ETIMEDOUT') settle({ kind: 'silent', waitedMs: Math.round(limitMs) });
      else if (NO_ROUTE.has(code)) settle({ kind: 'unreachable', reason: code });
      else settle({ kind: 'failed', reason: message });
    });
  });
}
