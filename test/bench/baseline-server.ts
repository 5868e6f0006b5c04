/**
 * The other side of the baseline: a bare @grpc/grpc-js server with nothing of Relevo's. `Sink` takes
 * messages and answers each with a few bytes; `Source` sends messages of the size that the first request
 * names for as long as the stream is open. Prints its port.
 */
import { Server, ServerCredentials, type ServerDuplexStream } from '@grpc/grpc-js';
import { CHANNEL_OPTIONS, PATHS, raw } from './baseline-wire.ts';

const server = new Server(CHANNEL_OPTIONS);
const method = (path: string): { path: string } & typeof raw => ({ path, ...raw });

server.addService(
  { sink: method(PATHS.sink), source: method(PATHS.source) },
  {
    sink(call: ServerDuplexStream<Buffer, Buffer>) {
      const answer = Buffer.alloc(16);
      call.on('data', () => call.write(answer));
      call.on('end', () => call.end());
      call.on('error', () => undefined);
    },
    source(call: ServerDuplexStream<Buffer, Buffer>) {
      let open = true;
      call.on('error', () => (open = false));
      call.on('cancelled', () => (open = false));
      call.on('end', () => {
        open = false;
        call.end();
      });
      call.once('data', (request: Buffer) => {
        const message = Buffer.alloc(request.readUInt32BE(0), 0x61);
        const push = (): void => {
          while (open) if (!call.write(message)) return void call.once('drain', push);
        };
        push();
      });
    },
  },
);

server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, port) => {
  if (error !== null) throw error;
  console.log(String(port));
});
