{{/* What follows from the values: pools with their defaults, quantities, addresses, times. */}}

{{/* A map laid over another one, as YAML; also false, 0 and "" count. Arguments: base, over. */}}
{{- define "coldfusion.overlay" -}}
{{- $result := deepCopy .base -}}
{{- range $key, $value := .over -}}
  {{- if and (kindIs "map" $value) (kindIs "map" (get $result $key)) $value -}}
    {{- $inner := include "coldfusion.overlay" (dict "base" (get $result $key) "over" $value) | fromYaml -}}
    {{- $_ := set $result $key $inner -}}
  {{- else if not (and (kindIs "map" $value) (not $value)) -}}
    {{- $_ := set $result $key $value -}}
  {{- end -}}
{{- end -}}
{{- toYaml $result -}}
{{- end -}}

{{/* Every pool that is enabled, with its defaults, as a YAML map by name. */}}
{{- define "coldfusion.pools" -}}
{{- $pools := dict -}}
{{- range $name, $pool := .Values.pools -}}
  {{- $whole := include "coldfusion.overlay" (dict "base" $.Values.poolDefaults "over" (default dict $pool)) | fromYaml -}}
  {{- if $whole.enabled -}}{{- $_ := set $pools $name $whole -}}{{- end -}}
{{- end -}}
{{- toYaml $pools -}}
{{- end -}}

{{- define "coldfusion.evaluation" -}}
{{- include "coldfusion.overlay" (dict "base" .Values.poolDefaults "over" .Values.evaluation) -}}
{{- end -}}

{{/* Role of a pool: finetune, or site-<site>. */}}
{{- define "coldfusion.poolRole" -}}
{{- if .site }}site-{{ .site }}{{ else }}finetune{{ end -}}
{{- end -}}

{{/* All roles that have credentials, as a YAML list. */}}
{{- define "coldfusion.roles" -}}
{{- $roles := list "finetune" "evaluation" "fusion" "beat" "exporter" "setup" "submit" "keda" -}}
{{- range include "coldfusion.pools" . | fromYaml -}}
  {{- $roles = append $roles (include "coldfusion.poolRole" .) -}}
{{- end -}}
{{- uniq $roles | toYaml -}}
{{- end -}}

{{/* Bytes of a quantity in Mi, Gi or Ti. Arguments: what, quantity. */}}
{{- define "coldfusion.bytes" -}}
{{- if not (regexMatch "^[1-9][0-9]*(Mi|Gi|Ti)$" (toString .quantity)) -}}
{{- fail (printf "%s is %q: expected a whole number of Mi, Gi or Ti, such as 20Gi" .what (toString .quantity)) -}}
{{- end -}}
{{- $unit := dict "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- mul (regexFind "^[0-9]+" .quantity | int64) (get $unit (regexFind "[MGT]i$" .quantity) | int64) -}}
{{- end -}}

{{/* Seconds between SIGTERM's announcement and SIGKILL: preStop, drain, checkpoint, and 15 more to acknowledge
     and end. Arguments: root, drainSeconds. */}}
{{- define "coldfusion.graceSeconds" -}}
{{- add .root.Values.shutdown.preStopSeconds .drainSeconds .root.Values.shutdown.softSeconds 15 -}}
{{- end -}}

{{/* The broker as YAML: url, isTls, isSentinel, addresses (host:port,...), database, and ports of the addresses. */}}
{{- define "coldfusion.broker" -}}
{{- $url := .Values.broker.external.url -}}
{{- if eq .Values.broker.kind "embedded" -}}
  {{- $host := printf "%s.%s.svc" (include "coldfusion.component" (dict "root" . "component" "broker")) .Release.Namespace -}}
  {{- $url = printf "%s://%s:6379/0" (ternary "rediss" "redis" (not (empty .Values.tls.embeddedSecret))) $host -}}
{{- end -}}
{{- $scheme := regexFind "^[a-z+-]+" $url -}}
{{- $rest := regexReplaceAll "^[a-z+-]+://" $url "" -}}
{{- $addresses := regexFind "^[^/]*" $rest -}}
{{- $database := regexFind "[0-9]+$" (regexReplaceAll "^[^/]*" $rest "") | default "0" -}}
url: {{ $url | quote }}
isTls: {{ has $scheme (list "rediss" "sentinels") }}
isSentinel: {{ hasPrefix "sentinel" $scheme }}
addresses: {{ $addresses | quote }}
database: {{ $database | quote }}
{{- $ports := list }}
{{- range splitList "," $addresses }}
  {{- $ports = append $ports (regexFind "[0-9]+$" (regexFind ":[0-9]+$" .) | default (ternary "26379" "6379" (hasPrefix "sentinel" $scheme))) }}
{{- end }}
ports: {{ toJson (uniq $ports) }}
{{- end -}}

{{/* The store: endpoint, port, region, addressing as YAML. */}}
{{- define "coldfusion.store" -}}
{{- $external := .Values.objectStore.external -}}
{{- if eq .Values.objectStore.kind "external" -}}
endpoint: {{ $external.endpoint | quote }}
port: {{ regexFind "[0-9]+$" (regexFind ":[0-9]+$" $external.endpoint) | default (ternary "443" "80" (hasPrefix "https" $external.endpoint)) }}
region: {{ $external.region | quote }}
addressing: {{ $external.addressing }}
{{- else -}}
{{- $port := ternary 8333 9000 (eq .Values.objectStore.kind "seaweedfs") -}}
{{- $host := printf "%s.%s.svc" (include "coldfusion.component" (dict "root" . "component" "store")) .Release.Namespace -}}
endpoint: {{ printf "%s://%s:%d" (ternary "https" "http" (not (empty .Values.tls.embeddedSecret))) $host $port | quote }}
port: {{ $port }}
region: us-east-1
addressing: path
{{- end -}}
{{- end -}}
