{{/* What the embedded servers share. */}}

{{/* Changes with the users and rights of the embedded servers, which they read when they start. */}}
{{- define "coldfusion.accessChecksum" -}}
{{- $files := dict -}}
{{- range $path, $_ := .Files.Glob "files/access/**" -}}{{- $_ := set $files $path ($.Files.Get $path) -}}{{- end -}}
{{- printf "%s%s%s%s" (toJson $files) (include "coldfusion.roles" .) .Values.repository.name .Values.objectStore.bucket | sha256sum -}}
{{- end -}}

{{/* A StatefulSet of one pod with one volume. Arguments: root, component, values (resources, size,
     storageClassName, nodeSelector, tolerations), image, command, env, ports, probe, mounts, volumes,
     graceSeconds. */}}
{{- define "coldfusion.server" -}}
{{- $root := .root -}}
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: {{ include "coldfusion.component" . }}
  labels:
    {{- include "coldfusion.labels" . | nindent 4 }}
spec:
  replicas: 1
  # A pod that does not come up must not keep its successor, with the mended template, from being made.
  podManagementPolicy: Parallel
  serviceName: {{ include "coldfusion.component" . }}
  selector:
    matchLabels:
      {{- include "coldfusion.selector" . | nindent 6 }}
  template:
    metadata:
      {{- include "coldfusion.podMetadata" (dict "root" $root "component" .component "annotations" (dict "checksum/access" (include "coldfusion.accessChecksum" $root))) | nindent 6 }}
    spec:
      {{- include "coldfusion.podCommon" (dict
        "root" $root
        "component" .component
        "nodeSelector" .values.nodeSelector
        "tolerations" .values.tolerations
        "priorityClassName" (include "coldfusion.priorityClass" (dict "root" $root "own" "" "kind" "fusion"))
      ) | nindent 6 }}
      terminationGracePeriodSeconds: {{ .graceSeconds }}
      containers:
        - name: {{ .component }}
          image: {{ include "coldfusion.foreignImage" .image }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          command:
            {{- toYaml .command | nindent 12 }}
          {{- with .env }}
          env:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          ports:
            {{- toYaml .ports | nindent 12 }}
          startupProbe:
            {{- toYaml .probe | nindent 12 }}
            periodSeconds: 2
            failureThreshold: 150
          livenessProbe:
            {{- toYaml .probe | nindent 12 }}
            periodSeconds: 20
            timeoutSeconds: 5
            failureThreshold: 6
          readinessProbe:
            {{- toYaml .probe | nindent 12 }}
            periodSeconds: 10
            timeoutSeconds: 5
          securityContext:
            {{- include "coldfusion.containerSecurity" . | nindent 12 }}
          resources:
            {{- include "coldfusion.resources" (dict "resources" .values.resources "ephemeralBytes" 134217728) | nindent 12 }}
          volumeMounts:
            - {name: data, mountPath: /data}
            - {name: tmp, mountPath: /tmp}
            {{- range .mounts }}
            - {{ toJson . }}
            {{- end }}
      volumes:
        - name: tmp
          emptyDir: {sizeLimit: 128Mi}
        {{- range .volumes }}
        - {{ toJson . }}
        {{- end }}
  volumeClaimTemplates:
    - metadata:
        name: data
        labels:
          {{- include "coldfusion.selector" . | nindent 10 }}
      spec:
        accessModes: [ReadWriteOnce]
        {{- with .values.storageClassName }}
        storageClassName: {{ . }}
        {{- end }}
        resources: {requests: {storage: {{ .values.size }}}}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ include "coldfusion.component" . }}
  labels:
    {{- include "coldfusion.labels" . | nindent 4 }}
spec:
  selector:
    {{- include "coldfusion.selector" . | nindent 4 }}
  ports:
    {{- with first .ports }}
    - {name: {{ .name }}, port: {{ .containerPort }}, targetPort: {{ .name }}, protocol: TCP}
    {{- end }}
{{- end -}}

{{/* Volume and mount of the embedded servers' certificate, as a YAML map with lists volumes and mounts. */}}
{{- define "coldfusion.serverTls" -}}
{{- if .Values.tls.embeddedSecret -}}
volumes:
  - name: tls
    secret: {secretName: {{ .Values.tls.embeddedSecret }}, defaultMode: 0440}
mounts:
  - {name: tls, mountPath: /etc/tls, readOnly: true}
{{- else -}}
volumes: []
mounts: []
{{- end -}}
{{- end -}}
