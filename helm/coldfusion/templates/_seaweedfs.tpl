{{/* What SeaweedFS reads with -s3.config: an identity for each role, whose rights are the policy in
     files/access/store, the same that AWS and MinIO are given. A role without a policy gets no identity.
     Arguments: root, bucket, repository, identities (role, accessKey, secretKey; site, name of the identity).
     Policies are matched by name, and a policy is JSON within JSON. */}}
{{- define "coldfusion.seaweedfs.config" -}}
{{- $identities := list -}}
{{- $policies := list -}}
{{- range .identities -}}
  {{- $name := default .role .name -}}
  {{- with $.root.Files.Get (printf "files/access/store/%s.json" .role) | trim -}}
    {{- $policy := . | replace "BUCKET" $.bucket | replace "REPOSITORY" $.repository -}}
    {{- $policies = append $policies (dict "name" $name "content" ($policy | fromJson | toJson)) -}}
  {{- end -}}
  {{- if $.root.Files.Get (printf "files/access/store/%s.json" .role) -}}
    {{- $credentials := list (dict "accessKey" .accessKey "secretKey" .secretKey) -}}
    {{- $identities = append $identities (dict "name" $name "credentials" $credentials "policyNames" (list $name)) -}}
  {{- end -}}
{{- end -}}
{{- dict "identities" $identities "policies" $policies | toJson -}}
{{- end -}}
