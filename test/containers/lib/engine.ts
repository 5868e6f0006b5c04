import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { IMAGE } from './broker-container.ts';

const run = promisify(execFile);

/** Why containers cannot be tested here; undefined: they can. */
async function engineProblem(): Promise<string | undefined> {
  try {
    await run('docker', ['version', '--format', '{{.Server.Version}}']);
  } catch {
    return 'no container engine answers: start one and try again';
  }
  try {
    await run('docker', ['image', 'inspect', IMAGE]);
  } catch {
    return `there is no image ${IMAGE}: docker build -f deploy/Dockerfile -t ${IMAGE} .`;
  }
  return undefined;
}

/** Rejects with what is missing and what to do. */
export async function assertEngine(): Promise<void> {
  const problem = await engineProblem();
  if (problem !== undefined) throw new Error(problem);
}
