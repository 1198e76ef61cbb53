{{/* Settings by which a pool's workers know where they belong. Arguments: name, pool. */}}
{{- define "coldfusion.poolSettings" -}}
{{- if .pool.site -}}
site: {{ .pool.site }}
site_data_dir: /data
{{- else -}}
pool: {{ .name }}
{{- end -}}
{{- end -}}

{{/* Volume and mount of a site's private data, as a YAML map with lists volumes and mounts. */}}
{{- define "coldfusion.siteData" -}}
{{- if .site -}}
volumes:
  - name: site-data
    persistentVolumeClaim: {claimName: {{ .siteData.existingClaim }}, readOnly: true}
mounts:
  - name: site-data
    mountPath: /data
    readOnly: true
    {{- with .siteData.subPath }}
    subPath: {{ . }}
    {{- end }}
{{- else -}}
volumes: []
mounts: []
{{- end -}}
{{- end -}}

{{/* Workers with a device: the Deployment of a pool of finetune workers, or of the evaluation workers.
     Arguments: root, component, role, module, pool (its values), settings (of the chart's own). */}}
{{- define "coldfusion.deviceWorker" -}}
{{- $root := .root -}}
{{- $pool := .pool -}}
{{- $selector := include "coldfusion.selector" . -}}
{{- $drain := ternary 0 (int $pool.drainSeconds) $pool.spot -}}
{{- $grace := include "coldfusion.graceSeconds" (dict "root" $root "drainSeconds" $drain) | int -}}
{{- $grace = max $grace (default 0 $pool.terminationGracePeriodSeconds | int) -}}
{{- $tolerations := $pool.tolerations -}}
{{- if $pool.gpu.count -}}
  {{- $tolerations = append $tolerations (dict "key" $pool.gpu.resourceName "operator" "Exists" "effect" "NoSchedule") -}}
{{- end -}}
{{- $annotations := deepCopy $pool.podAnnotations -}}
{{- if and $pool.protectFromNodeScaleIn (not $pool.spot) -}}
  {{- $_ := set $annotations "cluster-autoscaler.kubernetes.io/safe-to-evict" "false" -}}
  {{- $_ := set $annotations "karpenter.sh/do-not-disrupt" "true" -}}
{{- end -}}
{{- $cacheBytes := include "coldfusion.bytes" (dict "what" (printf "cache.size of %s" .component) "quantity" $pool.cache.size) | int64 -}}
{{- $settings := dict "cache_bytes" (div (mul $cacheBytes 4) 5) -}}
{{- if and (not $pool.gpu.count) -}}{{- $_ := set $settings "device" "cpu" -}}{{- end -}}
{{- $settings = merge (deepCopy $pool.settings) $settings -}}
{{- range $name, $value := .settings -}}{{- $_ := set $settings $name $value -}}{{- end -}}
{{- $data := include "coldfusion.siteData" $pool | fromYaml -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "coldfusion.component" . }}
  labels:
    {{- include "coldfusion.labels" . | nindent 4 }}
spec:
  {{- if eq $pool.autoscaling.kind "none" }}
  replicas: {{ $pool.replicas }}
  {{- else }}
  {{- with lookup "apps/v1" "Deployment" $root.Release.Namespace (include "coldfusion.component" .) }}
  # The number that there is: without it an upgrade that turns autoscaling on would leave one worker of many.
  replicas: {{ .spec.replicas }}
  {{- end }}
  {{- end }}
  revisionHistoryLimit: 3
  # A rollout waits for workers that drain.
  progressDeadlineSeconds: {{ add 900 $grace }}
  selector:
    matchLabels:
      {{- $selector | nindent 6 }}
  strategy:
    type: RollingUpdate
    rollingUpdate:
      maxSurge: {{ $pool.strategy.maxSurge }}
      maxUnavailable: {{ $pool.strategy.maxUnavailable }}
  template:
    metadata:
      {{- include "coldfusion.podMetadata" (dict "root" $root "component" .component "annotations" $annotations) | nindent 6 }}
    spec:
      {{- include "coldfusion.podSpec" (dict
        "root" $root
        "component" .component
        "role" .role
        "variant" "gpu"
        "command" (list "python" "-m" .module)
        "settings" $settings
        "drainSeconds" $drain
        "env" (dict "HF_HUB_OFFLINE" "1" "HF_HOME" "/var/lib/coldfusion/huggingface")
        "resources" $pool.resources
        "gpu" $pool.gpu
        "scratchSize" $pool.scratchSize
        "cache" $pool.cache
        "shmSize" $pool.shmSize
        "volumes" $data.volumes
        "mounts" $data.mounts
        "probes" true
        "nodeSelector" $pool.nodeSelector
        "tolerations" $tolerations
        "affinity" $pool.affinity
        "spread" (ternary $pool.topologySpread.topologyKey "" $pool.topologySpread.enabled)
        "priorityClassName" (include "coldfusion.priorityClass" (dict "root" $root "own" $pool.priorityClassName "kind" "finetune"))
        "runtimeClassName" $pool.runtimeClassName
        "graceSeconds" $grace
      ) | nindent 6 }}
{{- if $pool.podDisruptionBudget.enabled }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "coldfusion.component" . }}
  labels:
    {{- include "coldfusion.labels" . | nindent 4 }}
spec:
  maxUnavailable: {{ $pool.podDisruptionBudget.maxUnavailable }}
  selector:
    matchLabels:
      {{- $selector | nindent 6 }}
{{- end }}
{{- end -}}
