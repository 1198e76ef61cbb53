{{/* The pod of a process of ours: restricted, with a read-only root and volumes for what it writes. */}}

{{- define "coldfusion.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "coldfusion.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* What every pod has, beside containers and volumes. Arguments: root, component, nodeSelector, tolerations,
     affinity, spread, priorityClassName. */}}
{{- define "coldfusion.podCommon" -}}
serviceAccountName: {{ include "coldfusion.serviceAccountName" .root | quote }}
automountServiceAccountToken: false
# A Service named "coldfusion" would otherwise put COLDFUSION_PORT into the environment.
enableServiceLinks: false
securityContext:
  {{- include "coldfusion.podSecurity" . | nindent 2 }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .spread }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "coldfusion.selector" $ | nindent 8 }}
    matchLabelKeys: [pod-template-hash]
{{- end }}
{{- end -}}

{{/* Probes by HTTP, which start no process. A long task fails none of them; a loop that hangs while the broker
     answers fails liveness. */}}
{{- define "coldfusion.probes" -}}
startupProbe:
  httpGet: {path: /startupz, port: metrics}
  # Images are large and torch takes long to load from a cold disk: ten minutes.
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 120
livenessProbe:
  httpGet: {path: /livez, port: metrics}
  # Two minutes beyond the one of the process itself, in which a worker reconnects by itself.
  periodSeconds: 20
  timeoutSeconds: 10
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
  periodSeconds: 15
  timeoutSeconds: 10
  failureThreshold: 2
{{- end -}}

{{/* Requests and limits with GPUs and ephemeral storage. Arguments: resources, gpu, ephemeralBytes. */}}
{{- define "coldfusion.resources" -}}
{{- $requests := deepCopy (default dict .resources.requests) -}}
{{- $limits := deepCopy (default dict .resources.limits) -}}
{{- if not (hasKey $requests "ephemeral-storage") -}}
  {{- $_ := set $requests "ephemeral-storage" (printf "%dMi" (div .ephemeralBytes 1048576)) -}}
{{- end -}}
{{- with .gpu -}}
  {{- if .count -}}
    {{- $_ := set $requests .resourceName (toString .count) -}}
    {{- $_ := set $limits .resourceName (toString .count) -}}
  {{- end -}}
{{- end -}}
{{- toYaml (dict "requests" $requests "limits" $limits) -}}
{{- end -}}

{{/* Arguments: root, component, role, variant, command, settings, drainSeconds, env, resources, gpu, scratchSize,
     cache, shmSize, volumes, mounts, probes, nodeSelector, tolerations, affinity, spread, priorityClassName,
     runtimeClassName, graceSeconds, restartPolicy. */}}
{{- define "coldfusion.podSpec" -}}
{{- $root := .root -}}
{{- $sources := include "coldfusion.secretSources" . -}}
{{- $where := printf "%s of %s" "scratchSize" .component -}}
{{- $ephemeral := add (include "coldfusion.bytes" (dict "what" $where "quantity" .scratchSize) | int64) 134217728 -}}
{{- $cache := .cache -}}
{{- if and $cache (eq $cache.kind "emptyDir") -}}
  {{- $ephemeral = add $ephemeral (include "coldfusion.bytes" (dict "what" (printf "cache.size of %s" .component) "quantity" $cache.size) | int64) -}}
{{- end -}}
{{- include "coldfusion.podCommon" . }}
{{- with .runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .graceSeconds }}
terminationGracePeriodSeconds: {{ . }}
{{- end }}
{{- with .restartPolicy }}
restartPolicy: {{ . }}
{{- end }}
containers:
  - name: {{ .container | default "main" }}
    image: {{ include "coldfusion.image" (dict "root" $root "variant" .variant) }}
    imagePullPolicy: {{ $root.Values.image.pullPolicy }}
    # The program is process 1 and gets SIGTERM itself: no shell.
    command:
      {{- toYaml .command | nindent 6 }}
    env:
      {{- include "coldfusion.environment" (dict "root" $root "role" .role "own" .settings "drainSeconds" .drainSeconds "extra" .env) | trim | nindent 6 }}
    securityContext:
      {{- include "coldfusion.containerSecurity" . | nindent 6 }}
    resources:
      {{- include "coldfusion.resources" (dict "resources" .resources "gpu" .gpu "ephemeralBytes" $ephemeral) | nindent 6 }}
    {{- if .probes }}
    ports:
      - {name: metrics, containerPort: 9464, protocol: TCP}
    {{- include "coldfusion.probes" . | nindent 4 }}
    {{- if $root.Values.shutdown.preStopSeconds }}
    lifecycle:
      preStop:
        sleep: {seconds: {{ $root.Values.shutdown.preStopSeconds }}}
    {{- end }}
    {{- end }}
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
      - {name: home, mountPath: /var/lib/coldfusion}
      {{- if $sources }}
      - {name: secrets, mountPath: /etc/coldfusion/secrets, readOnly: true}
      {{- end }}
      {{- if $root.Values.tls.caSecret }}
      - {name: ca, mountPath: /etc/coldfusion/ca, readOnly: true}
      {{- end }}
      {{- if .shmSize }}
      - {name: shm, mountPath: /dev/shm}
      {{- end }}
      {{- range .mounts }}
      - {{ toJson . }}
      {{- end }}
volumes:
  - name: tmp
    emptyDir: {sizeLimit: {{ .scratchSize }}}
  - name: home
    {{- if and $cache (eq $cache.kind "ephemeral") }}
    ephemeral:
      volumeClaimTemplate:
        metadata:
          labels:
            {{- include "coldfusion.selector" . | nindent 12 }}
        spec:
          accessModes: [ReadWriteOnce]
          {{- with $cache.storageClassName }}
          storageClassName: {{ . }}
          {{- end }}
          resources: {requests: {storage: {{ $cache.size }}}}
    {{- else }}
    emptyDir: {sizeLimit: {{ ternary (get (default dict $cache) "size") "128Mi" (not (empty $cache)) }}}
    {{- end }}
  {{- if $sources }}
  - name: secrets
    projected:
      # Readable for the group that every process of the pod has (fsGroup).
      defaultMode: 0440
      sources:
        {{- $sources | trim | nindent 8 }}
  {{- end }}
  {{- if $root.Values.tls.caSecret }}
  - name: ca
    secret:
      secretName: {{ $root.Values.tls.caSecret }}
      defaultMode: 0440
      items:
        - {key: {{ $root.Values.tls.caKey }}, path: ca.crt}
  {{- end }}
  {{- if .shmSize }}
  - name: shm
    emptyDir: {medium: Memory, sizeLimit: {{ .shmSize }}}
  {{- end }}
  {{- range .volumes }}
  - {{ toJson . }}
  {{- end }}
{{- end -}}

{{/* Labels and annotations of a pod. Arguments: root, component, annotations. */}}
{{- define "coldfusion.podMetadata" -}}
labels:
  {{- include "coldfusion.podLabels" . | nindent 2 }}
{{- with .annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The value of a class cannot be changed, so it is part of the name. Priority class of a component: its own, else the chart's. Arguments: root, own, kind (finetune or fusion). */}}
{{- define "coldfusion.priorityClass" -}}
{{- if .own -}}
{{- .own -}}
{{- else if .root.Values.priorityClasses.create -}}
{{- $name := printf "%s-%s" .root.Release.Namespace (include "coldfusion.fullname" .root) -}}
{{- if gt (len $name) 43 -}}
  {{- $name = printf "%s-%s" ($name | trunc 36 | trimSuffix "-") (sha256sum $name | trunc 6) -}}
{{- end -}}
{{- printf "%s-%s-%d" $name .kind (get .root.Values.priorityClasses (printf "%sValue" .kind) | int) -}}
{{- end -}}
{{- end -}}
