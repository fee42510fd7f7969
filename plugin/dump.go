package main

// The description of the plugin that Kong loads. go-pdk derives one from the
// fields of a struct, with their types only; this one has defaults and bounds, so
// that Kong refuses a bad configuration when it is loaded.

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
)

// The dump of the plugin server protocol, as Kong reads it.
type (
	serverDump struct {
		Protocol   string
		SocketPath string
		Plugins    []pluginDump
	}
	pluginDump struct {
		Name     string
		Phases   []string
		Version  string
		Priority int
		Schema   schema
	}
	schema struct {
		Name   string  `json:"name"`
		Fields []named `json:"fields"`
	}
	// named has one member: the field's name.
	named map[string]field

	field struct {
		Type          string          `json:"type"`
		Description   string          `json:"description,omitempty"`
		Required      any             `json:"required,omitempty"` // true, or false: Kong takes a record that says nothing for required
		Default       any             `json:"default,omitempty"`
		OneOf         []string        `json:"one_of,omitempty"`
		Between       []int           `json:"between,omitempty"`
		NotOneOf      []int           `json:"not_one_of,omitempty"`
		LenMin        int             `json:"len_min,omitempty"`
		LenMax        int             `json:"len_max,omitempty"`
		StartsWith    string          `json:"starts_with,omitempty"`
		Referenceable bool            `json:"referenceable,omitempty"`
		Encrypted     bool            `json:"encrypted,omitempty"`
		Elements      *field          `json:"elements,omitempty"`
		Fields        []named         `json:"fields,omitempty"`
		Reference     string          `json:"reference,omitempty"`
		Eq            json.RawMessage `json:"eq,omitempty"`
	}
)

func (b bounds) between() []int { return []int{b.least, b.most} }

func choice(standard string, allowed []string, description string) field {
	return field{Type: "string", Required: true, Default: standard, OneOf: allowed, Description: description}
}

func number(standard int, b bounds, description string) field {
	return field{Type: "integer", Required: true, Default: standard, Between: b.between(), Description: description}
}

// refusal is the status of a refusal, without those that nginx keeps to itself.
func refusal() field {
	f := number(defaultStatus, statusRange, "Status code of a refusal; not 444 and 499, at which nginx closes the connection without an answer.")
	f.NotOneOf = silentStatus
	return f
}

func textList(most int, description string) field {
	return field{Type: "array", LenMax: most, Elements: &field{Type: "string"}, Description: description}
}

// configFields declares the configuration. A description has 10 to 500 bytes, or
// Kong refuses the schema.
func configFields() []named {
	return []named{
		{"mode": choice(string(modeEnforce), modes, "enforce refuses what has no acceptable evidence; report decides the same, lets it pass and says so.")},
		{"proof": choice(proofSignature, proofs, "signature: evidence signed for each request. token: a static secret, for a node without an attester.")},
		{"jwks": {Type: "string", Referenceable: true, Encrypted: true, Description: "JWK Set with the attesters' keys. Open-source Kong shows it in clear: prefer Ed25519 keys, a vault reference or jwks_file."}},
		{"jwks_file": {Type: "string", StartsWith: "/", Description: "Path of a file with the JWK Set, read again when it changes."}},
		{"tokens": {Type: "array", LenMax: maxTokens, Description: "Tokens that are valid at once, for proof token.",
			Elements: &field{Type: "string", LenMin: minToken, LenMax: maxToken, Referenceable: true, Encrypted: true}}},
		{"max_age": number(defaultMaxAge, maxAgeRange, "Seconds after its creation for which evidence is accepted.")},
		{"clock_skew": number(defaultSkew, skewRange, "Seconds by which the clocks of attester and gateway may differ.")},
		{"min_mode": choice(defaultMinMode, minModes, "The weakest filtration mode of the node that is accepted.")},
		{"require_inspection": choice(inspectionActive, inspections, "active: the node must have inspected under a live ruleset. any: its state does not matter.")},
		{"applications": {Type: "array", LenMax: maxApplications, Description: "Accepted Wallarm application ids, -1 for none; empty: any.",
			Elements: &field{Type: "integer", Between: applicationRange.between()}}},
		{"allowed_sources": textList(maxSources, "CIDRs of the TCP peer that may connect; empty: any.")},
		{"allow_upgrade": {Type: "boolean", Required: true, Default: false, Description: "Let protocol upgrades such as WebSocket pass."}},
		{"exempt": {Type: "array", LenMax: maxExemptions, Description: "Requests that need no evidence.", Elements: &field{Type: "record", Fields: []named{
			{"path": {Type: "string", Required: true, StartsWith: "/", Description: "A path without dot segments and escapes, or a prefix that ends in /*."}},
			{"methods": {Type: "set", Default: methods, Elements: &field{Type: "string", OneOf: methods}, Description: "The methods that are exempt."}},
			{"hosts": textList(maxHosts, "Hosts in lower case, without a port; empty: any.")},
			{"sources": textList(maxSources, "CIDRs of the TCP peer; empty: any.")},
		}}}},
		{"replay": {Type: "record", Required: true, Description: "How a second request with the same evidence is recognised.", Fields: []named{
			{"store": choice(storeMemory, stores, "memory: of this Kong node. redis: of all nodes that share a server. off: replays are not looked for.")},
			{"capacity": number(defaultCapacity, capacityRange, "Nonces that the store of this Kong node holds; all configurations share it, the largest value counts.")},
			{"redis": {Type: "record", Required: false, Description: "The shared store, a Redis or Valkey server, for store redis.", Fields: redisFields()}},
		}}},
		{"deny_status": refusal()},
		{"log": choice(string(logDenied), logScopes, "Which decisions are logged; mistakes of the gate itself always are.")},
	}
}

// dump describes the plugin called name under Kong's prefix. The name of an
// executable, its socket and its plugin are one and the same to Kong's PDKs.
func dump(name, prefix string) serverDump {
	return serverDump{
		Protocol:   "ProtoBuf:1",
		SocketPath: path.Join(prefix, name+".socket"),
		Plugins: []pluginDump{{
			Name:     name,
			Phases:   []string{phaseAccess},
			Version:  Version,
			Priority: Priority,
			Schema: schema{Name: name, Fields: []named{
				// Above the priority of authentication no consumer is known yet:
				// a gate for one consumer would never run.
				{"consumer": {Type: "foreign", Reference: "consumers", Eq: json.RawMessage("null"),
					Description: "The gate runs before authentication, so it cannot be for one consumer."}},
				{"config": {Type: "record", Required: true, Fields: configFields()}},
			}},
		}},
	}
}

// write writes the dump as JSON.
func (d serverDump) write(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(d)
}

// executableName is the name of the socket, without its suffix.
func executableName() (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the own executable: %w", err)
	}
	return path.Base(exe), nil
}
