{{- /* Shared by the charts meshfed-hub and meshfed-cluster: this file is the same in both, and a test compares them. */ -}}

{{- /* Labels of every object. Call: include "meshfed.labels" (dict "root" $ "component" "agent") */ -}}
{{- define "meshfed.labels" -}}
app.kubernetes.io/name: meshfed
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/part-of: meshfed
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | quote }}
{{- end }}

{{- /* What selects the pods of a component; never changes over upgrades. */ -}}
{{- define "meshfed.selector" -}}
app.kubernetes.io/name: meshfed
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- /* The image: by digest where there is one. */ -}}
{{- define "meshfed.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ printf "%s@%s" .repository .digest }}
{{- else -}}
{{ printf "%s:%s" .repository (.tag | default $.Chart.AppVersion) }}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "meshfed.podMetadata" -}}
labels:
  {{- include "meshfed.labels" . | nindent 2 }}
  federation.meshfed.io/injection: disabled
{{- end }}

{{- /* What every pod has beside its containers and volumes. */ -}}
{{- define "meshfed.podSpec" -}}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
  {{- if .root.Values.topologySpreadConstraints }}
  {{- toYaml .root.Values.topologySpreadConstraints | nindent 2 }}
  {{- else }}
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "meshfed.selector" $ | nindent 8 }}
  {{- end }}
  {{- end }}
{{- with .root.Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
securityContext:
  runAsNonRoot: true
  {{- if .fsGroup }}
  # A volume that a claim brings belongs to root; an emptyDir may be written by anybody.
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  {{- end }}
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{- define "meshfed.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{- define "meshfed.podEnv" -}}
{{- range $name, $path := dict "POD_NAME" "metadata.name" "POD_NAMESPACE" "metadata.namespace" "POD_IP" "status.podIP" "NODE_NAME" "spec.nodeName" }}
- name: {{ $name }}
  valueFrom:
    fieldRef:
      fieldPath: {{ $path }}
{{- end }}
{{- end }}

{{- /* Alive is not ready: a member that waits for its hub is alive. */ -}}
{{- define "meshfed.probes" -}}
startupProbe:
  httpGet:
    path: /livez
    port: {{ . }}
  periodSeconds: 1
  failureThreshold: 120
livenessProbe:
  httpGet:
    path: /livez
    port: {{ . }}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet:
    path: /readyz
    port: {{ . }}
  periodSeconds: 2
  timeoutSeconds: 2
{{- end }}

{{- /* Call: include "meshfed.claim" (dict "root" $ "name" "meshfed-hub" "component" "hub"). Kept: it holds keys. */ -}}
{{- define "meshfed.claim" -}}
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace | quote }}
  labels:
    {{- include "meshfed.labels" . | nindent 4 }}
  annotations:
    helm.sh/resource-policy: keep
spec:
  accessModes: [ReadWriteOnce]
  {{- with .root.Values.persistence.storageClass }}
  storageClassName: {{ . | quote }}
  {{- end }}
  resources:
    requests:
      storage: {{ .root.Values.persistence.size | quote }}
{{- end }}

{{- /* A Service without address that names the metrics port, and the monitor that finds it. */ -}}
{{- define "meshfed.monitor" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ .name }}-metrics
  namespace: {{ .root.Release.Namespace | quote }}
  labels:
    {{- include "meshfed.labels" . | nindent 4 }}
    federation.meshfed.io/metrics: {{ .name }}
spec:
  clusterIP: None
  selector:
    {{- include "meshfed.selector" . | nindent 4 }}
  ports:
    - name: metrics
      port: {{ .port }}
      targetPort: metrics
---
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace | quote }}
  labels:
    {{- include "meshfed.labels" . | nindent 4 }}
spec:
  selector:
    matchLabels:
      federation.meshfed.io/metrics: {{ .name }}
  endpoints:
    - port: metrics
      path: /metrics
{{- end }}

{{- /* Evictions take one pod at a time, and never wait for one that is not ready anyway. */ -}}
{{- define "meshfed.disruption" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace | quote }}
  labels:
    {{- include "meshfed.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "meshfed.selector" . | nindent 6 }}
{{- end }}
