/** What keeps an address from being a Relevo node's, one judgement for each stage of reaching it. */
import type { AddressFacts, Endpoint, Service, Stranger } from './facts.ts';

export const isLoopback = (host: string): boolean => /^(localhost|127\..*|::1)$/i.test(host);

/** Why its name leads nowhere. */
export function nameTrouble({ host, resolution }: AddressFacts): string | undefined {
  switch (resolution.kind) {
    case 'resolved':
      return resolution.ips.length > 0 ? undefined : `the name ${host} has no address`;
    case 'unknown':
      return `the name ${host} is not known here`;
    case 'silent':
      return `no name server tells where ${host} is within ${resolution.waitedMs} ms`;
    case 'failed':
      return `${host} cannot be looked up: ${resolution.reason}`;
  }
}

export const isConnected = ({ connection }: Endpoint): boolean => connection.kind === 'connected';

/** How the connection to one address of a name was met. */
export function connectionText({ connection }: Endpoint): string {
  switch (connection.kind) {
    case 'connected':
      return 'connected';
    case 'refused':
      return 'refused, nothing listens on that port';
    case 'silent':
      return `no answer within ${connection.waitedMs} ms`;
    case 'unreachable':
      return `no route to it (${connection.reason})`;
    case 'failed':
      return connection.reason;
  }
}

export const endpointsText = (endpoints: readonly Endpoint[]): string =>
  endpoints.map((endpoint) => `${endpoint.ip} ${connectionText(endpoint)}`).join('; ');

/** What to look at, by how the connection failed; the first that has an answer to that is taken. */
export function connectionAdvice({ host, port, endpoints }: AddressFacts): string {
  const kinds = new Set(endpoints.map(({ connection }) => connection.kind));
  if (kinds.has('refused')) {
    const itself = isLoopback(host) ? `; in a container, ${host} is the container itself` : '';
    return (
      `start the broker, or use the port that its listener.grpc has (in containers: the published ` +
      `one)${itself}`
    );
  }
  if (kinds.has('silent')) {
    return (
      `see that the host is up, and that firewalls and security groups let TCP port ${port} through ` +
      `from here`
    );
  }
  if (kinds.has('unreachable')) {
    return `this machine has no way to that network: use an address that it can route to`;
  }
  return 'see what is between this machine and that address';
}

export const isNode = (service: Service | undefined): boolean =>
  service?.kind === 'relevo' || service?.kind === 'older';

/** What answers where a Relevo node was expected. */
export function strangerText(stranger: Stranger): string {
  switch (stranger.kind) {
    case 'grpc':
      return `a gRPC server that is no Relevo broker answers (${stranger.said})`;
    case 'http2':
      return 'an HTTP/2 server that serves no gRPC answers';
    case 'http':
      return stranger.ofRelevo
        ? 'the HTTP port of a Relevo broker answers, not its gRPC port'
        : `an HTTP server answers ("${stranger.said}")`;
    case 'tls':
      return `a TLS port answers${stranger.protocol === '' ? '' : ` (${stranger.protocol})`}`;
    case 'kafka':
      return "a Kafka broker answers: it speaks Kafka's protocol, not Relevo's";
    case 'other':
      return `something else answers ("${stranger.said}")`;
    case 'closes':
      return 'connections are taken and closed at once';
    case 'mute':
      return 'connections are taken, but nothing is ever said';
  }
}

export function strangerAdvice({ kind, ...more }: Stranger): string {
  switch (kind) {
    case 'http':
      return 'ofRelevo' in more && more.ofRelevo
        ? 'use the port of listener.grpc (9093 by default) in place of that of listener.http'
        : 'use the port that listener.grpc of the broker has';
    case 'tls':
      return (
        'Relevo speaks gRPC without TLS: use the port of listener.grpc itself, not one where TLS ' +
        'begins or ends'
      );
    case 'closes':
      return (
        'often a published port or a proxy without a broker behind it: start the broker, and let its ' +
        'listener.grpc listen on 0.0.0.0, not on 127.0.0.1, where connections come from outside'
      );
    case 'mute':
      return (
        'see whether the broker hangs or is stopped (its log, its CPU), and whether a proxy stands ' +
        'before it'
      );
    case 'grpc':
    case 'http2':
    case 'kafka':
    case 'other':
      return 'use the port that listener.grpc of a Relevo broker has (9093 by default)';
  }
}
