{{- define "comms-exporter.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* 52 characters leave room for the suffix that a StatefulSet appends. */}}
{{- define "comms-exporter.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- $name := include "comms-exporter.name" . }}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "comms-exporter.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride }}
{{- end }}

{{- define "comms-exporter.selectorLabels" -}}
app.kubernetes.io/name: {{ include "comms-exporter.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "comms-exporter.labels" -}}
{{ include "comms-exporter.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: {{ include "comms-exporter.name" . }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Metadata of every object. Takes a dict with root, and optionally name, labels and namespace. */}}
{{- define "comms-exporter.metadata" -}}
name: {{ default (include "comms-exporter.fullname" .root) .name }}
namespace: {{ default (include "comms-exporter.namespace" .root) .namespace }}
labels:
  {{- include "comms-exporter.labels" .root | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "comms-exporter.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "comms-exporter.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "comms-exporter.image" -}}
{{- $image := .Values.image }}
{{- with $image.registry }}{{ . }}/{{ end }}{{ $image.repository }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ default .Chart.AppVersion $image.tag }}{{ end }}
{{- end }}

{{- define "comms-exporter.sharded" -}}
{{- if gt (int .Values.shards) 1 }}yes{{ end }}
{{- end }}

{{- define "comms-exporter.database" -}}
{{- if .Values.database.existingSecret }}yes{{ end }}
{{- end }}

{{/* Fails if values contradict each other. */}}
{{- define "comms-exporter.validate" -}}
{{- if and (include "comms-exporter.database" .) (include "comms-exporter.sharded" .) }}
{{- fail "shards: the pods share the accounts in the database by themselves; leave it at 1, and set replicas" }}
{{- end }}
{{- if and (include "comms-exporter.database" .) .Values.persistence.existingClaim }}
{{- fail "persistence.existingClaim: the counters are in the database; leave it empty" }}
{{- end }}
{{- if and (gt (int .Values.replicas) 1) (not (include "comms-exporter.database" .)) }}
{{- fail "replicas: more than 1 need a database; set database.existingSecret, or set shards instead" }}
{{- end }}
{{- end }}

{{/* With TLS or authentication, an HTTP probe would fail. */}}
{{- define "comms-exporter.probe" -}}
{{- if .root.Values.webConfig.existingSecret -}}
tcpSocket:
  port: http
{{- else -}}
httpGet:
  path: {{ .path }}
  port: http
{{- end }}
{{- end }}

{{- define "comms-exporter.pod" -}}
metadata:
  annotations:
    {{- with .Values.config }}
    checksum/config: {{ toYaml . | sha256sum }}
    {{- end }}
    kubectl.kubernetes.io/default-container: comms-exporter
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  labels:
    {{- include "comms-exporter.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "comms-exporter.serviceAccountName" . }}
  automountServiceAccountToken: {{ .Values.serviceAccount.automountServiceAccountToken }}
  # For a Service called comms-exporter, Kubernetes would inject variables that look like settings.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.podSecurityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: comms-exporter
      image: {{ include "comms-exporter.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args:
        - --web.listen-address=:10067
        {{- if .Values.config }}
        - --config.file=/etc/comms-exporter/config/config.yaml
        {{- end }}
        {{- if .Values.webConfig.existingSecret }}
        - --web.config.file=/etc/comms-exporter/web/web-config.yml
        {{- end }}
        {{- if include "comms-exporter.sharded" . }}
        - --shard.index=$(POD_INDEX)
        - --shard.total={{ .Values.shards }}
        {{- end }}
        {{- range .Values.extraArgs }}
        - {{ . | quote }}
        {{- end }}
      env:
        {{- if include "comms-exporter.database" . }}
        - name: COMMS_EXPORTER_STATE_URL_FILE
          value: /etc/comms-exporter/database/{{ .Values.database.urlKey }}
        {{- else }}
        - name: COMMS_EXPORTER_STATE_PATH
          value: /var/lib/comms-exporter/state.db
        {{- end }}
        {{- if include "comms-exporter.sharded" . }}
        - name: POD_INDEX
          valueFrom:
            fieldRef:
              fieldPath: metadata.labels['apps.kubernetes.io/pod-index']
        {{- end }}
        {{- if not .Values.config.accounts }}
        {{- if eq .Values.credentials "apiKey" }}
        - name: TWILIO_API_KEY_FILE
          value: /etc/comms-exporter/secrets/api-key
        - name: TWILIO_API_SECRET_FILE
          value: /etc/comms-exporter/secrets/api-secret
        {{- else }}
        - name: TWILIO_ACCOUNT_SID_FILE
          value: /etc/comms-exporter/secrets/account-sid
        - name: TWILIO_AUTH_TOKEN_FILE
          value: /etc/comms-exporter/secrets/auth-token
        {{- end }}
        {{- end }}
        {{- with .Values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with .Values.extraEnvFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        - name: http
          containerPort: 10067
          protocol: TCP
      livenessProbe:
        {{- with .Values.livenessProbe }}
        {{- toYaml . | nindent 8 }}
        {{- else }}
        {{- include "comms-exporter.probe" (dict "root" . "path" "/-/healthy") | nindent 8 }}
        {{- end }}
      readinessProbe:
        {{- with .Values.readinessProbe }}
        {{- toYaml . | nindent 8 }}
        {{- else }}
        {{- include "comms-exporter.probe" (dict "root" . "path" "/-/ready") | nindent 8 }}
        {{- end }}
      {{- with .Values.resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .Values.securityContext }}
      securityContext:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      volumeMounts:
        {{- if include "comms-exporter.database" . }}
        - name: database
          mountPath: /etc/comms-exporter/database
          readOnly: true
        {{- else }}
        - name: state
          mountPath: /var/lib/comms-exporter
        {{- end }}
        - name: secrets
          mountPath: /etc/comms-exporter/secrets
          readOnly: true
        {{- if .Values.config }}
        - name: config
          mountPath: /etc/comms-exporter/config
          readOnly: true
        {{- end }}
        {{- if .Values.webConfig.existingSecret }}
        - name: web
          mountPath: /etc/comms-exporter/web
          readOnly: true
        {{- end }}
        {{- with .Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    {{- with .Values.extraContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
    - name: secrets
      secret:
        secretName: {{ required "existingSecret: set it to the name of the Secret with Twilio's credentials" .Values.existingSecret }}
        defaultMode: 0440
    {{- if .Values.config }}
    - name: config
      configMap:
        name: {{ include "comms-exporter.fullname" . }}
    {{- end }}
    {{- with .Values.webConfig.existingSecret }}
    - name: web
      secret:
        secretName: {{ . }}
        defaultMode: 0440
    {{- end }}
    {{- if include "comms-exporter.database" . }}
    - name: database
      secret:
        secretName: {{ .Values.database.existingSecret }}
        defaultMode: 0440
    {{- else if not .Values.persistence.enabled }}
    - name: state
      emptyDir: {}
    {{- else if not (include "comms-exporter.sharded" .) }}
    - name: state
      persistentVolumeClaim:
        claimName: {{ default (include "comms-exporter.fullname" .) .Values.persistence.existingClaim }}
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- toYaml .Values.topologySpreadConstraints | nindent 4 }}
  {{- else if gt (int .Values.replicas) 1 }}
  topologySpreadConstraints:
    {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "comms-exporter.selectorLabels" $ | nindent 10 }}
      # During an upgrade, the old pods do not count.
      matchLabelKeys: [pod-template-hash]
    {{- end }}
  {{- end }}
{{- end }}

{{- define "comms-exporter.claim" -}}
accessModes:
  {{- toYaml .Values.persistence.accessModes | nindent 2 }}
{{- with .Values.persistence.storageClass }}
storageClassName: {{ . | quote }}
{{- end }}
resources:
  requests:
    storage: {{ .Values.persistence.size }}
{{- end }}
