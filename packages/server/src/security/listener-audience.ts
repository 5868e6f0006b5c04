/**
 * Whom a listener serves. All serve clients; the cluster's own services are on those alone that the other
 * nodes dial (`cluster.listener.names`). Elsewhere a call of theirs is refused with a line that says why.
 */
import { RelevoError } from '@relevo/base/errors';
import type { Logger, Route } from '@relevo/base/ports';
import type { NodeConfig } from '../config/node-config.ts';

/** What is served on a listener, of everything that the node has. */
export const routesOn = (
  listener: string,
  clusterListeners: readonly string[],
  routes: readonly Route[],
): readonly Route[] =>
  clusterListeners.includes(listener)
    ? routes
    : routes.map((each) =>
        each.method.audience === 'client' ? each : refusing(each, listener, clusterListeners),
      );

function refusing(
  { method, kind }: Route,
  listener: string,
  clusterListeners: readonly string[],
): Route {
  const refusal = (): RelevoError =>
    new RelevoError(
      'CLUSTER_AUTHORIZATION_FAILED',
      `${method.path} is for the nodes of the cluster; the listener "${listener}" serves clients ` +
        `alone. Nodes call "${clusterListeners.join('" or "')}" (cluster.listener.names)`,
    );
  const refuse = (): never => {
    throw refusal();
  };
  switch (kind) {
    case 'unary':
      return { kind, method, handler: () => Promise.reject(refusal()) };
    case 'serverStream':
    case 'bidi':
      return { kind, method, handler: refuse };
  }
}

const LOOPBACK = /^(127\.\d+\.\d+\.\d+|localhost|\[::1\]):\d+$/;

/** Says once who can call the cluster's own services, and where that is anybody, what to do about it. */
export function tellAudience(config: NodeConfig, hasSecret: boolean, logger: Logger): void {
  for (const { listener, address } of config['listener.grpc']) {
    if (!config['cluster.listener.names'].includes(listener)) continue;
    const where = { listener, address };
    if (hasSecret) {
      logger.info('the services of the cluster take nodes that prove themselves', where);
    } else if (LOOPBACK.test(address)) {
      logger.info('the services of the cluster take every process of this machine', where);
    } else {
      logger.warn(
        'anybody who reaches this listener can change or destroy the cluster: it has no secret',
        { ...where, do: 'set cluster.secret.file on every node: deploy/README.md, "One secret"' },
      );
    }
  }
}
