{{/* Names, labels, images, and the places inside Kong's container. */}}

{{- define "wallarm-gate.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{- define "wallarm-gate.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "wallarm-gate.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "wallarm-gate.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "wallarm-gate.selectorLabels" -}}
app.kubernetes.io/name: {{ include "wallarm-gate.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* The chart's own labels win over commonLabels: selectors depend on them. */}}
{{- define "wallarm-gate.labels" -}}
{{- $own := fromYaml (include "wallarm-gate.selectorLabels" .) -}}
{{- $_ := set $own "app.kubernetes.io/version" .Chart.AppVersion -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" .Release.Service -}}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") -}}
{{- toYaml (merge $own .Values.commonLabels) -}}
{{- end }}

{{- define "wallarm-gate.imageRef" -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else -}}{{ .repository }}:{{ .tag }}{{- end -}}
{{- end }}

{{/* The image of Dockerfile.kong: target plugin, or target kong. */}}
{{- define "wallarm-gate.gateImage" -}}
{{- $i := .Values.gate.image -}}
{{- include "wallarm-gate.imageRef" (dict "repository" $i.repository "tag" (default .Chart.AppVersion $i.tag) "digest" $i.digest) -}}
{{- end }}

{{- define "wallarm-gate.kongImage" -}}
{{- if eq .Values.gate.from "image" -}}
{{- include "wallarm-gate.gateImage" . -}}
{{- else -}}
{{- $i := .Values.kong.image -}}
{{- include "wallarm-gate.imageRef" (dict "repository" $i.repository "tag" (default .Values.kong.version $i.tag) "digest" $i.digest) -}}
{{- end -}}
{{- end }}

{{/* The plugin's executable in the image of Dockerfile.kong. */}}
{{- define "wallarm-gate.imageBinary" -}}
{{- if eq .Values.gate.from "image" -}}/usr/local/bin/wallarm-gate{{- else -}}/wallarm-gate{{- end -}}
{{- end }}

{{/* Where the init container installs the plugin, and where its socket is:
     not in KONG_PREFIX, whose sockets Kong's entrypoint deletes. */}}
{{- define "wallarm-gate.installDir" -}}/opt/wallarm-gate{{- end }}
{{- define "wallarm-gate.runDir" -}}/run/wallarm-gate{{- end }}

{{- define "wallarm-gate.binary" -}}
{{- if eq .Values.gate.from "image" -}}/usr/local/bin/wallarm-gate{{- else -}}{{ include "wallarm-gate.installDir" . }}/wallarm-gate{{- end -}}
{{- end }}

{{- define "wallarm-gate.nginxMap" -}}
{{- if eq .Values.gate.from "image" -}}/etc/kong/wallarm-gate/evidence.conf{{- else -}}{{ include "wallarm-gate.installDir" . }}/evidence.conf{{- end -}}
{{- end }}

{{- define "wallarm-gate.queryCommand" -}}
{{- if eq .Values.gate.from "image" -}}/usr/local/bin/wallarm-gate -dump{{- else -}}cat {{ include "wallarm-gate.installDir" . }}/wallarm-gate.json{{- end -}}
{{- end }}

{{- define "wallarm-gate.startCommand" -}}
{{ include "wallarm-gate.binary" . }} -kong-prefix {{ include "wallarm-gate.runDir" . }} -metrics-listen {{ ternary "[::]" "0.0.0.0" .Values.kong.ipv6 }}:9542 -kong-status-url http://127.0.0.1:8100/status/ready
{{- end }}

{{- define "wallarm-gate.listen" -}}
0.0.0.0:{{ .port }}{{ .flags }}{{ if .ipv6 }}, [::]:{{ .port }}{{ .flags }}{{ end }}
{{- end }}

{{- define "wallarm-gate.proxyPort" -}}
{{- if eq .Values.tls.terminatedAt "nlb" -}}8000{{- else -}}8443{{- end -}}
{{- end }}

{{- define "wallarm-gate.tlsSecret" -}}
{{- if .Values.tls.certManager.enabled -}}{{ include "wallarm-gate.fullname" . }}-tls{{- else -}}{{ .Values.tls.existingSecret }}{{- end -}}
{{- end }}

{{/* For every container of the chart. */}}
{{- define "wallarm-gate.containerSecurityContext" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
privileged: false
readOnlyRootFilesystem: true
runAsGroup: 1000
runAsNonRoot: true
runAsUser: 1000
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "wallarm-gate.pods" -}}
{{- if .Values.autoscaling.enabled -}}{{ int .Values.autoscaling.maxReplicas }}{{- else -}}{{ int .Values.replicaCount }}{{- end -}}
{{- end }}

{{/* A peer of a NetworkPolicy: a CIDR, or a namespace and/or pods. */}}
{{- define "wallarm-gate.peer" -}}
{{- if .cidr -}}
- ipBlock:
    cidr: {{ .cidr | quote }}
{{- else -}}
- {{ if .namespace -}}
  namespaceSelector:
    matchLabels:
      kubernetes.io/metadata.name: {{ .namespace | quote }}
  {{- end }}
  {{- if .podLabels }}
  podSelector:
    matchLabels: {{- toYaml .podLabels | nindent 6 }}
  {{- end }}
{{- end -}}
{{- end }}

{{/* The Secret with the JWK Set, given or made by external-secrets. */}}
{{- define "wallarm-gate.keysSecret" -}}
{{- with .Values.gate.keys -}}
{{- if .externalSecret.key -}}{{ include "wallarm-gate.fullname" $ }}-keys{{- else -}}{{ .existingSecret }}{{- end -}}
{{- end -}}
{{- end }}

{{/* Where each token is, as a JSON list of Secret and key. */}}
{{- define "wallarm-gate.tokens" -}}
{{- $t := .Values.gate.tokens -}}{{- $found := list -}}
{{- if $t.existingSecret -}}
{{- range $t.keys }}{{ $found = append $found (dict "name" $t.existingSecret "key" .) }}{{ end -}}
{{- end -}}
{{- range $i, $_ := $t.externalSecrets -}}
{{- $found = append $found (dict "name" (printf "%s-tokens" (include "wallarm-gate.fullname" $)) "key" (printf "token-%d" (add1 $i))) -}}
{{- end -}}
{{- toJson $found -}}
{{- end }}

{{/* The source of the volume with the CA of the replay store's server; empty: none. */}}
{{- define "wallarm-gate.redisVolume" -}}
{{- with .Values.gate.redis.tls.ca -}}
{{- $items := printf "items:\n  - key: %s\n    path: ca.crt" .key | indent 2 -}}
{{- if .existingSecret -}}
secret:
  secretName: {{ .existingSecret }}
  defaultMode: 0440
{{ $items }}
{{- else if .existingConfigMap -}}
configMap:
  name: {{ .existingConfigMap }}
{{ $items }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* The Secret with the password of the replay store, likewise; empty: none. */}}
{{- define "wallarm-gate.redisSecret" -}}
{{- with .Values.gate.redis.password -}}
{{- if .externalSecret.key -}}{{ include "wallarm-gate.fullname" $ }}-redis{{- else -}}{{ .existingSecret }}{{- end -}}
{{- end -}}
{{- end }}

{{/* The volume with the JWK Set, a directory so that a change reaches the pod. */}}
{{- define "wallarm-gate.keyVolume" -}}
{{- with .Values.gate.keys -}}
{{- $items := printf "items:\n  - key: %s\n    path: jwks.json" .key | indent 2 -}}
{{- if include "wallarm-gate.keysSecret" $ -}}
secret:
  secretName: {{ include "wallarm-gate.keysSecret" $ }}
  defaultMode: 0440
{{ $items }}
{{- else if .existingConfigMap -}}
configMap:
  name: {{ .existingConfigMap }}
{{ $items }}
{{- else if .jwks -}}
configMap:
  name: {{ include "wallarm-gate.fullname" $ }}-keys
{{- end -}}
{{- end -}}
{{- end }}

{{/* What is read from the store of external-secrets, as a JSON list of values' names. */}}
{{- define "wallarm-gate.externalSecrets" -}}
{{- $found := list -}}
{{- if .Values.gate.keys.externalSecret.key }}{{ $found = append $found "gate.keys.externalSecret" }}{{ end -}}
{{- if .Values.gate.tokens.externalSecrets }}{{ $found = append $found "gate.tokens.externalSecrets" }}{{ end -}}
{{- if .Values.gate.redis.password.externalSecret.key }}{{ $found = append $found "gate.redis.password.externalSecret" }}{{ end -}}
{{- toJson $found -}}
{{- end }}

{{/* An ExternalSecret: name, and data from the Secret's keys to places in the store. */}}
{{- define "wallarm-gate.externalSecret" -}}
apiVersion: external-secrets.io/v1
kind: ExternalSecret
metadata:
  name: {{ .name }}
  labels: {{- include "wallarm-gate.labels" .root | nindent 4 }}
spec:
  refreshInterval: {{ .root.Values.externalSecrets.refreshInterval }}
  secretStoreRef: {{- toYaml .root.Values.externalSecrets.secretStoreRef | nindent 4 }}
  target:
    name: {{ .name }}
    creationPolicy: Owner
  data:
    {{- range $key, $remote := .data }}
    - secretKey: {{ $key }}
      remoteRef:
        key: {{ $remote.key | quote }}
        {{- with $remote.property }}
        property: {{ . | quote }}
        {{- end }}
    {{- end }}
{{- end }}

{{/* A duration of Prometheus's such as 30s or 1m, in seconds. */}}
{{- define "wallarm-gate.seconds" -}}
{{- mul (trimSuffix (regexFind "[smh]$" .) . | int) (get (dict "s" 1 "m" 60 "h" 3600) (regexFind "[smh]$" .)) -}}
{{- end }}

{{/* A file of rules/, with what the gate was told in the place of its defaults. */}}
{{- define "wallarm-gate.rules" -}}
{{- $config := fromJson (include "wallarm-gate.globalConfig" .root) -}}
{{- .root.Files.Get (printf "rules/%s.yaml" .file)
  | replace " 0.7 * 30" (printf " 0.7 * %d" (int $config.max_age))
  | replace " -0.5 * 5" (printf " -0.5 * %d" (int $config.clock_skew))
  | replace "https://github.com/wallarm-gate/wallarm-gate/blob/main/docs/troubleshooting.md" .root.Values.monitoring.prometheusRule.runbookUrl -}}
{{- end }}
