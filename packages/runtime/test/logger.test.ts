import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';

const run = promisify(execFile);

/** What a program of its own writes that makes a logger, uses it and exits at once. */
async function output(
  options: object,
  use: string,
): Promise<{ readonly stdout: string; readonly stderr: string }> {
  const program = `
    import { createLogger } from '@relevo/runtime/logger';
    const logger = createLogger(${JSON.stringify(options)});
    ${use}
    process.exit(0);`;
  const flags = ['--import', 'tsx', '--conditions=@relevo/source', '--input-type=module'];
  return run(process.execPath, [...flags, '-e', program], { cwd: import.meta.dirname });
}

test('a line is a JSON object with level, time, event and fields, and none is lost', async () => {
  const { stderr, stdout } = await output(
    {},
    `const child = logger.child({ broker: 2 });
     for (let i = 0; i < 5000; i++) child.info('elected', { term: i });
     logger.debug('not shown');
     logger.warn('failed', { error: new Error('a reason') });`,
  );
  expect(stdout).toBe('');
  const lines = stderr
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);
  expect(lines).toHaveLength(5001);
  expect(lines[17]).toStrictEqual({
    level: 'info',
    time: expect.stringMatching(/^\d{4}-\d\d-\d\dT.*Z$/),
    broker: 2,
    term: 17,
    event: 'elected',
  });
  expect(lines[5000]).toMatchObject({ level: 'warn', error: { message: 'a reason' } });
});

test('lines for people go where they are told to, at the level asked for', async () => {
  const { stdout, stderr } = await output(
    { pretty: true, to: 'stdout', level: 'debug' },
    `logger.debug('fenced', { broker: 3 });`,
  );
  expect(stderr).toBe('');
  expect(stdout).toMatch(/^\[?\d\d:\d\d:\d\d\.\d{3}\]? DEBUG.*: fenced {"broker":3}\n$/);
});
