// Package awsschema is the schema stand-in: it answers Terraform's questions about
// hashicorp/aws from the published schema of that provider, so that a configuration can be
// validated, planned and wired on a machine that reaches neither a registry nor AWS.
//
// It proves that a configuration fits the schema, keeps the rules listed in rules.go, plans
// and wires. It makes no AWS call and says nothing about AWS itself: no defaults, no drift,
// no permissions, no waiting.
package awsschema

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/hashicorp/terraform-plugin-go/tfprotov5"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
	"github.com/zclconf/go-cty/cty"
	ctyjson "github.com/zclconf/go-cty/cty/json"
)

// Version is the version of hashicorp/aws whose schema is served.
const Version = "6.25.0"

//go:embed schema-6.25.0.json.gz
var compressed []byte

// maxSchema bounds the decompressed schema.
const maxSchema = 16 << 20

// Schema is what `terraform providers schema -json` prints for one provider, and the
// attributes whose change replaces a resource.
type Schema struct {
	Provider  *object             `json:"provider"`
	Resources map[string]*object  `json:"resource_schemas"`
	Data      map[string]*object  `json:"data_source_schemas"`
	ForceNew  map[string][]string `json:"force_new"`
}

type object struct {
	Version int64 `json:"version"`
	Block   block `json:"block"`
}

type block struct {
	Attributes map[string]*attribute   `json:"attributes"`
	BlockTypes map[string]*nestedBlock `json:"block_types"`
}

type nestedBlock struct {
	Nesting string `json:"nesting_mode"` // list, set or single
	Block   block  `json:"block"`
	Min     int64  `json:"min_items"`
	Max     int64  `json:"max_items"`
}

type attribute struct {
	Type      typeOf `json:"type"`
	Required  bool   `json:"required"`
	Optional  bool   `json:"optional"`
	Computed  bool   `json:"computed"`
	Sensitive bool   `json:"sensitive"`
	WriteOnly bool   `json:"write_only"`
}

// typeOf is a cty type in its JSON form.
type typeOf struct{ cty.Type }

func (t *typeOf) UnmarshalJSON(b []byte) (err error) {
	t.Type, err = ctyjson.UnmarshalType(b)
	return err
}

// Load reads the embedded schema.
func Load() (*Schema, error) {
	z, err := gzip.NewReader(bytes.NewReader(compressed))
	if err != nil {
		return nil, fmt.Errorf("schema %s: %w", Version, err)
	}
	raw, err := io.ReadAll(io.LimitReader(z, maxSchema))
	if err != nil {
		return nil, fmt.Errorf("schema %s: %w", Version, err)
	}
	s := &Schema{}
	if err := json.Unmarshal(raw, s); err != nil {
		return nil, fmt.Errorf("schema %s: %w", Version, err)
	}
	if s.Provider == nil || len(s.Resources) == 0 {
		return nil, fmt.Errorf("schema %s: no provider or no resources", Version)
	}
	// The bindings do not tell which lookup arguments of a data source are answered as well;
	// in the provider nearly all are.
	for _, o := range s.Data {
		for _, a := range o.Block.Attributes {
			a.Computed = a.Computed || a.Optional
		}
	}
	return s, nil
}

// value is the type of a whole block's value.
func (b *block) value() cty.Type {
	attrs := map[string]cty.Type{}
	for name, a := range b.Attributes {
		attrs[name] = a.Type.Type
	}
	for name, n := range b.BlockTypes {
		t := n.Block.value()
		switch n.Nesting {
		case "list":
			t = cty.List(t)
		case "set":
			t = cty.Set(t)
		}
		attrs[name] = t
	}
	return cty.Object(attrs)
}

// wire is the block as the plugin protocol states it.
func (b *block) wire() *tfprotov5.SchemaBlock {
	w := &tfprotov5.SchemaBlock{}
	for _, name := range sorted(b.Attributes) {
		a := b.Attributes[name]
		w.Attributes = append(w.Attributes, &tfprotov5.SchemaAttribute{
			Name: name, Type: wireType(a.Type.Type),
			Required: a.Required, Optional: a.Optional, Computed: a.Computed,
			Sensitive: a.Sensitive, WriteOnly: a.WriteOnly,
		})
	}
	nesting := map[string]tfprotov5.SchemaNestedBlockNestingMode{
		"list":   tfprotov5.SchemaNestedBlockNestingModeList,
		"set":    tfprotov5.SchemaNestedBlockNestingModeSet,
		"single": tfprotov5.SchemaNestedBlockNestingModeSingle,
	}
	for _, name := range sorted(b.BlockTypes) {
		n := b.BlockTypes[name]
		w.BlockTypes = append(w.BlockTypes, &tfprotov5.SchemaNestedBlock{
			TypeName: name, Block: n.Block.wire(), Nesting: nesting[n.Nesting],
			MinItems: n.Min, MaxItems: n.Max,
		})
	}
	return w
}

func wireType(t cty.Type) tftypes.Type {
	switch {
	case t == cty.String:
		return tftypes.String
	case t == cty.Number:
		return tftypes.Number
	case t == cty.Bool:
		return tftypes.Bool
	case t.IsListType():
		return tftypes.List{ElementType: wireType(t.ElementType())}
	case t.IsSetType():
		return tftypes.Set{ElementType: wireType(t.ElementType())}
	case t.IsMapType():
		return tftypes.Map{ElementType: wireType(t.ElementType())}
	case t.IsObjectType():
		attrs := map[string]tftypes.Type{}
		for name, a := range t.AttributeTypes() {
			attrs[name] = wireType(a)
		}
		return tftypes.Object{AttributeTypes: attrs}
	}
	return tftypes.DynamicPseudoType
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
