{{/* What the chart refuses. Each check prints one sentence on a line of its own:
     what is wrong, and what to set. All of them are shown at once. */}}

{{- define "wallarm-gate.validate" -}}
{{- $wrong := list -}}
{{- range $check := list "images" "keys" "external" "sources" "gates" "redis" "tls" "network" "pods" -}}
{{- $wrong = append $wrong (trim (include (printf "wallarm-gate.validate.%s" $check) $)) -}}
{{- end -}}
{{- with compact $wrong -}}
{{- fail (printf "\n\nThis would not be a closed gate:\n%s\n" (join "\n" . | splitList "\n" | compact | join "\n")) -}}
{{- end -}}
{{- end }}

{{- define "wallarm-gate.validate.images" -}}
{{- if not .Values.gate.image.repository }}
- gate.image.repository is empty: set it to the image that you built from Dockerfile.kong (target {{ ternary "kong" "plugin" (eq .Values.gate.from "image") }})
{{- end }}
{{- if not (semverCompare ">=3.8.0-0" .Values.kong.version) }}
- kong.version is {{ .Values.kong.version }}: Kong before 3.8 proxies the request when a plugin breaks; use 3.8 or later
{{- end }}
{{- $tag := ternary .Values.gate.image.tag .Values.kong.image.tag (eq .Values.gate.from "image") -}}
{{- with regexFind "^[0-9]+\\.[0-9]+" $tag }}
{{- if and (eq $.Values.gate.from "init") (not (semverCompare ">=3.8.0-0" .)) }}
- kong.image.tag is {{ $tag }}: Kong before 3.8 proxies the request when a plugin breaks; use 3.8 or later
{{- end }}
{{- end }}
{{- end }}

{{- define "wallarm-gate.validate.keys" -}}
{{- $k := .Values.gate.keys -}}{{- $t := .Values.gate.tokens -}}
{{- $sources := compact (list $k.jwks $k.existingConfigMap $k.existingSecret $k.externalSecret.key) -}}
{{- if gt (len $sources) 1 }}
- gate.keys has {{ len $sources }} sources: set one of jwks, existingConfigMap, existingSecret and externalSecret
{{- end }}
{{- if $k.jwks }}
{{- $set := fromJson $k.jwks }}
{{- if not (kindIs "slice" $set.keys) }}
- gate.keys.jwks is no JWK Set: it must be JSON such as {"keys": [...]}
{{- else if not $set.keys }}
- gate.keys.jwks holds no key: the gate would refuse every request; put the output of gatectl keys public there
{{- else }}
{{- range $set.keys }}
{{- if or .d .k (ne (toString .kty) "OKP") }}
- gate.keys.jwks holds a secret or private key ({{ .kid }}): put public Ed25519 keys there (gatectl keys public), anything else into gate.keys.existingSecret
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- if not (or .Values.declarative.inline .Values.declarative.existingSecret.name) }}
{{- if and (eq .Values.gate.config.proof "signature") (not $sources) }}
- gate.keys is empty: the gate would refuse every request; set gate.keys.jwks (gatectl keys public), existingConfigMap, existingSecret or externalSecret
{{- end }}
{{- if eq .Values.gate.config.proof "token" }}
{{- if not (or (and $t.existingSecret $t.keys) $t.externalSecrets) }}
- gate.config.proof is token: set gate.tokens.existingSecret and gate.tokens.keys, or gate.tokens.externalSecrets
{{- end }}
{{- if eq .Values.gate.config.require_inspection "active" }}
- gate.config.require_inspection is active, which a token cannot state: set it to any, or gate.config.proof to signature
{{- end }}
{{- if $sources }}
- gate.keys is set, but gate.config.proof is token: remove one
{{- end }}
{{- end }}
{{- if and (eq .Values.gate.config.proof "signature") (or $t.existingSecret $t.keys $t.externalSecrets) }}
- gate.tokens is set, but gate.config.proof is signature: remove one
{{- end }}
{{- end }}
{{- end }}

{{- define "wallarm-gate.validate.external" -}}
{{- $store := .Values.externalSecrets.secretStoreRef.name -}}{{- $t := .Values.gate.tokens -}}
{{- $external := include "wallarm-gate.externalSecrets" . | fromJsonArray -}}
{{- if and $external (not $store) }}
- {{ join " and " $external }} would be read from no store: set externalSecrets.secretStoreRef.name
{{- end }}
{{- if and $store (not $external) }}
- externalSecrets.secretStoreRef is set, but nothing is read from that store: set gate.keys.externalSecret.key, gate.tokens.externalSecrets or gate.redis.password.externalSecret.key, or remove it
{{- end }}
{{- if and $t.externalSecrets (or $t.existingSecret $t.keys) }}
- gate.tokens has two sources: set existingSecret and keys, or externalSecrets
{{- end }}
{{- end }}

{{- define "wallarm-gate.validate.sources" -}}
{{- $d := .Values.declarative -}}
{{- $given := list -}}
{{- if .Values.services }}{{ $given = append $given "services" }}{{ end -}}
{{- if $d.inline }}{{ $given = append $given "declarative.inline" }}{{ end -}}
{{- if $d.existingSecret.name }}{{ $given = append $given "declarative.existingSecret.name" }}{{ end -}}
{{- if not $given }}
- Kong has nothing to serve: set services, declarative.inline or declarative.existingSecret.name
{{- else if gt (len $given) 1 }}
- {{ join " and " $given }} are set: Kong reads one configuration, set only one of them
{{- end }}
{{- if and .Values.plugins (not .Values.services) }}
- plugins is set without services: put them into your kong.yml
{{- end }}
{{- range .Values.plugins }}
{{- if eq .name "wallarm-gate" }}
- plugins holds wallarm-gate: the chart adds the global gate; set gate.config
{{- end }}
{{- end }}
{{- if and $d.existingSecret.name .Values.allowWeakerRoutes }}
- allowWeakerRoutes is for services and declarative.inline: the file of declarative.existingSecret is checked as it is
{{- end }}
{{- if and .Values.production (eq (include "wallarm-gate.mode" .) "report") }}
- production is true, but the gate only reports: set its mode to enforce
{{- end }}
{{- end }}

{{- define "wallarm-gate.validate.gates" -}}
{{- $doc := dict -}}
{{- if .Values.declarative.inline -}}
{{- $doc = fromYaml .Values.declarative.inline -}}
{{- if regexMatch "(?m)^---" (trimPrefix "---" (trim .Values.declarative.inline)) }}
- declarative.inline holds more than one YAML document: Kong reads the first one
{{- end }}
{{- else if .Values.services -}}
{{- $doc = fromYaml (include "wallarm-gate.document" .) -}}
{{- end -}}
{{- if $doc.Error }}
- declarative.inline is no YAML mapping: {{ $doc.Error | replace "\n" " " }}
{{- else if include "wallarm-gate.shape" $doc }}
{{ include "wallarm-gate.shape" $doc }}
{{- else if $doc }}
{{- if not (kindIs "string" $doc._format_version) }}
- declarative.inline has no _format_version: Kong reads the string "3.0"
{{- end }}
{{- $gates := fromJsonArray (include "wallarm-gate.gates" $doc) -}}
{{- $global := list -}}
{{- range $gates -}}
{{- $where := .where -}}
{{- if eq .scope "global" }}{{ $global = append $global .config }}{{ end -}}
{{- range $token := default list .config.tokens }}
{{- if not (hasPrefix "{vault://" (toString $token)) }}
- the gate in {{ $where }} holds a token in clear: refer to it, as in {vault://env/wallarm-gate-token-1} with gate.tokens
{{- end }}
{{- end }}
{{- if hasPrefix "{" (trimPrefix "{vault://" (trim (toString .config.jwks))) }}
{{- range index (fromJson .config.jwks) "keys" }}
{{- if or .d .k }}
- the gate in {{ $where }} holds a secret or private key ({{ .kid }}): put it into gate.keys.existingSecret, and set jwks_file
{{- end }}
{{- end }}
{{- end }}
{{- if and $.Values.production (ne .scope "global") (eq (toString .config.mode) "report") }}
- production is true, but the gate in {{ .where }} only reports: set its mode to enforce
{{- end }}
{{- if .protocols }}
- the gate in {{ .where }} has protocols: leave them out, or requests of another protocol pass it by
{{- end }}
{{- end }}
{{- if ne (len $global) 1 }}
- declarative.inline has {{ len $global }} global, enabled instances of wallarm-gate: it must have exactly one, under plugins
{{- else }}
{{- $g := index $global 0 }}
{{- if and (eq (toString (default "signature" $g.proof)) "signature") (not $g.jwks) (not $g.jwks_file) }}
- the global gate of declarative.inline has no keys: set its jwks or jwks_file (/etc/wallarm-gate/keys/jwks.json with gate.keys)
{{- end }}
{{- if and (hasPrefix "/etc/wallarm-gate/keys/" (toString $g.jwks_file)) (not (include "wallarm-gate.keyVolume" $)) (not $.Values.services) }}
- the global gate of declarative.inline reads {{ $g.jwks_file }}, which is not mounted: set gate.keys
{{- end }}
{{- $known := list }}
{{- range $gates }}{{ if ne .scope "global" -}}
{{- $known = concat $known .routes }}
{{- if eq .scope "consumer" }}
- the gate in {{ .where }} never runs, since a consumer is known only after it: remove it
{{- else }}
{{- $allowed := gt (len .routes) 0 -}}
{{- range .routes }}{{ if not (has . $.Values.allowWeakerRoutes) }}{{ $allowed = false }}{{ end }}{{ end -}}
{{- $weaker := include "wallarm-gate.weaker" (dict "global" $g "instance" .config) -}}
{{- if and $weaker (not $allowed) }}
- the gate in {{ .where }} is weaker than the global one, which it replaces ({{ $weaker }}): make it as strict, or name {{ .routes | default (list "its routes") | join ", " }} in allowWeakerRoutes
{{- end }}
{{- end }}
{{- end }}{{ end }}
{{- range $.Values.allowWeakerRoutes }}
{{- if not (has . $known) }}
- allowWeakerRoutes names {{ . }}, which no gate of a route or service decides for: remove it
{{- end }}
{{- end }}
{{- if and (eq $.Values.service.scheme "internet-facing") (eq $.Values.service.type "LoadBalancer") (not $g.allowed_sources) (not $.Values.iKnowTheGateIsTheOnlyLock) }}
- service.scheme is internet-facing and the gate has no allowed_sources: set them to the addresses of the edge, or iKnowTheGateIsTheOnlyLock to true
{{- end }}
{{- end }}
{{- end }}
{{- if and .Values.declarative.existingSecret.name (eq .Values.service.scheme "internet-facing") (eq .Values.service.type "LoadBalancer") (not .Values.iKnowTheGateIsTheOnlyLock) }}
- service.scheme is internet-facing and allowed_sources in an existing Secret cannot be seen here: set iKnowTheGateIsTheOnlyLock to true once you have looked
{{- end }}
{{- end }}

{{- define "wallarm-gate.validate.redis" -}}
{{- $r := .Values.gate.redis -}}{{- $store := .Values.gate.config.replay.store -}}
{{- if .Values.services }}
{{- if and (eq $store "redis") (not $r.address) }}
- gate.config.replay.store is redis: set gate.redis.address
{{- end }}
{{- if and (ne $store "redis") $r.address }}
- gate.redis.address is set, but gate.config.replay.store is {{ $store }}: set it to redis, or remove the address
{{- end }}
{{- end }}
{{- if and $r.username (not (include "wallarm-gate.redisSecret" .)) }}
- gate.redis.username is set without a password: set gate.redis.password.existingSecret or externalSecret
{{- end }}
{{- if and $r.password.existingSecret $r.password.externalSecret.key }}
- gate.redis.password has two sources: set existingSecret or externalSecret
{{- end }}
{{- if and $r.tls.ca.existingConfigMap $r.tls.ca.existingSecret }}
- gate.redis.tls.ca has two sources: set existingConfigMap or existingSecret
{{- end }}
{{- if and (not $r.tls.enabled) (or $r.tls.serverName $r.tls.ca.existingConfigMap $r.tls.ca.existingSecret) }}
- gate.redis.tls.enabled is false, but its serverName or ca is set: set it to true, or remove them
{{- end }}
{{- $ports := list -}}
{{- range .Values.networkPolicy.redis }}{{ range .ports }}{{ $ports = append $ports (int .) }}{{ end }}{{ end -}}
{{- with include "wallarm-gate.document" . -}}
{{- range $gate := fromJsonArray (include "wallarm-gate.gates" (fromYaml .)) -}}
{{- with (default dict $gate.config.replay).redis }}
{{- if and .password (not (hasPrefix "{vault://" (toString .password))) }}
- the gate in {{ $gate.where }} holds the password of its replay store in clear: refer to it, as in {vault://env/wallarm-gate-redis-password} with gate.redis.password
{{- end }}
{{- if and (hasPrefix "/etc/wallarm-gate/redis/" (toString (default dict .tls).ca_file)) (not (or $r.tls.ca.existingConfigMap $r.tls.ca.existingSecret)) }}
- the gate in {{ $gate.where }} reads {{ .tls.ca_file }}, which is not mounted: set gate.redis.tls.ca
{{- end }}
{{- $port := regexFind "[0-9]+$" (toString (default "" .address)) -}}
{{- if and $.Values.networkPolicy.enabled $port (not (has (int $port) $ports)) }}
- networkPolicy.redis lets Kong reach no port {{ $port }}, where the replay store of the gate in {{ $gate.where }} is: declare it
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "wallarm-gate.validate.tls" -}}
{{- $t := .Values.tls -}}
{{- if eq $t.terminatedAt "kong" }}
{{- if not (or $t.existingSecret $t.certManager.enabled) }}
- tls has no certificate, and Kong's own is one that no attester accepts: set tls.existingSecret or tls.certManager, or tls.terminatedAt to nlb
{{- end }}
{{- if and $t.existingSecret $t.certManager.enabled }}
- tls.existingSecret and tls.certManager.enabled are both set: set one
{{- end }}
{{- if and $t.certManager.enabled (or (not $t.certManager.issuerRef.name) (not $t.certManager.dnsNames)) }}
- tls.certManager needs issuerRef.name and dnsNames (the host that the attester connects to)
{{- end }}
{{- if $t.nlbCertificateArn }}
- tls.nlbCertificateArn is set, but tls.terminatedAt is kong: set it to nlb, or remove the ARN
{{- end }}
{{- else }}
{{- if not $t.nlbCertificateArn }}
- tls.terminatedAt is nlb: set tls.nlbCertificateArn
{{- end }}
{{- if ne .Values.service.type "LoadBalancer" }}
- tls.terminatedAt is nlb, but service.type is {{ .Values.service.type }}: no NLB would be made
{{- end }}
{{- if or $t.existingSecret $t.certManager.enabled }}
- tls.terminatedAt is nlb, but Kong is given a certificate too: set tls.terminatedAt to kong, or remove the certificate
{{- end }}
{{- if $t.clientCA.existingSecret }}
- tls.clientCA cannot be checked when tls.terminatedAt is nlb: set it to kong
{{- end }}
{{- end }}
{{- end }}

{{- define "wallarm-gate.validate.network" -}}
{{- if not .Values.edgeCidrs }}
- edgeCidrs is empty: set it to the CIDRs of the subnets of the edge's tasks
{{- end }}
{{- range .Values.edgeCidrs }}
{{- if lt (splitList "/" . | last | atoi) 8 }}
- edgeCidrs holds {{ . }}: Kong would believe everybody's X-Forwarded-For; name the subnets of the edge
{{- end }}
{{- end }}
{{- $lists := dict "edgeCidrs" .Values.edgeCidrs "loadBalancerCidrs" .Values.loadBalancerCidrs "service.loadBalancerSourceRanges" .Values.service.loadBalancerSourceRanges "gate.config.allowed_sources" .Values.gate.config.allowed_sources -}}
{{- range $e := .Values.gate.config.exempt }}{{ $_ := set $lists "gate.config.exempt.sources" (concat (get $lists "gate.config.exempt.sources" | default list) (default list $e.sources)) }}{{ end -}}
{{- range $peer := list "upstreams" "redis" "metricsFrom" -}}
{{- $cidrs := list -}}{{- range index $.Values.networkPolicy $peer }}{{ with .cidr }}{{ $cidrs = append $cidrs . }}{{ end }}{{ end -}}
{{- $_ := set $lists (printf "networkPolicy.%s" $peer) $cidrs -}}
{{- end -}}
{{- range $name, $list := $lists }}{{ range $list }}
{{- with include "wallarm-gate.badCidr" . }}
- {{ $name }} holds {{ . }}
{{- end }}
{{- end }}{{ end }}
{{- range .Values.gate.config.exempt }}
{{- if or (not (regexMatch "^(/|(/[A-Za-z0-9._~-]+)+(/[*])?)$" .path)) (regexMatch "/[.]{1,2}(/|$)" .path) }}
- gate.config.exempt has the path {{ .path }}: it must be such as /healthz, or a prefix such as /static/*, of letters, digits and . _ ~ -, without empty or dot segments
{{- end }}
{{- end }}
{{- if .Values.networkPolicy.enabled }}
{{- if and (eq .Values.service.type "LoadBalancer") (not .Values.loadBalancerCidrs) }}
- loadBalancerCidrs is empty: the NLB's health checks would not reach Kong; set it to the CIDRs of the NLB's subnets
{{- end }}
{{- if not .Values.networkPolicy.upstreams }}
- networkPolicy.upstreams is empty: Kong could reach no upstream; declare them, or set networkPolicy.enabled to false
{{- end }}
{{- if and .Values.monitoring.podMonitor.enabled (not .Values.networkPolicy.metricsFrom) }}
- networkPolicy.metricsFrom is empty: Prometheus could not reach what monitoring.podMonitor names; set it to Prometheus's namespace
{{- end }}
{{- range concat .Values.networkPolicy.upstreams .Values.networkPolicy.redis .Values.networkPolicy.metricsFrom }}
{{- if or (and .cidr (or .namespace .podLabels)) (not (or .cidr .namespace .podLabels)) }}
- networkPolicy has the peer {{ toJson . }}: give it a cidr, or a namespace and/or podLabels
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "wallarm-gate.validate.pods" -}}
{{- $s := .Values.shutdown -}}
{{- if le (int $s.waitSeconds) (int $s.deregistrationSeconds) }}
- shutdown.waitSeconds is {{ int $s.waitSeconds }}: it must be more than shutdown.deregistrationSeconds ({{ int $s.deregistrationSeconds }}), or the NLB sends requests to a Kong that is gone
{{- end }}
{{- with .Values.monitoring.podMonitor }}
{{- if and .kong (not .enabled) }}
- monitoring.podMonitor.kong is true, but monitoring.podMonitor.enabled is false: set both
{{- end }}
{{- if gt (include "wallarm-gate.seconds" .scrapeTimeout | int) (include "wallarm-gate.seconds" .interval | int) }}
- monitoring.podMonitor.scrapeTimeout is {{ .scrapeTimeout }}, longer than its interval ({{ .interval }}): Prometheus refuses that
{{- end }}
{{- end }}
{{- if and .Values.autoscaling.enabled (gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) }}
- autoscaling.minReplicas is {{ int .Values.autoscaling.minReplicas }}, more than maxReplicas ({{ int .Values.autoscaling.maxReplicas }})
{{- end }}
{{- range .Values.extraEnv }}
{{- if include "wallarm-gate.ownedEnv" .name }}
- extraEnv sets {{ .name }}, which the chart owns: use the chart's own values
{{- end }}
{{- end }}
{{- range .Values.extraVolumes }}
{{- if has .name (list "kong-prefix" "tmp" "gate-run" "gate" "declarative" "checked" "keys" "tls" "client-ca" "redis-ca") }}
- extraVolumes has the name {{ .name }}, which the chart owns: choose another
{{- end }}
{{- end }}
{{- range .Values.extraVolumeMounts }}
{{- $path := clean .mountPath -}}
{{- range list "/kong_prefix" "/tmp" "/opt/wallarm-gate" "/run/wallarm-gate" "/etc/wallarm-gate" "/etc/kong" "/usr/local/bin" "/usr/local/kong" "/usr/local/openresty" "/usr/local/share/lua" "/usr/local/lib/lua" "/docker-entrypoint.sh" }}
{{- if or (eq $path .) (hasPrefix (printf "%s/" .) $path) (hasPrefix (printf "%s/" (trimSuffix "/" $path)) .) }}
- extraVolumeMounts covers {{ . }} with {{ $path }}, which the chart or the image owns: choose another folder
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* What is wrong with a CIDR: numbers that no address has, or, over IPv4, an
     address in a network. The plugin refuses every request rather than guess
     which of the two was meant. */}}
{{- define "wallarm-gate.badCidr" -}}
{{- $bits := splitList "/" . | last -}}
{{- if contains ":" . -}}
{{- if gt (atoi $bits) 128 }}{{ . }}, which is no CIDR such as 2001:db8::/32{{ end -}}
{{- else if not (regexMatch "^((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])([.]|/)){4}(3[0-2]|[12]?[0-9])$" .) -}}
{{ . }}, which is no CIDR such as 10.0.0.0/16
{{- else -}}
{{- $n := 0 -}}{{- range splitList "." (splitList "/" . | first) }}{{ $n = add (mul $n 256) (atoi .) }}{{ end -}}
{{- $size := 1 -}}{{- range until (sub 32 (atoi $bits) | int) }}{{ $size = mul $size 2 }}{{ end -}}
{{- if mod $n $size -}}
{{- $n = sub $n (mod $n $size) -}}
{{ . }}, an address in a network: name the network, {{ printf "%d.%d.%d.%d/%s" (div $n 16777216) (mod (div $n 65536) 256) (mod (div $n 256) 256) (mod $n 256) $bits }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Environment that the chart owns: what starts the gate, where Kong listens,
     whom it believes, and what it loads. The entrypoint reads NAME_FILE too. */}}
{{- define "wallarm-gate.ownedEnv" -}}
{{- $name := upper . | trimSuffix "_FILE" -}}
{{- if or (has $name (list "KONG_PLUGINS" "KONG_DATABASE" "KONG_ROLE" "KONG_PREFIX" "KONG_DECLARATIVE_CONFIG" "KONG_DECLARATIVE_CONFIG_STRING" "KONG_TRUSTED_IPS" "KONG_PORT_MAPS" "KONG_SSL_CERT" "KONG_SSL_CERT_KEY" "KONG_LOG_LEVEL" "KONG_LUA_MAX_REQ_HEADERS"))
  (regexMatch "^KONG_PLUGINSERVER_|^KONG_.*_?LISTEN$|^KONG_NGINX_|^KONG_REAL_IP_|^WALLARM_GATE_|^LD_" $name) -}}
true
{{- end -}}
{{- end }}
