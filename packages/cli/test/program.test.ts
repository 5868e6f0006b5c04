import { describe, expect, test } from 'vitest';
import { relevo } from './host.ts';

describe('relevo', () => {
  test('--help lists the commands on stdout', async () => {
    const { exitCode, stdout, stderr } = await relevo(['--help']);
    expect(exitCode).toBe(0);
    expect(stderr).toBe('');
    for (const name of [
      'start',
      'broker',
      'topic',
      'produce',
      'consume',
      'cluster',
      'log',
      'bench',
    ]) {
      expect(stdout).toMatch(new RegExp(`^  ${name} `, 'm'));
    }
  });

  test.each([
    [['topic', '--help'], 'create [options] <topic>'],
    [['help', 'topic'], 'create [options] <topic>'],
    [['start', '--help'], '--fresh'],
    [['produce', '--help'], '--key-separator'],
  ])('%j shows the options of the command', async (argv, expected) => {
    const { exitCode, stdout } = await relevo(argv);
    expect(exitCode).toBe(0);
    expect(stdout).toContain(expected);
  });

  test.each<[string[], string]>([
    [['topics', 'list'], "unknown command 'topics'"],
    [['topic', 'lst'], 'Did you mean list?'],
    [['topic', 'list', '--jsn'], 'Did you mean --json?'],
    [['topic', 'create'], "missing required argument 'topic'"],
    [['topic', 'create', 't', '-p', '0'], 'It must be an integer from 1 to 100000.'],
    [['topic', 'create', 't', '-c', 'retention.ms'], 'it must be KEY=VALUE'],
    [['topic', 'alter', 't'], 'nothing to change'],
    [['produce', 't', '--acks', '2'], 'Allowed choices are all, leader, none.'],
    [['produce', 't', '--key-separator', ''], '--key-separator must not be empty'],
    [['produce', 't', '--key-separator', '\\q'], 'is no escape'],
    [['start', '--brokers', 'many'], 'It must be an integer from 1 to 32.'],
    [[], 'Usage: relevo'],
  ])('%j is a usage error (2) that says what to do', async (argv, expected) => {
    const { exitCode, stdout, stderr } = await relevo(argv);
    expect(stderr).toContain(expected);
    expect(stdout).toBe('');
    expect(exitCode).toBe(2);
  });
});
