package plan

// The container definitions, and what takes the place of the Wallarm module
// where the node's is run.

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
)

// Containers are the containers of the only task definition, by name, decoded
// into the ECS API's own types with unknown fields refused.
func Containers(resources []Resource) (map[string]types.ContainerDefinition, error) {
	task, err := Only(resources, "aws_ecs_task_definition")
	if err != nil {
		return nil, err
	}
	text, _ := task.Values["container_definitions"].(string)
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	var list []types.ContainerDefinition
	if err := d.Decode(&list); err != nil {
		return nil, fmt.Errorf("the container definitions do not fit the ECS API: %w", err)
	}
	out := map[string]types.ContainerDefinition{}
	for _, c := range list {
		out[*c.Name] = c
	}
	if len(out) != 2 || len(list) != 2 {
		return nil, fmt.Errorf("%d containers, want node and attester", len(list))
	}
	return out, nil
}

// Environment is the environment of a container, without its secrets.
func Environment(c types.ContainerDefinition) map[string]string {
	env := map[string]string{}
	for _, e := range c.Environment {
		env[*e.Name] = *e.Value
	}
	return env
}

// ModSecurity is where Debian puts the nginx module that the OWASP CRS stand-in
// needs.
const ModSecurity = "/usr/lib/nginx/modules/ngx_http_modsecurity_module.so"

// StandIn writes the OWASP CRS stand-in's rules into dir and returns the two
// files that take the place of gate/wallarm.conf and gate/log.conf. It stops
// attacks in mode block.
func StandIn(root, dir, mode, application string) (wallarm, log []byte, err error) {
	read := func(name string) string {
		b, e := os.ReadFile(filepath.Join(root, "edge/node/testdata", name))
		if e != nil {
			err = e
		}
		return string(b)
	}
	crs, standIn, log := read("crs.conf.tftpl"), read("standin.conf.tftpl"), []byte(read("standin_log.conf"))
	if err != nil {
		return nil, nil, err
	}
	// The templates' only condition is the mode.
	engine := "DetectionOnly"
	if mode == "block" {
		engine = "On"
	}
	crs = strings.NewReplacer(`%{ if mode == "block" }On%{ else }DetectionOnly%{ endif }`, engine, "${dir}", dir).Replace(crs)
	rules := filepath.Join(dir, "crs.conf")
	if err := os.WriteFile(rules, []byte(crs), 0o644); err != nil {
		return nil, nil, err
	}
	standIn = strings.NewReplacer("${rules}", rules, "${mode}", mode, "${application}", application).Replace(standIn)
	return []byte(standIn), log, nil
}
