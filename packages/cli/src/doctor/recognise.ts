/**
 * What listens where no Relevo node answers. Three things are said to it, on connections of their own:
 * the preface of HTTP/2, a TLS greeting, and Kafka's ApiVersions request; what comes back tells.
 */
import { connect, isIP, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { asError } from '../exit-codes.ts';
import type { Stranger } from './facts.ts';
import { joined } from './reach.ts';

export interface Endpoint {
  /** What was asked for; goes into the TLS greeting. */
  readonly host: string;
  readonly ip: string;
  readonly port: number;
}

/** Of each answer so many bytes are read. */
const READ_BYTES_MAX = 4096;
const SAID_LENGTH_MAX = 80;

const HTTP2_PREFACE = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
const EMPTY_SETTINGS = Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0]);
const SETTINGS_FRAME = 4;
const TLS_ALERT = 21;

/** `grpcStatus`: how a gRPC call to it ended where the server itself ended it. */
export async function recognise(
  endpoint: Endpoint,
  grpcSaid: string | undefined,
  limitMs: number,
): Promise<Stranger> {
  const [answer, protocol, kafka, ready] = await Promise.all([
    exchange(endpoint, Buffer.concat([HTTP2_PREFACE, EMPTY_SETTINGS]), limitMs),
    tlsProtocol(endpoint, limitMs),
    exchange(endpoint, KAFKA_QUESTION, limitMs),
    readiness(endpoint, limitMs),
  ]);
  const { bytes } = answer;
  if (protocol !== undefined) return { kind: 'tls', protocol };
  if (bytes.length >= 9 && bytes[3] === SETTINGS_FRAME) {
    return grpcSaid === undefined ? { kind: 'http2' } : { kind: 'grpc', said: grpcSaid };
  }
  if (/^HTTP\/1\.[01] /.test(bytes.toString('latin1'))) {
    return { kind: 'http', said: firstLine(bytes), ofRelevo: ready };
  }
  if (ready) return { kind: 'http', said: 'HTTP/1.1', ofRelevo: true };
  if (bytes[0] === TLS_ALERT && bytes[1] === 3) return { kind: 'tls', protocol: '' };
  if (isKafkaAnswer(kafka.bytes)) return { kind: 'kafka' };
  const other = bytes.length > 0 ? bytes : kafka.bytes;
  if (other.length > 0) return { kind: 'other', said: firstLine(other) };
  return { kind: answer.closed ? 'closes' : 'mute' };
}

/** Printable, and short. */
function firstLine(bytes: Buffer): string {
  const [line = ''] = bytes.toString('latin1').split(/\r?\n/);
  return line.slice(0, SAID_LENGTH_MAX).replaceAll(/[^\u0020-\u007e]/g, '.');
}

interface Exchanged {
  readonly bytes: Buffer;
  readonly closed: boolean;
}

/** Says `question` and reads until the peer closes, the time is over, or a while after its first words. */
function exchange({ ip, port }: Endpoint, question: Buffer, limitMs: number): Promise<Exchanged> {
  return new Promise((resolve) => {
    const socket: Socket = connect({ host: ip, port });
    const chunks: Buffer[] = [];
    let length = 0;
    const settle = (closed: boolean): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve({ bytes: Buffer.concat(chunks), closed });
    };
    const timer = setTimeout(() => settle(false), limitMs);
    socket.once('connect', () => socket.write(question));
    socket.on('data', (chunk) => {
      chunks.push(chunk);
      length += chunk.length;
      const enough = length >= 9 || chunk.includes('\n');
      if (enough || length >= READ_BYTES_MAX) settle(false);
    });
    socket.on('error', () => settle(true));
    socket.once('close', () => settle(true));
  });
}

/** What TLS comes to there, `''` where a greeting is understood but refused; undefined: no TLS. */
function tlsProtocol({ host, ip, port }: Endpoint, limitMs: number): Promise<string | undefined> {
  return new Promise((resolve) => {
    const socket = connectTls({
      host: ip,
      port,
      // Only to know what it is: nothing is sent.
      rejectUnauthorized: false,
      ALPNProtocols: ['h2', 'http/1.1'],
      ...(isIP(host) === 0 && { servername: host }),
    });
    const settle = (protocol: string | undefined): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(protocol);
    };
    const timer = setTimeout(() => settle(undefined), limitMs);
    socket.once('secureConnect', () => {
      const chosen = socket.alpnProtocol;
      settle(typeof chosen === 'string' ? chosen : '');
    });
    socket.on('error', (thrown) => {
      const { code } = asError(thrown) as NodeJS.ErrnoException;
      settle(/ALERT/.test(code ?? '') ? '' : undefined);
    });
    socket.once('close', () => settle(undefined));
  });
}

/** Whether it answers /readyz as listener.http of a broker does. */
async function readiness({ ip, port }: Endpoint, limitMs: number): Promise<boolean> {
  try {
    const signal = AbortSignal.timeout(limitMs);
    const response = await fetch(`http://${joined(ip, port)}/readyz`, { signal });
    const answer: unknown = await response.json();
    if (typeof answer !== 'object' || answer === null || !('status' in answer)) return false;
    return answer.status === 'ok' || answer.status === 'failing';
  } catch {
    // It speaks something else; that is what the other questions are for.
    return false;
  }
}

const KAFKA_CORRELATION = 0x52_6c_76_6f;

/** ApiVersions, version 0, without a client id: every Kafka since 0.10 answers it. */
const KAFKA_QUESTION = ((): Buffer => {
  const request = Buffer.alloc(14);
  request.writeInt32BE(10, 0);
  request.writeInt16BE(18, 4);
  request.writeInt32BE(KAFKA_CORRELATION, 8);
  request.writeInt16BE(-1, 12);
  return request;
})();

const isKafkaAnswer = (bytes: Buffer): boolean =>
  bytes.length >= 8 && bytes.readInt32BE(4) === KAFKA_CORRELATION;
