{{/* Environment of a process, and the files that hold its secrets. */}}

{{/* Environment as YAML list; each name once, sorted. Arguments: root, role, own (a map of settings),
     drainSeconds, extra (a map of names and values). */}}
{{- define "coldfusion.environment" -}}
{{- $root := .root -}}
{{- $broker := include "coldfusion.broker" $root | fromYaml -}}
{{- $store := include "coldfusion.store" $root | fromYaml -}}
{{- $env := dict
  "COLDFUSION_HOME" "/var/lib/coldfusion"
  "COLDFUSION_LOG_FORMAT" "json"
  "TMPDIR" "/tmp"
-}}
{{- range $name, $value := $root.Values.settings -}}
  {{- $_ := set $env (printf "COLDFUSION_%s" (upper $name)) (include "coldfusion.scalar" $value) -}}
{{- end -}}
{{- range $name, $value := default dict .own -}}
  {{- $_ := set $env (printf "COLDFUSION_%s" (upper $name)) (include "coldfusion.scalar" $value) -}}
{{- end -}}
{{- $_ := set $env "COLDFUSION_REPOSITORY" $root.Values.repository.name -}}
{{- $_ := set $env "COLDFUSION_SECRETS_DIR" "/etc/coldfusion/secrets" -}}
{{- $_ := set $env "COLDFUSION_SOFT_SHUTDOWN_SECONDS" (toString $root.Values.shutdown.softSeconds) -}}
{{- $_ := set $env "COLDFUSION_DRAIN_SECONDS" (toString (default 0 .drainSeconds)) -}}
{{- $_ := set $env "COLDFUSION_METRICS_PORT" "9464" -}}
{{- $_ := set $env "COLDFUSION_BROKER_URL" $broker.url -}}
{{- if $broker.isSentinel -}}
  {{- $_ := set $env "COLDFUSION_BROKER_SENTINEL_MASTER" $root.Values.broker.external.sentinelMaster -}}
{{- end -}}
{{- $_ := set $env "COLDFUSION_S3_ENDPOINT" $store.endpoint -}}
{{- $_ := set $env "COLDFUSION_S3_BUCKET" $root.Values.objectStore.bucket -}}
{{- $_ := set $env "COLDFUSION_S3_REGION" $store.region -}}
{{- $_ := set $env "COLDFUSION_S3_ADDRESSING" $store.addressing -}}
{{- if $root.Values.tls.caSecret -}}
  {{- if $broker.isTls -}}{{- $_ := set $env "COLDFUSION_BROKER_CA_FILE" "/etc/coldfusion/ca/ca.crt" -}}{{- end -}}
  {{- if hasPrefix "https" $store.endpoint -}}{{- $_ := set $env "COLDFUSION_S3_CA_FILE" "/etc/coldfusion/ca/ca.crt" -}}{{- end -}}
{{- end -}}
{{- with $root.Values.monitoring.traces.endpoint -}}
  {{- $_ := set $env "COLDFUSION_TRACES" "true" -}}
  {{- $_ := set $env "OTEL_EXPORTER_OTLP_ENDPOINT" . -}}
{{- end -}}
{{- range $name, $value := default dict .extra -}}
  {{- $_ := set $env $name (toString $value) -}}
{{- end -}}
{{- range $name := keys $env | sortAlpha }}
- name: {{ $name }}
  value: {{ get $env $name | quote }}
{{- end }}
{{- end -}}

{{/* A number without an exponent, which floats of a million and more would have. */}}
{{- define "coldfusion.scalar" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}{{- int64 . -}}{{- else -}}{{- toString . -}}{{- end -}}
{{- end -}}

{{/* Sources of the volume with a role's secrets, as YAML list; empty if it needs none. Each file is named as
     the setting that it holds. Arguments: root, role ("none" has no secrets). */}}
{{- define "coldfusion.secretSources" -}}
{{- if ne .role "none" -}}
{{- $values := .root.Values -}}
{{- $broker := $values.broker.external -}}
{{- $store := $values.objectStore.external -}}
{{- if eq $values.broker.kind "embedded" }}
{{- if ne .role "setup" }}
- secret:
    name: {{ include "coldfusion.credentialsName" .root }}
    items:
      - {key: {{ .role }}-broker-username, path: COLDFUSION_BROKER_USERNAME}
      - {key: {{ .role }}-broker-password, path: COLDFUSION_BROKER_PASSWORD}
{{- end }}
{{- else }}
{{- with default $broker.existingSecret (get $broker.roleSecrets .role) }}
- secret:
    name: {{ . }}
    items:
      {{- with $broker.usernameKey }}
      - {key: {{ . }}, path: COLDFUSION_BROKER_USERNAME}
      {{- end }}
      - {key: {{ $broker.passwordKey }}, path: COLDFUSION_BROKER_PASSWORD}
      {{- with $broker.sentinelPasswordKey }}
      - {key: {{ . }}, path: COLDFUSION_BROKER_SENTINEL_PASSWORD}
      {{- end }}
{{- end }}
{{- end }}
{{- if ne .role "beat" }}
{{- if ne $values.objectStore.kind "external" }}
- secret:
    name: {{ include "coldfusion.credentialsName" .root }}
    items:
      - {key: {{ .role }}-s3-access-key, path: COLDFUSION_S3_ACCESS_KEY}
      - {key: {{ .role }}-s3-secret-key, path: COLDFUSION_S3_SECRET_KEY}
{{- else }}
{{- with default $store.existingSecret (get $store.roleSecrets .role) }}
- secret:
    name: {{ . }}
    items:
      - {key: {{ $store.accessKeyKey }}, path: COLDFUSION_S3_ACCESS_KEY}
      - {key: {{ $store.secretKeyKey }}, path: COLDFUSION_S3_SECRET_KEY}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}
{{- end -}}
