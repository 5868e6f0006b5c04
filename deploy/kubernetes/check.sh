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
    # A ServiceMonitor is the Prometheus operator's: its schema is not Kubernetes'.
    awk 'BEGIN { RS = "---\n"; ORS = "---\n" } !/kind: ServiceMonitor/' "$out/$name.yaml" \
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

"$helm" lint --strict relevo
check plain
check five --set replicas=5 --set clusterId=orders --set antiAffinity=hard
check outside --set external.enabled=true --set external.host=relevo.example.org
check monitored --set metrics.serviceMonitor.enabled=true --set settings.log\\.retention\\.ms=1000
check bare --set podDisruptionBudget.enabled=false --set serviceAccount.create=false --set antiAffinity=none
refused 'at least 3' --set replicas=1
refused 'external.host' --set external.enabled=true
refused 'soft, hard or none' --set antiAffinity=very
echo "$checked renderings checked"
