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

/** What may be chosen; throws where a name is none of a fault. */
export function faultsNamed(names: readonly string[] | undefined): readonly FaultKind[] {
  for (const name of names ?? []) {
    if (FAULTS.some((kind) => kind.name === name)) continue;
    const all = FAULTS.map((kind) => kind.name).join(', ');
    throw new Error(`there is no fault "${name}"; there are ${all}`);
  }
  return names === undefined ? FAULTS : FAULTS.filter(({ name }) => names.includes(name));
}

/** Each kind of fault once. */
export const fixedPlan = (kinds: readonly FaultKind[]): PlannedFault[] =>
  kinds.map((kind, index) => ({
    kind,
    pauseMs: 500,
    lastsMs: kind.lastsMs,
    draw: index,
  }));

/** Goes on without end; the same seed draws the same faults. */
export function* randomPlan(seed: string, kinds: readonly FaultKind[]): Generator<PlannedFault> {
  const prng = new Prng(seed);
  for (;;) {
    const kind = prng.pick(kinds);
    const pauseMs = Math.round(prng.between(100, 3_000));
    const lastsMs = Math.round(kind.lastsMs * prng.between(0.2, 2));
    yield { kind, pauseMs, lastsMs, draw: prng.integer(0, 1_000_000) };
  }
}
