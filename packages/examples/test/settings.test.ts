/** A mistake in the environment ends either service with one line and exit code 78. */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { readSettings } from '@relevo/examples/settings';

test('what is not said has a default', () => {
  expect(readSettings({})).toEqual({
    RELEVO_BROKERS: ['localhost:9093'],
    TOPIC: 'messages',
    PARTITIONS: 6,
    REPLICATION_FACTOR: 3,
    HOST: '127.0.0.1',
    PORT: 8080,
    DELIVERY_TIMEOUT_MS: 5_000,
  });
});

test('what is said is taken', () => {
  const settings = readSettings({ RELEVO_BROKERS: 'a:1, [::1]:65535', PORT: '0', HOST: '::' });
  expect(settings).toMatchObject({ RELEVO_BROKERS: ['a:1', '[::1]:65535'], PORT: 0, HOST: '::' });
});

test.each(Object.keys(readSettings({})))('%s must not be empty', (name) => {
  expect(() => readSettings({ [name]: '' })).toThrow(
    new RegExp(`^the environment cannot be used: ${name} must be [^\\n]+, not ""$`),
  );
});

test.each([
  ['RELEVO_BROKERS', 'nope'],
  ['RELEVO_BROKERS', 'a:1,'],
  ['RELEVO_BROKERS', 'a:65536'],
  ['RELEVO_BROKERS', 'http://a:1'],
  ['TOPIC', 'bad/name'],
  ['TOPIC', '..'],
  ['TOPIC', 'x'.repeat(250)],
  ['PARTITIONS', '0'],
  ['PARTITIONS', '1.5'],
  ['REPLICATION_FACTOR', 'three'],
  ['REPLICATION_FACTOR', '-1'],
  ['HOST', ' '],
  ['PORT', '65536'],
  ['PORT', ' '],
  ['PORT', '0x50'],
  ['DELIVERY_TIMEOUT_MS', '99'],
])('%s=%s is a mistake', (name, value) => {
  expect(() => readSettings({ [name]: value })).toThrow(
    new RegExp(`^the environment cannot be used: ${name} must be [^\\n;]+$`),
  );
});

test('all mistakes are told at once', () => {
  expect(() => readSettings({ PORT: '', TOPIC: 'a b' })).toThrow(/TOPIC .+; PORT /);
});

test.each(['producer', 'consumer'])('the %s ends with 78 and one line', (program) => {
  const file = fileURLToPath(new URL(`../src/${program}.ts`, import.meta.url));
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    ['--import', 'tsx', '--conditions=@relevo/source', file],
    { env: { PATH: process.env['PATH'], RELEVO_BROKERS: 'nope' }, encoding: 'utf8' },
  );
  expect(stderr).toMatch(/^the environment cannot be used: RELEVO_BROKERS [^\n]+, not "nope"\n$/);
  expect(stdout).toBe('');
  expect(status).toBe(78);
});
