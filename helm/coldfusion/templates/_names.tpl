{{/* Names, labels and images. */}}

{{- define "coldfusion.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "coldfusion.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 53 | trimSuffix "-" -}}
{{- else if contains (include "coldfusion.name" .) .Release.Name -}}
{{- .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "coldfusion.name" .) | trunc 53 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Name of one component's objects; 52 characters leave room for what a controller appends.
     Arguments: root, component. A long name keeps its end, and a digest that tells it from others. */}}
{{- define "coldfusion.component" -}}
{{- $full := printf "%s-%s" (include "coldfusion.fullname" .root) .component -}}
{{- if gt (len $full) 52 -}}
{{- $tail := printf "%s-%s" (sha256sum $full | trunc 6) (.component | trunc 30) -}}
{{- printf "%s-%s" (include "coldfusion.fullname" .root | trunc (int (sub 51 (len $tail))) | trimSuffix "-") $tail | trimSuffix "-" -}}
{{- else -}}
{{- $full -}}
{{- end -}}
{{- end -}}

{{/* Labels that select one component's pods. Arguments: root, component. */}}
{{- define "coldfusion.selector" -}}
app.kubernetes.io/name: {{ include "coldfusion.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Labels of an object. Arguments: root, component. */}}
{{- define "coldfusion.labels" -}}
{{ include "coldfusion.selector" . }}
app.kubernetes.io/part-of: coldfusion
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels of a pod: those of its object without the versions, which would roll workers that train and change
     jobs, which cannot be changed. Arguments: root, component. */}}
{{- define "coldfusion.podLabels" -}}
{{ include "coldfusion.selector" . }}
app.kubernetes.io/part-of: coldfusion
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "coldfusion.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "coldfusion.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* One of our images. Arguments: root, variant (cpu or gpu). */}}
{{- define "coldfusion.image" -}}
{{- $image := .root.Values.image -}}
{{- $digest := get $image (printf "%sDigest" .variant) -}}
{{- $name := printf "%s:%s-%s" $image.repository (default .root.Chart.AppVersion $image.tag) .variant -}}
{{- with $image.registry }}{{ . }}/{{ end }}{{ $name }}{{ with $digest }}@{{ . }}{{ end }}
{{- end -}}

{{/* Somebody else's image. */}}
{{- define "coldfusion.foreignImage" -}}
{{ .repository }}:{{ .tag }}{{ with .digest }}@{{ . }}{{ end }}
{{- end -}}

{{/* Name of the Secret with the credentials of the embedded servers. */}}
{{- define "coldfusion.credentialsName" -}}
{{- default (include "coldfusion.component" (dict "root" . "component" "credentials")) .Values.credentials.existingSecret -}}
{{- end -}}
