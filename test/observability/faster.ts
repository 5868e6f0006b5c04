/**
 * The files of deploy/observability as they are, in a world that runs 15 times as fast: every duration
 * (how often is scraped and evaluated, for how long a condition must hold, over what is averaged) is divided
 * by 15, so that they keep their proportions, and is 1 s at least. Nothing else of them is changed.
 */
const FACTOR = 15;
const UNIT_SECONDS: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3600, d: 86_400 };

/** Grafana's $__rate_interval is four times how often is scraped; so it is here. */
export const RATE_INTERVAL: string = faster('1m');

export function faster(duration: string): string {
  const [, count, unit = ''] = /^(\d+)([smhd])$/.exec(duration) ?? [];
  const seconds = Number(count) * (UNIT_SECONDS[unit] ?? NaN);
  if (!(seconds > 0)) throw new Error(`"${duration}" is no duration of one number and one unit`);
  return `${Math.max(1, Math.round(seconds / FACTOR))}s`;
}

/** `for:` and the ranges of PromQL. */
export const fasterRules = (text: string): string =>
  text.replaceAll(/(?<=^ +for: )\S+$/gm, faster).replaceAll(/(?<=\[)\d+[smhd](?=\])/g, faster);

/** Also puts other addresses in the place of those in the compose network. */
export function fasterConfig(text: string, addresses: ReadonlyMap<string, string>): string {
  let changed = text.replaceAll(/(?<=_(?:interval|timeout): )\S+$/gm, faster);
  for (const [from, to] of addresses) {
    if (!changed.includes(from)) throw new Error(`prometheus.yml does not name ${from}`);
    changed = changed.replaceAll(from, to);
  }
  return changed;
}
