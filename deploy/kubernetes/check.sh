#!/usr/bin/env bash
# Renders the chart in several ways and checks it against Kubernetes' schemas:
#
#     HELM=helm VALIDATE=kubernetes-validate bash deploy/kubernetes/check.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
helm=${HELM:-helm} validate=${VALIDATE:-kubernetes-validate}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
checked=0

check() {
  local name=$1 version
  shift
  for version in 1.29 1.33; do
    "$helm" template orders relevo --namespace shop --kube-version "$version.0" "$@" >"$out/$name.yaml"
    # ServiceMonitor and PrometheusRule are the Prometheus operator's: their schemas are not Kubernetes'.
    awk 'BEGIN { RS = "---\n"; ORS = "---\n" } !/kind: (ServiceMonitor|PrometheusRule)/' "$out/$name.yaml" \
      >"$out/$name-$version.yaml"
    "$validate" --strict --quiet --kubernetes-version "$version" "$out/$name-$version.yaml"
  done
  checked=$((checked + 1))
}

refused() {
  local words=$1
  shift
  if "$helm" template orders relevo --kube-version 1.33.0 "$@" >"$out/refused" 2>&1 || ! grep -q "$words" "$out/refused"; then
    echo "helm template $* should have been refused with: $words"
    cat "$out/refused"
    exit 1
  fi
  checked=$((checked + 1))
}

# The rendering holds the file of deploy/observability, line by line, under the indentation that it is given.
holds() {
  local name=$1 file=$2 indent=$3
  python3 - "$out/$name.yaml" "../observability/$file" "$indent" <<'PYTHON' || exit 1
import sys
rendered, source, indent = open(sys.argv[1]).read(), open(sys.argv[2]).read(), " " * int(sys.argv[3])
wanted = "".join(indent + line if line.strip() else line for line in source.rstrip("\n").splitlines(True))
blank = lambda text: "\n".join(line.rstrip() for line in text.split("\n"))
if blank(wanted) not in blank(rendered):
    sys.exit(f"{sys.argv[1]} does not hold {sys.argv[2]}")
PYTHON
  checked=$((checked + 1))
}

has_none() {
  if grep -qE "$2" "$out/$1.yaml"; then
    echo "$1 should have no $2"
    exit 1
  fi
}

"$helm" lint --strict relevo
check plain
check five --set replicas=5 --set clusterId=orders --set antiAffinity=hard
check outside --set external.enabled=true --set external.host=relevo.example.org
check monitored --set metrics.serviceMonitor.enabled=true --set settings.log\\.retention\\.ms=1000
has_none monitored 'PrometheusRule|grafana_dashboard'
check observed --set metrics.serviceMonitor.enabled=true --set metrics.prometheusRule.enabled=true \
  --set metrics.prometheusRule.labels.release=prometheus --set metrics.dashboards.enabled=true
holds observed alerts.yml 2
for file in ../observability/dashboards/*.json; do
  holds observed "dashboards/$(basename "$file")" 4
done
check bare --set podDisruptionBudget.enabled=false --set serviceAccount.create=false --set antiAffinity=none
check secret --set clusterSecret.existing=orders-secret
has_none secret 'randAlphaNum|helm.sh/resource-policy'
refused 'at least 3' --set replicas=1
refused 'external.host' --set external.enabled=true
refused 'soft, hard or none' --set antiAffinity=very
for key in cluster.id node.id process.roles log.dir controller.quorum.voters listener.http listener.grpc advertised.grpc \
  inter.broker.listener.name cluster.listener.names cluster.secret.file; do
  refused "settings must not have $key: the chart sets it itself" --set-string "settings.${key//./\\.}=x"
done
refused "replica.* not allowed" --set replica=5
refused 'want integer' --set replicas=five
refused 'settings/log.: got object' --set settings.log.retention=1
echo "$checked renderings checked"
