/** Where `consume` begins. */
import type { StartPosition } from '@relevo/client';
import { usageError } from './exit-codes.ts';

const UNIT_MS: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};

/**
 * Reads --from: `earliest`, `latest`, an offset, a time (ISO 8601, or `@` and ms since 1970) or how
 * long ago (`90s`, `15m`, `2h`, `1d`).
 */
export function parsePosition(text: string, nowMs: number): StartPosition {
  if (text === 'earliest' || text === 'latest') return text;
  if (/^\d+$/.test(text)) {
    const offset = Number(text);
    if (Number.isSafeInteger(offset)) return { offset };
  }
  const ago = /^(\d+)(ms|s|m|h|d)$/.exec(text);
  if (ago !== null) return { timestamp: nowMs - Number(ago[1]) * (UNIT_MS[ago[2] ?? ''] ?? 0) };
  const timestamp = /^@\d+$/.test(text) ? Number(text.slice(1)) : isoTimeMs(text);
  if (Number.isSafeInteger(timestamp)) return { timestamp };
  throw usageError(
    `--from ${text}: it must be earliest, latest, an offset (42), a time (2026-11-21T08:00:00Z or ` +
      '@1795248000000) or how long ago (15m)',
  );
}

const isoTimeMs = (text: string): number => (/^\d{4}-\d{2}/.test(text) ? Date.parse(text) : NaN);
