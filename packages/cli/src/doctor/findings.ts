/** What the doctor concludes, and how it is shown. */
import { plural } from '../units.ts';

export type Status = 'ok' | 'warn' | 'fail';

/** The names of the checks, as they stand in JSON. */
export type Check =
  | 'resolve'
  | 'connect'
  | 'service'
  | 'cluster-id'
  | 'advertised'
  | 'advertised-name'
  | 'brokers'
  | 'version'
  | 'clock'
  | 'round-trip'
  | 'quorum'
  | 'controller'
  | 'partitions'
  | 'listeners'
  | 'secret';

export interface Finding {
  readonly check: Check;
  readonly status: Status;
  /** What was looked at: an address, a broker, the cluster. */
  readonly subject: string;
  /** What was seen. */
  readonly found: string;
  /** What to change; null where nothing needs to be. */
  readonly change: string | null;
}

/** What is wrong, and what to change. */
export interface Trouble {
  readonly found: string;
  readonly change: string;
}

export const well = (check: Check, subject: string, found: string): Finding => ({
  check,
  status: 'ok',
  subject,
  found,
  change: null,
});

export const trouble = (
  status: 'warn' | 'fail',
  check: Check,
  subject: string,
  { found, change }: Trouble,
): Finding => ({ check, status, subject, found, change });

export const verdictOf = (findings: readonly Finding[]): Status => {
  if (findings.some(({ status }) => status === 'fail')) return 'fail';
  return findings.some(({ status }) => status === 'warn') ? 'warn' : 'ok';
};

const SHOWN: Readonly<Record<Status, string>> = { ok: 'ok', warn: 'warn', fail: 'FAIL' };

export function findingsText(findings: readonly Finding[]): string {
  const width = Math.max(...findings.map(({ check }) => check.length));
  const lines = findings.map(({ check, status, subject, found, change }) => {
    const head = `${SHOWN[status].padEnd(4)}  ${check.padEnd(width)}  ${subject}: ${found}`;
    return change === null ? head : `${head}\n${' '.repeat(6)}-> ${change}`;
  });
  return [...lines, '', verdictLine(findings)].join('\n');
}

function verdictLine(findings: readonly Finding[]): string {
  const number = (wanted: Status): number =>
    findings.filter(({ status }) => status === wanted).length;
  const warnings = plural(number('warn'), 'warning');
  switch (verdictOf(findings)) {
    case 'fail':
      return `FAIL: ${plural(number('fail'), 'failure')} and ${warnings} in ${plural(findings.length, 'check')}`;
    case 'warn':
      return `ok with ${warnings}: clients here can work with the cluster`;
    case 'ok':
      return `ok: ${plural(findings.length, 'check')}, clients here can work with the cluster`;
  }
}
