{{- define "coldfusion.seaweedfs.config" -}}
{{ toJson .identities }}
{{- end -}}
