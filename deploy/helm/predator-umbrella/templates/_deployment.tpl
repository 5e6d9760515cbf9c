{{/*
One Deployment, the same for every process: what differs is given in a dict.
root, component, image, command; replicas (null: an autoscaler's), port, readiness, liveness, startup, resources, account, token, surge, spread, env, settings, secrets,
secretFiles, dagster, home (read, write), release, releaseName, annotations, grace, tmp, syncWave.
*/}}
{{- define "psi.deployment" -}}
{{- $given := . -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ .root.Release.Name }}-{{ .component }}
  namespace: {{ .root.Release.Namespace }}
  labels: {{- include "psi.labels" . | nindent 4 }}
  {{- with .syncWave }}
  annotations:
    argocd.argoproj.io/sync-wave: {{ . | quote }}
  {{- end }}
spec:
  {{- if not (kindIs "invalid" .replicas) }}
  replicas: {{ .replicas }}
  {{- end }}
  revisionHistoryLimit: 3
  progressDeadlineSeconds: {{ .deadline | default 600 }}
  selector:
    matchLabels: {{- include "psi.selector" . | nindent 6 }}
  strategy:
    {{- if .surge }}
    type: RollingUpdate
    rollingUpdate:
      maxUnavailable: 0
      maxSurge: 1
    {{- else }}
    type: Recreate
    {{- end }}
  template:
    metadata:
      labels: {{- include "psi.labels" . | nindent 8 }}
      {{- with .annotations }}
      annotations: {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      {{- include "psi.podSpec" . | nindent 6 }}
      {{- if .spread }}
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels: {{- include "psi.selector" . | nindent 14 }}
      {{- end }}
{{- end }}

{{- define "psi.podSpec" -}}
serviceAccountName: {{ .root.Release.Name }}-{{ .account | default "platform" }}
automountServiceAccountToken: {{ .token | default false }}
enableServiceLinks: false
terminationGracePeriodSeconds: {{ .grace | default 60 }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
securityContext: {{- include "psi.podSecurity" . | nindent 2 }}
{{- with .root.Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
containers:
  - name: {{ .component }}
    image: {{ include "psi.image" . | quote }}
    imagePullPolicy: {{ .root.Values.images.pullPolicy }}
    {{- with .command }}
    command: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .args }}
    args: {{- toYaml . | nindent 6 }}
    {{- end }}
    securityContext: {{- include "psi.containerSecurity" . | nindent 6 }}
    {{- if .settings }}
    envFrom:
      - configMapRef:
          name: {{ .root.Release.Name }}-env
      {{- range .secrets }}
      - secretRef:
          name: {{ .name }}
          optional: {{ .optional | default false }}
      {{- end }}
    {{- end }}
    {{- with .env }}
    env: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .port }}
    ports:
      - name: {{ $.portName | default "http" }}
        containerPort: {{ . }}
        protocol: TCP
    {{- end }}
    {{- with .startup }}
    startupProbe: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .readiness }}
    readinessProbe: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .liveness }}
    livenessProbe: {{- toYaml . | nindent 6 }}
    {{- end }}
    resources: {{- toYaml .resources | nindent 6 }}
    volumeMounts:
      - name: tmp
        mountPath: /tmp
      {{- if .settings }}
      - name: settings
        mountPath: /etc/predator-si/values
        readOnly: true
      {{- end }}
      {{- if .dagster }}
      - name: dagster-home
        mountPath: /opt/dagster/home
      - name: dagster
        mountPath: /opt/dagster/home/dagster.yaml
        subPath: dagster.yaml
        readOnly: true
      - name: dagster
        mountPath: /opt/dagster/workspace.yaml
        subPath: workspace.yaml
        readOnly: true
      {{- end }}
      {{- if .home }}
      - name: home
        mountPath: /var/lib/predator-si
        {{- if eq .home "read" }}
        readOnly: true
        {{- end }}
      {{- end }}
      {{- if .release }}
      - name: release
        mountPath: /var/lib/predator-si/applied
        readOnly: true
      {{- end }}
      {{- if .secretFiles }}
      - name: secrets
        mountPath: /var/run/secrets/predator-si
        readOnly: true
      {{- end }}
volumes:
  - name: tmp
    emptyDir:
      sizeLimit: {{ .tmp | default "1Gi" }}
  {{- if .settings }}
  - name: settings
    configMap:
      name: {{ .root.Release.Name }}-settings
  {{- end }}
  {{- if .dagster }}
  - name: dagster-home
    emptyDir:
      sizeLimit: 1Gi
  - name: dagster
    configMap:
      name: {{ .root.Release.Name }}-dagster
  {{- end }}
  {{- if .home }}
  - name: home
    persistentVolumeClaim:
      claimName: {{ .root.Values.home.existingClaim | default (printf "%s-home" .root.Release.Name) }}
      {{- if eq .home "read" }}
      readOnly: true
      {{- end }}
  {{- end }}
  {{- if .release }}
  - name: release
    configMap:
      name: {{ .releaseName | default (include "psi.releaseConfig" .root) }}
  {{- end }}
  {{- if .secretFiles }}
  - name: secrets
    secret:
      secretName: {{ .secretFiles }}
      optional: true
      defaultMode: 288
  {{- end }}
{{- end }}

{{- define "psi.service" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ .root.Release.Name }}-{{ .component }}
  namespace: {{ .root.Release.Namespace }}
  labels: {{- include "psi.labels" . | nindent 4 }}
spec:
  type: ClusterIP
  selector: {{- include "psi.selector" . | nindent 4 }}
  ports:
    - name: {{ .portName | default "http" }}
      port: {{ .port }}
      targetPort: {{ .portName | default "http" }}
      protocol: TCP
{{- end }}
