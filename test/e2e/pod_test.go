package e2e

// The pod: what the chart rendered, its volumes and images as folders. The
// chart's own tests decode every object strictly; here it is run.

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

type container struct {
	Name, Image   string
	Command, Args []string
	Env           []struct {
		Name, Value string
		ValueFrom   struct {
			SecretKeyRef struct{ Name, Key string } `yaml:"secretKeyRef"`
		} `yaml:"valueFrom"`
	}
	Ports []struct {
		Name          string
		ContainerPort int `yaml:"containerPort"`
	}
	VolumeMounts []struct {
		Name      string
		MountPath string `yaml:"mountPath"`
	} `yaml:"volumeMounts"`
	ReadinessProbe struct {
		HTTPGet struct{ Path, Port string } `yaml:"httpGet"`
	} `yaml:"readinessProbe"`
}

// manifest is the part of an object that a running pod is made from.
type manifest struct {
	Kind     string
	Metadata struct {
		Name        string
		Annotations map[string]string
	}
	Data       map[string]string
	StringData map[string]string `yaml:"stringData"`
	Spec       struct {
		Ports []struct {
			Port       int
			TargetPort string `yaml:"targetPort"`
		}
		Template struct {
			Spec struct {
				InitContainers []container `yaml:"initContainers"`
				Containers     []container
				Volumes        []struct {
					Name      string
					ConfigMap struct{ Name string } `yaml:"configMap"`
					Secret    struct {
						SecretName string `yaml:"secretName"`
						Items      []struct{ Key, Path string }
					}
				}
			}
		}
	}
}

// pod is the chart's pod, laid out in a folder.
type pod struct {
	dir  string
	net  network
	kong container
	init []container
	port map[int]string // of the Service: the address that it leads to
	bin  string         // the plugin, which the images hold
	// Where a container's path is on this machine; with Docker it is there.
	inContainer bool
}

// newPod lays the pod out. Secrets that the chart does not render are in existing.
func newPod(t testing.TB, n network, dir, text, bin string, existing map[string]map[string]string) *pod {
	t.Helper()
	p := &pod{dir: dir, net: n, port: map[int]string{}, bin: bin}
	var deployment, service *manifest
	objects := map[string]map[string]string{}
	for name, data := range existing {
		objects[name] = data
	}
	d := yaml.NewDecoder(strings.NewReader(text))
	for {
		var m manifest
		err := d.Decode(&m)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("the rendered chart: %v", err)
		}
		switch m.Kind {
		case "Deployment":
			deployment = &m
		case "Service":
			service = &m
		case "Secret":
			objects[m.Metadata.Name] = m.StringData
		case "ConfigMap":
			objects[m.Metadata.Name] = m.Data
		}
	}
	if deployment == nil || service == nil || len(deployment.Spec.Template.Spec.Containers) != 1 {
		t.Fatal("the chart rendered no Service, or no Deployment with one container")
	}
	spec := deployment.Spec.Template.Spec
	p.kong, p.init = spec.Containers[0], spec.InitContainers
	for _, v := range spec.Volumes {
		folder := filepath.Join(dir, "v", v.Name)
		if err := os.MkdirAll(folder, 0o777); err != nil {
			t.Fatal(err)
		}
		source := v.ConfigMap.Name + v.Secret.SecretName
		object, ok := objects[source]
		if source != "" && !ok {
			t.Fatalf("volume %s needs %s, which this suite does not have", v.Name, source)
		}
		paths := map[string]string{}
		for key := range object {
			paths[key] = key
		}
		if len(v.Secret.Items) > 0 {
			clear(paths)
		}
		for _, item := range v.Secret.Items {
			paths[item.Key] = item.Path
		}
		for key, to := range paths {
			if err := os.WriteFile(filepath.Join(folder, to), []byte(object[key]), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, port := range service.Spec.Ports {
		p.port[port.Port] = p.address(t, port.TargetPort)
	}
	return p
}

// address is that of one of Kong's named ports.
func (p *pod) address(t testing.TB, name string) string {
	t.Helper()
	for _, port := range p.kong.Ports {
		if port.Name == name || fmt.Sprint(port.ContainerPort) == name {
			return fmt.Sprintf("%s:%d", p.net.pod(), port.ContainerPort)
		}
	}
	t.Fatalf("Kong's container has no port %s", name)
	return ""
}

// path is where a container's absolute path is on this machine: in a volume that
// is mounted there, or in the image; "" when in neither.
func (p *pod) path(c *container, name string) string {
	volume, mount := "", ""
	for _, m := range c.VolumeMounts {
		at := path.Clean(m.MountPath)
		if (name == at || strings.HasPrefix(name, at+"/")) && len(at) > len(mount) {
			volume, mount = m.Name, at
		}
	}
	switch {
	case volume != "":
		return filepath.Join(p.dir, "v", volume, strings.TrimPrefix(name, mount))
	case name == "/wallarm-gate" || name == "/usr/local/bin/wallarm-gate":
		return p.bin
	case name == "/etc/kong/wallarm-gate/evidence.conf":
		here, err := filepath.Abs(filepath.Join(root, "plugin/nginx/evidence.conf"))
		if err != nil {
			return ""
		}
		return here
	}
	return ""
}

var absolute = regexp.MustCompile(`(^|[\s,"])(/[A-Za-z0-9._/-]+)`)

// here is a text of the container with its paths and addresses led to this system.
func (p *pod) here(c *container, text string) string {
	if !p.inContainer {
		text = absolute.ReplaceAllStringFunc(text, func(s string) string {
			i := strings.Index(s, "/")
			if at := p.path(c, s[i:]); at != "" {
				return s[:i] + at
			}
			return s
		})
	}
	return p.net.inPod().Replace(text)
}

// environment is Kong's, led to this system.
func (p *pod) environment(t testing.TB, existing map[string]map[string]string) map[string]string {
	t.Helper()
	env := map[string]string{}
	for _, e := range p.kong.Env {
		ref := e.ValueFrom.SecretKeyRef
		if ref.Name != "" {
			value, ok := existing[ref.Name][ref.Key]
			if !ok {
				t.Fatalf("%s needs the key %s of %s, which this suite does not have", e.Name, ref.Key, ref.Name)
			}
			env[e.Name] = value
			continue
		}
		env[e.Name] = p.here(&p.kong, e.Value)
	}
	return env
}

// prepare runs the init containers.
func (p *pod) prepare(t testing.TB) {
	t.Helper()
	for _, c := range p.init {
		var args []string
		for _, a := range slices.Concat(c.Command, c.Args) {
			args = append(args, p.here(&c, a))
		}
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("init container %s: %v: %s", c.Name, err, out)
		}
	}
}
