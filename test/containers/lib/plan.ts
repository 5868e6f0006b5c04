/** Which faults strike, in which order and for how long: drawn from a seed, or each once. */
import { Prng } from '@relevo/simulation/prng';
import { FAULTS, type FaultKind } from './faults.ts';

export interface PlannedFault {
  readonly kind: FaultKind;
  /** Before the strike, ms. */
  readonly pauseMs: number;
  readonly lastsMs: number;
  /** Chooses among the brokers that fit. */
  readonly draw: number;
}

/** Each kind of fault once. */
export const fixedPlan = (only?: readonly string[]): PlannedFault[] =>
  FAULTS.filter(({ name }) => only === undefined || only.includes(name)).map((kind, index) => ({
    kind,
    pauseMs: 500,
    lastsMs: kind.lastsMs,
    draw: index,
  }));

/** Goes on without end; the same seed draws the same faults. */
export function* randomPlan(seed: string, only?: readonly string[]): Generator<PlannedFault> {
  const prng = new Prng(seed);
  const kinds = FAULTS.filter(({ name }) => only === undefined || only.includes(name));
  for (;;) {
    const kind = prng.pick(kinds);
    const pauseMs = Math.round(prng.between(100, 3_000));
    const lastsMs = Math.round(kind.lastsMs * prng.between(0.2, 2));
    yield { kind, pauseMs, lastsMs, draw: prng.integer(0, 1_000_000) };
  }
}
