{{/* What the schema cannot say: values that are each right and contradict each other. Every message says what is
     wrong, what was got and what to do. */}}

{{- define "coldfusion.validate" -}}
{{- include "coldfusion.validateBroker" . -}}
{{- include "coldfusion.validateStore" . -}}
{{- include "coldfusion.validateSettings" . -}}
{{- $sites := dict -}}
{{- range $name, $pool := include "coldfusion.pools" . | fromYaml -}}
  {{- include "coldfusion.validateWorker" (dict "root" $ "what" (printf "pools.%s" $name) "pool" $pool) -}}
  {{- include "coldfusion.validatePool" (dict "root" $ "name" $name "pool" $pool) -}}
  {{- if and $pool.site (ne $pool.autoscaling.kind "none") -}}
    {{- with get $sites $pool.site -}}
      {{- fail (printf "pools.%s and pools.%s are both scaled by the turns of site %s, whose workers are counted together, so each would start workers for all of them; scale one of the two, and give the other one replicas" . $name $pool.site) -}}
    {{- end -}}
    {{- $_ := set $sites $pool.site $name -}}
  {{- end -}}
{{- end -}}
{{- $evaluation := include "coldfusion.evaluation" . | fromYaml -}}
{{- if $evaluation.enabled -}}
  {{- include "coldfusion.validateWorker" (dict "root" . "what" "evaluation" "pool" $evaluation) -}}
  {{- if ne $evaluation.autoscaling.kind "none" -}}
    {{- fail "evaluation.autoscaling.kind: evaluation workers are not scaled; set evaluation.replicas" -}}
  {{- end -}}
  {{- if $evaluation.site -}}
    {{- fail "evaluation.site: a site runs finetune workers alone; leave it empty" -}}
  {{- end -}}
{{- end -}}
{{- range $label, $_ := .Values.commonLabels -}}
  {{- if regexMatch "^(app\\.kubernetes\\.io/(name|instance|component|part-of|version|managed-by)|helm\\.sh/chart)$" $label -}}
    {{- fail (printf "commonLabels has %s, which the chart sets and selects pods by: take a name of your own, such as example.org/team" $label) -}}
  {{- end -}}
{{- end -}}
{{- $scraped := .Values.monitoring.podMonitor.enabled -}}
{{- range include "coldfusion.pools" . | fromYaml -}}
  {{- if eq .autoscaling.kind "hpa" -}}{{- $scraped = true -}}{{- end -}}
{{- end -}}
{{- if and $scraped .Values.networkPolicy.enabled (not .Values.networkPolicy.metricsFrom) -}}
  {{- fail "networkPolicy.metricsFrom is empty, but monitoring.podMonitor or an HPA needs the metrics: name your Prometheus as a peer, such as {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}, or set networkPolicy.enabled=false" -}}
{{- end -}}
{{- if and (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) -}}
  {{- fail "serviceAccount.create is false and serviceAccount.name empty: name the account to use, or let the chart create one" -}}
{{- end -}}
{{- end -}}

{{- define "coldfusion.validateBroker" -}}
{{- $broker := .Values.broker.external -}}
{{- $url := $broker.url -}}
{{- if eq .Values.broker.kind "external" -}}
  {{- if not $url -}}
    {{- fail "broker.kind is external and broker.external.url empty: set it to redis://HOST:PORT/DB, or set broker.kind=embedded" -}}
  {{- end -}}
  {{- if regexMatch "cluster" (regexFind "^[^:]*" $url) -}}
    {{- fail (printf "broker.external.url is %s: Celery knows no Redis Cluster, and its queues would be lost between slots; use a single server or Sentinel (sentinel://HOST:PORT,HOST:PORT/DB)" $url) -}}
  {{- end -}}
  {{- if not (regexMatch "^(rediss?|sentinels?)://" $url) -}}
    {{- fail (printf "broker.external.url is %s: expected redis://, rediss:// (TLS), sentinel:// or sentinels:// (TLS), then HOST:PORT/DB" $url) -}}
  {{- end -}}
  {{- if contains "@" $url -}}
    {{- fail "broker.external.url holds a user or password, which everybody who reads the release could see: put them into a Secret and name it in broker.external.existingSecret" -}}
  {{- end -}}
  {{- if not (regexMatch "^[a-z]+://[A-Za-z0-9.-]+(:[0-9]+)?(,[A-Za-z0-9.-]+(:[0-9]+)?)*(/[0-9]*)?$" $url) -}}
    {{- fail (printf "broker.external.url is %s: expected HOST:PORT/DB after the scheme, several HOST:PORT with commas for Sentinels" $url) -}}
  {{- end -}}
  {{- if and (hasPrefix "sentinel" $url) (not $broker.sentinelMaster) -}}
    {{- fail "broker.external.sentinelMaster is empty: Sentinels have to be asked for a server by its name, often mymaster" -}}
  {{- end -}}
  {{- if and (hasPrefix "redis" $url) $broker.sentinelMaster -}}
    {{- fail (printf "broker.external.sentinelMaster is %s, but broker.external.url is no sentinel:// URL: leave it empty, or name the Sentinels" $broker.sentinelMaster) -}}
  {{- end -}}
{{- else if $url -}}
  {{- fail "broker.external.url is set, but broker.kind is embedded: set broker.kind=external, or leave the URL empty" -}}
{{- end -}}
{{- end -}}

{{- define "coldfusion.validateStore" -}}
{{- $store := .Values.objectStore -}}
{{- $endpoint := $store.external.endpoint -}}
{{- if eq $store.kind "external" -}}
  {{- if not $endpoint -}}
    {{- fail "objectStore.kind is external and objectStore.external.endpoint empty: set it to the URL of the S3 endpoint, such as https://s3.eu-central-1.amazonaws.com" -}}
  {{- end -}}
  {{- if not (regexMatch "^https?://[A-Za-z0-9.-]+(:[0-9]+)?/?$" $endpoint) -}}
    {{- fail (printf "objectStore.external.endpoint is %s: expected http:// or https:// with host and port alone; the bucket goes to objectStore.bucket, credentials into a Secret" $endpoint) -}}
  {{- end -}}
{{- else if $endpoint -}}
  {{- fail (printf "objectStore.external.endpoint is set, but objectStore.kind is %s: set objectStore.kind=external, or leave the endpoint empty" $store.kind) -}}
{{- end -}}
{{- if and .Values.tls.embeddedSecret (not .Values.tls.caSecret) -}}
  {{- fail "tls.embeddedSecret is set and tls.caSecret empty: nobody would trust the embedded servers' certificate; name the Secret with its authority (it may be the same one)" -}}
{{- end -}}
{{- if and .Values.tls.embeddedSecret (ne .Values.broker.kind "embedded") (eq $store.kind "external") -}}
  {{- fail "tls.embeddedSecret is set, but broker and store are both external: their certificates are not the chart's business; leave it empty" -}}
{{- end -}}
{{- end -}}

{{- define "coldfusion.validateSettings" -}}
{{- $settings := .Values.settings -}}
{{- $lease := default 60 (get $settings "lease_seconds") | float64 -}}
{{- $reconcile := default 10 (get $settings "reconcile_interval_seconds") | float64 -}}
{{- if gt $reconcile (divf $lease 6.0) -}}
  {{- fail (printf "settings.reconcile_interval_seconds is %v and settings.lease_seconds %v: the interval may be a sixth of the lease at most, or a dead worker's turn is queued again too late" $reconcile $lease) -}}
{{- end -}}
{{- $limit := default 21600 (get $settings "finetune_time_limit_seconds") | float64 -}}
{{- $grace := default 86400 (get $settings "gc_grace_seconds") | float64 -}}
{{- if lt $grace (addf $limit 60.0) -}}
  {{- fail (printf "settings.gc_grace_seconds is %v and settings.finetune_time_limit_seconds %v: garbage may be collected 60 s after the longest finetune at the earliest, or what it needs is gone" $grace $limit) -}}
{{- end -}}
{{- end -}}

{{/* Arguments: root, what, pool. */}}
{{- define "coldfusion.validateWorker" -}}
{{- $pool := .pool -}}
{{- $shutdown := .root.Values.shutdown -}}
{{- $needed := include "coldfusion.graceSeconds" (dict "root" .root "drainSeconds" $pool.drainSeconds) | int -}}
{{- with $pool.terminationGracePeriodSeconds -}}
  {{- if lt (int .) $needed -}}
    {{- fail (printf "%s.terminationGracePeriodSeconds is %d, but shutdown.preStopSeconds + drainSeconds + shutdown.softSeconds + 15 is %d: a worker would be killed before its checkpoint is saved; raise it, or leave it empty" $.what (int .) $needed) -}}
  {{- end -}}
{{- end -}}
{{- if $pool.spot -}}
  {{- if gt (int $pool.drainSeconds) 0 -}}
    {{- fail (printf "%s.drainSeconds is %d on a spot pool: a node that is taken away does not wait for a turn to end; set it to 0" .what (int $pool.drainSeconds)) -}}
  {{- end -}}
  {{- if gt $needed (int $pool.spotNoticeSeconds) -}}
    {{- fail (printf "%s.spotNoticeSeconds is %d, but shutdown.preStopSeconds + shutdown.softSeconds + 15 is %d: the node would be gone before the checkpoint is saved; lower shutdown.softSeconds, or take a smaller model" .what (int $pool.spotNoticeSeconds) $needed) -}}
  {{- end -}}
{{- end -}}
{{- if and (eq (toString $pool.strategy.maxSurge) "0") (eq (toString $pool.strategy.maxUnavailable) "0") -}}
  {{- fail (printf "%s.strategy: maxSurge and maxUnavailable are both 0, so a rollout could do nothing; raise one of them" .what) -}}
{{- end -}}
{{- if and (hasKey $pool.settings "drain_seconds") -}}
  {{- fail (printf "%s.settings.drain_seconds: set %s.drainSeconds, from which the grace period follows" .what .what) -}}
{{- end -}}
{{- end -}}

{{/* Arguments: root, name, pool. */}}
{{- define "coldfusion.validatePool" -}}
{{- $what := printf "pools.%s" .name -}}
{{- $pool := .pool -}}
{{- $scaling := $pool.autoscaling -}}
{{- if not (regexMatch "^[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?$" .name) -}}
  {{- fail (printf "%s: a pool's name has 1 to 30 lower-case letters, digits or '-', with a letter or digit at either end" $what) -}}
{{- end -}}
{{- if and $pool.site (not $pool.siteData.existingClaim) -}}
  {{- fail (printf "%s.siteData.existingClaim is empty: a site's workers read private data; name the PersistentVolumeClaim with it" $what) -}}
{{- end -}}
{{- if and (not $pool.site) $pool.siteData.existingClaim -}}
  {{- fail (printf "%s.site is empty, but siteData.existingClaim is set: name the site whose data it is, or mount none" $what) -}}
{{- end -}}
{{- if gt (int $pool.gpu.count) 1 -}}
  {{- fail (printf "%s.gpu.count is %d: a finetune uses one GPU, and the others would be idle; raise replicas instead" $what (int $pool.gpu.count)) -}}
{{- end -}}
{{- if ne $scaling.kind "none" -}}
  {{- if gt (int $scaling.minReplicas) (int $scaling.maxReplicas) -}}
    {{- fail (printf "%s.autoscaling: minReplicas is %d and maxReplicas %d: expected at most as many" $what (int $scaling.minReplicas) (int $scaling.maxReplicas)) -}}
  {{- end -}}
  {{- if and (eq $scaling.kind "hpa") (eq (int $scaling.minReplicas) 0) -}}
    {{- fail (printf "%s.autoscaling.minReplicas is 0: a plain HPA does not go to zero; set it to 1, or autoscaling.kind=keda" $what) -}}
  {{- end -}}
  {{- if and (eq $scaling.kind "hpa") (eq $scaling.scaleIn "zeroOnly") -}}
    {{- fail (printf "%s.autoscaling.scaleIn is zeroOnly: a plain HPA does not go to zero, so it would never scale in; take drain or requeue" $what) -}}
  {{- end -}}
  {{- if and (eq $scaling.kind "hpa") (ne (float64 $scaling.share) 1.0) -}}
    {{- fail (printf "%s.autoscaling.share is %v, which an HPA knows nothing of: leave it 1, and have the metrics adapter serve another metricName for this pool (docs/autoscaling.md)" $what $scaling.share) -}}
  {{- end -}}
  {{- if and (eq $scaling.kind "keda") (eq $scaling.scaleIn "zeroOnly") (gt (int $scaling.minReplicas) 0) -}}
    {{- fail (printf "%s.autoscaling.scaleIn is zeroOnly and minReplicas %d: it would never scale in; set minReplicas to 0, or take drain or requeue" $what (int $scaling.minReplicas)) -}}
  {{- end -}}
  {{- if and (eq $scaling.scaleIn "drain") (eq (int $pool.drainSeconds) 0) -}}
    {{- fail (printf "%s.autoscaling.scaleIn is drain and drainSeconds 0: a worker that is scaled in would have no time to end its turn; set drainSeconds to what a turn takes at most, or take requeue" $what) -}}
  {{- end -}}
  {{- $polled := mul 2 $scaling.pollingSeconds -}}
  {{- if and (eq $scaling.kind "keda") (lt (int $scaling.cooldownSeconds) (int $polled)) -}}
    {{- fail (printf "%s.autoscaling.cooldownSeconds is %d, less than two looks of KEDA (%d s): a pool would go while its next turn is on its way; raise it above what a GPU node takes to start" $what (int $scaling.cooldownSeconds) (int $polled)) -}}
  {{- end -}}
{{- end -}}
{{- end -}}
