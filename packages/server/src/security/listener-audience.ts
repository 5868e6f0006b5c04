/**
 * Whom a listener serves. All serve clients; the cluster's own services are on those alone that the other
 * nodes dial (`cluster.listener.names`). Elsewhere a call of theirs is refused with a line that says why.
 */
import { RelevoError } from '@relevo/base/errors';
import type { Route } from '@relevo/base/ports';

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
