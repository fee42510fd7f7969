{{/* The declarative configuration, and what the gate in it lets pass. */}}

{{/* What Kong loads, as YAML; empty for an existing Secret. Inline text is
     rendered from what was parsed here, so that Kong reads what was checked. */}}
{{- define "wallarm-gate.document" -}}
{{- if .Values.declarative.inline -}}
{{- fromYaml .Values.declarative.inline | toYaml -}}
{{- else if .Values.services -}}
{{- $gate := dict "name" "wallarm-gate" "instance_name" "wallarm-gate" "config" (fromJson (include "wallarm-gate.gateConfig" .)) -}}
{{- dict "_format_version" "3.0" "services" .Values.services "plugins" (prepend .Values.plugins $gate) | toYaml -}}
{{- end -}}
{{- end }}

{{/* The configuration of the global gate for `services`, as JSON. */}}
{{- define "wallarm-gate.gateConfig" -}}
{{- $c := deepCopy .Values.gate.config -}}
{{- range $field := list "applications" "allowed_sources" "exempt" -}}
{{- if not (index $c $field) }}{{ $_ := unset $c $field }}{{ end -}}
{{- end -}}
{{- if eq $c.proof "token" -}}
{{- $tokens := list -}}
{{- range $i, $_ := fromJsonArray (include "wallarm-gate.tokens" .) -}}
{{- $tokens = append $tokens (printf "{vault://env/wallarm-gate-token-%d}" (add1 $i)) -}}
{{- end -}}
{{- $_ := set $c "tokens" $tokens -}}
{{- else -}}
{{- $_ := set $c "jwks_file" "/etc/wallarm-gate/keys/jwks.json" -}}
{{- end -}}
{{- if eq $c.replay.store "redis" }}{{ $_ := set $c.replay "redis" (fromJson (include "wallarm-gate.redis" .)) }}{{ end -}}
{{- toJson $c -}}
{{- end }}

{{/* config.replay.redis of that gate, as JSON. */}}
{{- define "wallarm-gate.redis" -}}
{{- with .Values.gate.redis -}}
{{- $tls := dict "enabled" .tls.enabled -}}
{{- with .tls.serverName }}{{ $_ := set $tls "server_name" . }}{{ end -}}
{{- if or .tls.ca.existingConfigMap .tls.ca.existingSecret }}{{ $_ := set $tls "ca_file" "/etc/wallarm-gate/redis/ca.crt" }}{{ end -}}
{{- $r := dict "address" .address "database" (int .database) "tls" $tls "timeout" (int .timeout) "pool_size" (int .poolSize) "prefix" .prefix "on_error" .onError -}}
{{- with .username }}{{ $_ := set $r "username" . }}{{ end -}}
{{- if include "wallarm-gate.redisSecret" $ }}{{ $_ := set $r "password" "{vault://env/wallarm-gate-redis-password}" }}{{ end -}}
{{- toJson $r -}}
{{- end -}}
{{- end }}

{{/* Name or id that a reference such as `route: r` or `route: {name: r}` holds. */}}
{{- define "wallarm-gate.reference" -}}
{{- if kindIs "map" . -}}{{- default .id .name -}}{{- else -}}{{- . -}}{{- end -}}
{{- end }}

{{/* What in a document is not of the shape that Kong reads: lists of mappings. */}}
{{- define "wallarm-gate.shape" -}}
{{- $doc := . -}}
{{- range $key := list "services" "routes" "plugins" "consumers" "consumer_groups" -}}
{{- include "wallarm-gate.shapeOf" (dict "key" $key "list" (index $doc $key)) -}}
{{- end -}}
{{- end }}

{{- define "wallarm-gate.shapeOf" -}}
{{- $key := .key -}}
{{- if not (kindIs "invalid" .list) -}}
{{- if not (kindIs "slice" .list) }}
- declarative.inline: {{ $key }} is no list
{{- else -}}
{{- range $i, $entity := .list -}}
{{- $name := printf "%s[%d]" $key $i -}}
{{- if not (kindIs "map" $entity) }}
- declarative.inline: {{ $name }} is no mapping
{{- else -}}
{{- range $inner := list "routes" "plugins" -}}
{{- include "wallarm-gate.shapeOf" (dict "key" (printf "%s.%s" $name $inner) "list" (index $entity $inner)) -}}
{{- end -}}
{{- if and (hasSuffix "plugins" $key) (not (kindIs "invalid" $entity.config)) -}}
{{- if not (kindIs "map" $entity.config) }}
- declarative.inline: {{ $name }}.config is no mapping
{{- else if not (or (kindIs "invalid" $entity.config.replay) (kindIs "map" $entity.config.replay) (ne (toString $entity.name) "wallarm-gate")) }}
- declarative.inline: {{ $name }}.config.replay is no mapping
{{- else if and (eq (toString $entity.name) "wallarm-gate") (kindIs "map" $entity.config.replay) (not (or (kindIs "invalid" $entity.config.replay.redis) (kindIs "map" $entity.config.replay.redis))) }}
- declarative.inline: {{ $name }}.config.replay.redis is no mapping
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* A configuration without its empty fields, as JSON: to Kong they are absent. */}}
{{- define "wallarm-gate.present" -}}
{{- $config := dict -}}
{{- range $field, $value := . -}}
{{- if not (kindIs "invalid" $value) }}{{ $_ := set $config $field $value }}{{ end -}}
{{- end -}}
{{- toJson $config -}}
{{- end }}

{{/* The enabled instances of the gate in a document, as a JSON list of
     where, scope, routes (those that the instance decides for), consumer, config. */}}
{{- define "wallarm-gate.gates" -}}
{{- if include "wallarm-gate.shape" . -}}[]{{- else -}}
{{- $found := list -}}
{{- $flat := list -}}
{{- range $r := default list .routes -}}
{{- $flat = append $flat $r -}}
{{- $found = append $found (dict "where" (printf "route %q" (default $r.id $r.name)) "scope" "route" "routes" (list (default $r.id $r.name)) "plugins" $r.plugins) -}}
{{- end -}}
{{- $services := dict -}}
{{- range $s := default list .services -}}
{{- $routes := list -}}
{{- range $r := default list $s.routes -}}
{{- $routes = append $routes (default $r.id $r.name) -}}
{{- $found = append $found (dict "where" (printf "route %q" (default $r.id $r.name)) "scope" "route" "routes" (list (default $r.id $r.name)) "plugins" $r.plugins) -}}
{{- end -}}
{{- range $r := $flat -}}
{{- $ref := include "wallarm-gate.reference" (default "" $r.service) -}}
{{- if and $ref (has $ref (list $s.name $s.id)) }}{{ $routes = append $routes (default $r.id $r.name) }}{{ end -}}
{{- end -}}
{{- range $key := compact (list $s.name $s.id) }}{{ $_ := set $services $key $routes }}{{ end -}}
{{- $found = append $found (dict "where" (printf "service %q" (default $s.id $s.name)) "scope" "service" "routes" $routes "plugins" $s.plugins) -}}
{{- end -}}
{{- range $kind := list "consumers" "consumer_groups" -}}
{{- range $c := default list (index $ $kind) -}}
{{- $found = append $found (dict "where" (printf "%s %q" (trimSuffix "s" $kind) (default $c.username $c.name)) "scope" "consumer" "routes" list "plugins" $c.plugins) -}}
{{- end -}}
{{- end -}}
{{- range $p := default list .plugins -}}
{{- $where := "the global plugins" -}}{{- $scope := "global" -}}{{- $routes := list -}}
{{- if or $p.consumer $p.consumer_group -}}
{{- $scope = "consumer" -}}{{- $where = printf "a plugin of consumer %q" (include "wallarm-gate.reference" (default $p.consumer_group $p.consumer)) -}}
{{- else if $p.route -}}
{{- $ref := include "wallarm-gate.reference" $p.route -}}
{{- $scope = "route" -}}{{- $where = printf "a plugin of route %q" $ref -}}{{- $routes = list $ref -}}
{{- else if $p.service -}}
{{- $ref := include "wallarm-gate.reference" $p.service -}}
{{- $scope = "service" -}}{{- $where = printf "a plugin of service %q" $ref -}}{{- $routes = default list (get $services $ref) -}}
{{- end -}}
{{- $found = append $found (dict "where" $where "scope" $scope "routes" $routes "plugins" (list $p)) -}}
{{- end -}}
{{- $gates := list -}}
{{- range $f := $found -}}
{{- range $p := default list $f.plugins -}}
{{- if and (eq (toString $p.name) "wallarm-gate") (ne (toString $p.enabled) "false") -}}
{{- $gates = append $gates (dict "where" $f.where "scope" $f.scope "routes" $f.routes "protocols" (default list $p.protocols) "config" (fromJson (include "wallarm-gate.present" (default dict $p.config)))) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $gates -}}
{{- end -}}
{{- end }}

{{/* The plugin's defaults for the fields that make a gate weaker or stronger. */}}
{{- define "wallarm-gate.defaults" -}}
{"mode": "enforce", "proof": "signature", "max_age": 30, "clock_skew": 5, "min_mode": "monitoring", "require_inspection": "active",
 "applications": [], "allowed_sources": [], "allow_upgrade": false, "exempt": [], "replay": {"store": "memory"}, "deny_status": 403}
{{- end }}

{{/* Why the instance is weaker than the global gate, as a list of fields. */}}
{{- define "wallarm-gate.weaker" -}}
{{- $g := mergeOverwrite (fromJson (include "wallarm-gate.defaults" .)) .global -}}
{{- $i := mergeOverwrite (fromJson (include "wallarm-gate.defaults" .)) .instance -}}
{{- $modes := list "off" "monitoring" "safe_blocking" "block" -}}
{{- $weak := list -}}
{{- if and (ne $i.mode "enforce") (eq $g.mode "enforce") }}{{ $weak = append $weak "mode" }}{{ end -}}
{{- if and (ne $i.proof "signature") (eq $g.proof "signature") }}{{ $weak = append $weak "proof" }}{{ end -}}
{{- if gt (int $i.max_age) (int $g.max_age) }}{{ $weak = append $weak "max_age" }}{{ end -}}
{{- if gt (int $i.clock_skew) (int $g.clock_skew) }}{{ $weak = append $weak "clock_skew" }}{{ end -}}
{{- range $n, $m := $modes -}}
{{- if and (eq $m $g.min_mode) (has $i.min_mode (slice $modes 0 $n)) }}{{ $weak = append $weak "min_mode" }}{{ end -}}
{{- end -}}
{{- if and (ne $i.require_inspection "active") (eq $g.require_inspection "active") }}{{ $weak = append $weak "require_inspection" }}{{ end -}}
{{- range $field := list "applications" "allowed_sources" -}}
{{- $mine := default list (index $i $field) -}}{{- $theirs := default list (index $g $field) -}}
{{- $more := not $mine -}}
{{- range $mine }}{{ if not (has . $theirs) }}{{ $more = true }}{{ end }}{{ end -}}
{{- if and $theirs $more }}{{ $weak = append $weak $field }}{{ end -}}
{{- end -}}
{{- if and $i.allow_upgrade (not $g.allow_upgrade) }}{{ $weak = append $weak "allow_upgrade" }}{{ end -}}
{{- $more := false -}}
{{- range $e := default list $i.exempt }}{{ if not (has $e (default list $g.exempt)) }}{{ $more = true }}{{ end }}{{ end -}}
{{- if $more }}{{ $weak = append $weak "exempt" }}{{ end -}}
{{- range $n, $store := list "off" "memory" "redis" -}}
{{- if and (eq $store $g.replay.store) (has $i.replay.store (slice (list "off" "memory" "redis") 0 $n)) }}{{ $weak = append $weak "replay.store" }}{{ end -}}
{{- end -}}
{{- if and (eq (include "wallarm-gate.onError" $i) "local") (eq (include "wallarm-gate.onError" $g) "deny") }}{{ $weak = append $weak "replay.redis.on_error" }}{{ end -}}
{{- join ", " $weak -}}
{{- end }}

{{/* What a gate does without its shared store: deny or local; empty: it has none. */}}
{{- define "wallarm-gate.onError" -}}
{{- if eq (toString .replay.store) "redis" }}{{ default "deny" (default dict .replay.redis).on_error }}{{ end -}}
{{- end }}

{{/* The configuration of the global gate with its defaults, as JSON. An existing
     Secret cannot be read here: then what gate.config says. */}}
{{- define "wallarm-gate.globalConfig" -}}
{{- $c := dict -}}
{{- if .Values.declarative.inline -}}
{{- range $g := fromJsonArray (include "wallarm-gate.gates" (fromYaml .Values.declarative.inline)) -}}
{{- if eq $g.scope "global" }}{{ $c = $g.config }}{{ end -}}
{{- end -}}
{{- else -}}
{{- $c = deepCopy .Values.gate.config -}}
{{- if eq $c.replay.store "redis" }}{{ $_ := set $c.replay "redis" (fromJson (include "wallarm-gate.redis" .)) }}{{ end -}}
{{- end -}}
{{- mergeOverwrite (fromJson (include "wallarm-gate.defaults" .)) (deepCopy $c) | toJson -}}
{{- end }}

{{/* The mode of the global gate: enforce or report. */}}
{{- define "wallarm-gate.mode" -}}
{{- index (fromJson (include "wallarm-gate.globalConfig" .)) "mode" -}}
{{- end }}

{{/* Whether a gate is declared to report only: then the check of the file at
     start lets that pass. */}}
{{- define "wallarm-gate.reports" -}}
{{- $reports := ne (include "wallarm-gate.mode" .) "enforce" -}}
{{- with include "wallarm-gate.document" . -}}
{{- range fromJsonArray (include "wallarm-gate.gates" (fromYaml .)) -}}
{{- if eq (toString .config.mode) "report" }}{{ $reports = true }}{{ end -}}
{{- end -}}
{{- end -}}
{{- if $reports }}true{{ end -}}
{{- end }}

{{- define "wallarm-gate.declarativeSecret" -}}
{{- default (include "wallarm-gate.fullname" .) .Values.declarative.existingSecret.name -}}
{{- end }}
