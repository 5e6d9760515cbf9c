{{/* Names, labels, images and the parts that every pod has. */}}

{{- define "psi.labels" -}}
app.kubernetes.io/name: predator-si
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/part-of: predator-si
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
predator.si/contour: {{ .root.Values.contour }}
{{- end }}

{{- define "psi.selector" -}}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* The pods of a component. Those of runs are made by dagster-k8s, with its own labels. */}}
{{- define "psi.pods" -}}
{{- if eq .component "runs" -}}
app.kubernetes.io/name: dagster
{{- else -}}
{{ include "psi.selector" . }}
{{- end -}}
{{- end }}

{{/* Where training runs: a namespace of its own, or this one. */}}
{{- define "psi.runsNamespace" -}}
{{- .Values.runs.namespace | default .Release.Namespace -}}
{{- end }}

{{/* Name of a service inside the cluster, understood from every namespace. */}}
{{- define "psi.host" -}}
{{ .root.Release.Name }}-{{ .component }}.{{ .root.Release.Namespace }}.svc
{{- end }}

{{/* An image by its digest. Only a contour that runs what was built on the same machine may name a tag. */}}
{{- define "psi.image" -}}
{{- $image := index .root.Values.images .image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else if and (has .root.Values.contour (list "dev-mac" "local")) $image.tag -}}
{{ $image.repository }}:{{ $image.tag }}
{{- else -}}
{{- fail (printf "images.%s.digest: contour %s runs images by digest only; put sha256:<64 hex digits> into the GitOps repository's site-%s.yaml" .image .root.Values.contour .root.Values.contour) -}}
{{- end -}}
{{- end }}

{{/* What Settings reads: the very block, with the flat spelling of the switches moved to where the defaults have them, and how many copies there may be. */}}
{{- define "psi.selfImprovement" -}}
{{- $block := deepCopy .Values.selfImprovement -}}
{{- range $key := list "autoPromote" "abTesting" "abSplitRatio" "rollbackOnDegrade" -}}
{{- if hasKey $block $key -}}
{{- $_ := set $block.features $key (index $block $key) -}}
{{- $_ := unset $block $key -}}
{{- end -}}
{{- end -}}
{{- $scaling := pick .Values.search.autoscaling "enabled" "maxReplicas" -}}
{{- toYaml (dict "selfImprovement" $block "search" (dict "minReplicas" .Values.search.minReplicas "autoscaling" $scaling)) -}}
{{- end }}

{{/* The machine-owned release file, as the service reads it. */}}
{{- define "psi.release" -}}
{{- toYaml (pick .Values "reranker" "fusion" "replicas" "ingest" "index") -}}
{{- end }}

{{- define "psi.deny" -}}
{{- toYaml (dict "denied" (.Values.denied | default list)) -}}
{{- end }}

{{/* The home's claim where runs are. */}}
{{- define "psi.runsClaim" -}}
{{- $claim := .Values.home.existingClaim | default (printf "%s-home" .Release.Name) -}}
{{- if ne (include "psi.runsNamespace" .) .Release.Namespace }}{{ $claim = .Values.runs.claim | default $claim }}{{ end -}}
{{- $claim -}}
{{- end }}

{{/* The one file of deploy/k8s, with the names of this installation. */}}
{{- define "psi.dagster" -}}
{{- $claim := include "psi.runsClaim" . -}}
{{- $names := dict "postgresql" .Values.postgres.existingSecret "environment" (.Values.secrets.environment | default "none") "files" (.Values.secrets.files | default "none") "home" $claim -}}
{{- range $part := list "dagster" "settings" "run" "env" }}{{ $_ := set $names $part (printf "%s-%s" $.Release.Name $part) }}{{ end -}}
{{- $text := .Files.Get "files/dagster.yaml" -}}
{{- if not $text }}{{ fail "files/dagster.yaml: missing from the chart" }}{{ end -}}
{{- range $part, $name := $names }}{{ $text = regexReplaceAll (printf "\\bpredator-si-%s\\b" $part) $text (printf "@%s@" $part) }}{{ end -}}
{{- range $part, $name := $names }}{{ $text = replace (printf "@%s@" $part) $name $text }}{{ end -}}
{{- if .Values.runs.pipes }}{{ $text = replace "automount_service_account_token: false" "automount_service_account_token: true" $text }}{{ end -}}
{{- $text -}}
{{- end }}

{{/* A release's files never change: another release is another ConfigMap, so a pod that was not replaced yet keeps what it was started with. */}}
{{- define "psi.releaseConfig" -}}
{{ .Release.Name }}-release-{{ printf "%s%s" (include "psi.release" .) (include "psi.deny" .) | sha256sum | trunc 12 }}
{{- end }}

{{- define "psi.replicas" -}}
{{- max (int .Values.replicas) (int .Values.search.minReplicas) -}}
{{- end }}

{{- define "psi.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "psi.containerSecurity" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Addresses, folders and switches of every process of the platform; no secret is among them. */}}
{{- define "psi.environment" -}}
PREDATOR_SI_CONTOUR: {{ .Values.contour | quote }}
PREDATOR_SI_HOME: /var/lib/predator-si
PREDATOR_SI_CACHE: /var/lib/predator-si/cache
PREDATOR_SI_CHART: /etc/predator-si/values
PREDATOR_SI_SECRETS: /var/run/secrets/predator-si
PREDATOR_SI_SEARCH_URL: {{ .Values.selfImprovement.sources.search | default (printf "http://%s:8080" (include "psi.host" (dict "root" . "component" "search-ingest"))) }}
DAGSTER_HOME: /opt/dagster/home
PREDATOR_SI_NAMESPACE: {{ include "psi.runsNamespace" . }}
PREDATOR_SI_IMAGE: {{ include "psi.image" (dict "root" . "image" (ternary "training" "platform" .Values.selfImprovement.resources.gpu)) | quote }}
PREDATOR_SI_HOME_CLAIM: {{ include "psi.runsClaim" . }}
PREDATOR_SI_COMPUTE_LOGS: {{ .Values.dagster.computeLogs | quote }}
HOME: /tmp
USER: predator-si
DAGSTER_DISABLE_TELEMETRY: "1"
DBT_SEND_ANONYMOUS_USAGE_STATS: "false"
DO_NOT_TRACK: "1"
MLFLOW_DISABLE_TELEMETRY: "true"
HF_HUB_OFFLINE: "1"
TRANSFORMERS_OFFLINE: "1"
PYTHONUNBUFFERED: "1"
{{- end }}
