{{- define "relevo.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "relevo.labels" -}}
app.kubernetes.io/name: relevo
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "relevo.selector" -}}
app.kubernetes.io/name: relevo
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "relevo.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "relevo.name" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "relevo.secret" -}}
{{- .Values.clusterSecret.existing | default (printf "%s-cluster" (include "relevo.name" .)) -}}
{{- end -}}

{{/* The domain of the brokers' own names. */}}
{{- define "relevo.domain" -}}
{{ include "relevo.name" . }}-brokers.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}
{{- end -}}

{{- define "relevo.voters" -}}
{{- $name := include "relevo.name" . -}}
{{- $domain := include "relevo.domain" . -}}
{{- $voters := list -}}
{{- range $id := until 3 -}}
{{- $voters = append $voters (printf "%d@%s-%d.%s:9093" $id $name $id $domain) -}}
{{- end -}}
{{- join "," $voters -}}
{{- end -}}

{{- define "relevo.check" -}}
{{- if lt (int .Values.replicas) 3 -}}
{{- fail "replicas must be at least 3: the first three brokers are the controllers" -}}
{{- end -}}
{{- if and .Values.external.enabled (not .Values.external.host) -}}
{{- fail "external.enabled needs external.host: the name under which clients outside reach the nodes" -}}
{{- end -}}
{{- if not (has .Values.antiAffinity (list "soft" "hard" "none")) -}}
{{- fail "antiAffinity must be soft, hard or none" -}}
{{- end -}}
{{- $own := list "cluster.id" "node.id" "process.roles" "log.dir" "controller.quorum.voters" "listener.http" "listener.grpc" "advertised.grpc" "inter.broker.listener.name" "cluster.listener.names" "cluster.secret.file" -}}
{{- range $key := keys .Values.settings | sortAlpha -}}
{{- if has $key $own -}}
{{- fail (printf "settings must not have %s: the chart sets it itself" $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
