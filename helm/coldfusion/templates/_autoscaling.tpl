{{/* Scaling on the work that exists: turns that wait in the pool's queue, and turns that its workers are at. */}}

{{/* Not empty if any pool is scaled by KEDA. */}}
{{- define "coldfusion.usesKeda" -}}
{{- range include "coldfusion.pools" . | fromYaml -}}
  {{- if eq .autoscaling.kind "keda" -}}yes{{- end -}}
{{- end -}}
{{- end -}}

{{/* Queue of a pool. */}}
{{- define "coldfusion.queue" -}}
finetune{{ with .site }}.{{ . }}{{ end }}
{{- end -}}

{{/* Redis hash of the messages that a pool's workers have. Arguments: name, pool. */}}
{{- define "coldfusion.unacked" -}}
{{- if .pool.site }}unacked.{{ .pool.site }}{{ else }}unacked:finetune:{{ .name }}{{ end -}}
{{- end -}}

{{/* Addresses of the broker or its Sentinels, each with its port, which KEDA does not make up. Argument: the broker. */}}
{{- define "coldfusion.kedaAddresses" -}}
{{- $addresses := list -}}
{{- range splitList "," .addresses -}}
  {{- $addresses = append $addresses (ternary . (printf "%s:%s" . (ternary "26379" "6379" $.isSentinel)) (contains ":" .)) -}}
{{- end -}}
{{- join "," $addresses -}}
{{- end -}}

{{/* What KEDA is let in with: secret (empty without a password), tls (not empty if the authority is one's own). */}}
{{- define "coldfusion.kedaAuthentication" -}}
{{- $broker := include "coldfusion.broker" . | fromYaml -}}
{{- $external := .Values.broker.external -}}
{{- if eq .Values.broker.kind "embedded" }}
secret: {{ include "coldfusion.credentialsName" . | quote }}
{{- else }}
secret: {{ default $external.existingSecret (get $external.roleSecrets "keda") | quote }}
{{- end }}
tls: {{ and $broker.isTls (not (empty .Values.tls.caSecret)) }}
{{- end -}}

{{/* What the HPA, by itself or of KEDA, may do. Arguments: pool, aheadSeconds. */}}
{{- define "coldfusion.scalingBehavior" -}}
scaleUp:
  # Longer than a worker has two turns in hand, near the end of one: that is no work for another worker.
  stabilizationWindowSeconds: {{ min 3600 (mul 2 .aheadSeconds) }}
  policies:
    - {type: Pods, value: {{ .pool.autoscaling.maxReplicas }}, periodSeconds: 60}
scaleDown:
  {{- if eq .pool.autoscaling.scaleIn "zeroOnly" }}
  # Nobody can say which worker goes, so none goes while one of them may be busy.
  selectPolicy: Disabled
  {{- else }}
  stabilizationWindowSeconds: {{ min 3600 .pool.autoscaling.cooldownSeconds }}
  policies:
    # One at a time: whoever is chosen may be busy, and {{ ternary "ends its turn first" "hands it on with a checkpoint" (eq .pool.autoscaling.scaleIn "drain") }}.
    - {type: Pods, value: 1, periodSeconds: 60}
  {{- end }}
{{- end -}}

{{- define "coldfusion.aheadSeconds" -}}
{{- $settings := merge (deepCopy .pool.settings) .root.Values.settings -}}
{{- if hasKey $settings "prepare_ahead_seconds" -}}{{- get $settings "prepare_ahead_seconds" | ceil | int -}}{{- else -}}30{{- end -}}
{{- end -}}
