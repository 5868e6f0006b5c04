/**
 * The baseline that throughput is held against: a bare @grpc/grpc-js bidirectional stream between two
 * processes on this machine, moving messages of the same size, up to 8 MiB in flight.
 */
import { spawn } from 'node:child_process';
import { performance } from 'node:perf_hooks';
import { fileURLToPath } from 'node:url';
import { Client, credentials } from '@grpc/grpc-js';
import { CHANNEL_OPTIONS, PATHS, raw } from './baseline-wire.ts';

const IN_FLIGHT_BYTES = 8 * 1024 * 1024;
const MB = 1_000_000;

async function withServer<Value>(use: (client: Client) => Promise<Value>): Promise<Value> {
  const child = spawn(
    process.execPath,
    [
      '--import',
      'tsx',
      '--conditions=@relevo/source',
      fileURLToPath(new URL('./baseline-server.ts', import.meta.url)),
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  try {
    const port = await new Promise<string>((resolve, reject) => {
      child.stdout.once('data', (chunk: Buffer) => resolve(chunk.toString().trim()));
      child.once('exit', (code) => reject(new Error(`the baseline server ended with ${code}`)));
    });
    const client = new Client(`127.0.0.1:${port}`, credentials.createInsecure(), CHANNEL_OPTIONS);
    try {
      return await use(client);
    } finally {
      client.close();
    }
  } finally {
    child.kill('SIGKILL');
  }
}

const openStream = (
  client: Client,
  path: string,
): ReturnType<typeof client.makeBidiStreamRequest<Buffer, Buffer>> =>
  client.makeBidiStreamRequest<Buffer, Buffer>(path, raw.requestSerialize, raw.responseDeserialize);

/** MB/s of messages of `messageBytes` to a process that answers each. */
export function sinkMbPerS(messageBytes: number, seconds: number): Promise<number> {
  return withServer(
    (client) =>
      new Promise((resolve, reject) => {
        const stream = openStream(client, PATHS.sink);
        const message = Buffer.alloc(messageBytes, 0x61);
        const window = Math.max(2, Math.floor(IN_FLIGHT_BYTES / messageBytes));
        let sent = 0;
        let answered = 0;
        let countedFrom = 0;
        let startMs = 0;
        const warmUpEndMs = performance.now() + 500;
        const push = (): void => {
          while (sent - answered < window) {
            stream.write(message);
            sent++;
          }
        };
        stream.on('error', reject);
        stream.on('data', () => {
          answered++;
          const now = performance.now();
          if (startMs === 0 && now > warmUpEndMs) {
            startMs = now;
            countedFrom = answered;
          }
          if (startMs > 0 && now - startMs > seconds * 1000) {
            stream.removeAllListeners('data');
            stream.removeAllListeners('error');
            stream.on('error', () => undefined);
            stream.cancel();
            resolve((((answered - countedFrom) * messageBytes) / MB / (now - startMs)) * 1000);
            return;
          }
          push();
        });
        push();
      }),
  );
}

/** MB/s of messages of `messageBytes` from a process that sends as fast as it is read. */
export function sourceMbPerS(messageBytes: number, seconds: number): Promise<number> {
  return withServer(
    (client) =>
      new Promise((resolve, reject) => {
        const stream = openStream(client, PATHS.source);
        const request = Buffer.alloc(4);
        request.writeUInt32BE(messageBytes);
        stream.write(request);
        let bytes = 0;
        let startMs = 0;
        const warmUpEndMs = performance.now() + 500;
        stream.on('error', reject);
        stream.on('data', (message: Buffer) => {
          const now = performance.now();
          if (startMs === 0) {
            if (now > warmUpEndMs) startMs = now;
            return;
          }
          bytes += message.length;
          if (now - startMs > seconds * 1000) {
            stream.removeAllListeners('data');
            stream.removeAllListeners('error');
            stream.on('error', () => undefined);
            stream.cancel();
            resolve((bytes / MB / (now - startMs)) * 1000);
          }
        });
      }),
  );
}
