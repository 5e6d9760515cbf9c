{{/* What a schema cannot say: a denied model is not rendered, whoever wrote the release file. */}}
{{- define "psi.checks" -}}
{{- $served := dict "champion" .Values.reranker.champion "candidate" .Values.reranker.candidate "shadow" .Values.reranker.shadow -}}
{{- range $entry := .Values.denied -}}
{{- if eq ($entry.contour | default $.Values.contour) $.Values.contour -}}
{{- range $role, $digest := $served -}}
{{- if and $digest (has $digest (list $entry.digest $entry.sourceDigest)) -}}
{{- fail (printf "reranker.%s: %s is on the deny list (%s); revert the commit" $role $digest ($entry.reason | default "no reason was given")) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $build := .Values.index.build | default "first" -}}
{{- if ne (.Values.index.candidateBuild | default $build) $build -}}
{{- fail (printf "index.candidateBuild: %s cannot be tried here: pods that only answer have one index, %s; revert the commit" .Values.index.candidateBuild $build) -}}
{{- end -}}
{{- if and (eq .Values.selfImprovement.training.trainer "pod") (not .Values.runs.pipes) -}}
{{- fail "training.trainer: pod wants runs.pipes: true, since the run starts that pod itself" -}}
{{- end -}}
{{- if and .Values.runs.namespace (ne .Values.runs.namespace .Release.Namespace) .Values.home.create (not .Values.runs.claim) -}}
{{- fail "runs.claim: pods of another namespace cannot mount this one's volume; name a claim in runs.namespace that leads to the same file system" -}}
{{- end -}}
{{- end }}
